"""Every photograph judged by a detector that has not seen it: cross-validation over groups of photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vqc.config import TrainConfig, load_record, shipped_settings
from vqc.data.dataset import Data, ImageRecord, Split
from vqc.data.splitting.placement import FREE, choose_splits
from vqc.errors import DataError
from vqc.evaluation.evaluate import detections_on
from vqc.evaluation.label_errors import Judged, LabelErrors, label_errors, suspects_in
from vqc.inference.detections import Detections
from vqc.inference.torch_backend import torch_predictor
from vqc.models.pretrained import resolve_weights
from vqc.seeding import stream_seed
from vqc.training.loop import fit

FOLDS = 3
STEPS = 400  # of each detector, as far as the bounds on its epochs allow
LEAST_EPOCHS, MOST_EPOCHS = 3, 40
SCORE_FLOOR = 0.02  # below the detector's own: a faint detection says more of a box than none

OnFoldStep: TypeAlias = Callable[[int, int], None]


def fold_config(data: Data, *, image_size: tuple[int, int] | None = None) -> TrainConfig:
    """The light detector, trained briefly on a part of the data, with the weights that it starts from decided.

    Args:
        image_size: height and width in pixels of its input; None: the shipped settings'.
    """
    shipped = load_record(TrainConfig, shipped_settings("train_config_cpu.json"))
    images = sum(len(split.images) for split in data.splits) * (FOLDS - 1) // FOLDS
    epochs = round(STEPS / shipped.steps_per_epoch(max(1, images)))
    changes = {
        "image_size": image_size or shipped.image_size,
        "num_epochs": min(max(epochs, LEAST_EPOCHS), MOST_EPOCHS),
        "score_floor": SCORE_FLOOR,
    }
    return resolve_weights(shipped.model_copy(update=changes))[0]


def errors_by_folds(
    data: Data, config: TrainConfig, *, gpu: int | None = None, on_step: OnFoldStep = lambda step, steps: None
) -> LabelErrors:
    """What the folds' detectors say of all splits; arguments and errors as for ``fold_detections``."""
    judged = held_out_detections(data, config, gpu=gpu, on_step=on_step)
    height, width = config.image_size
    judge = (
        f"{FOLDS} detectors ({config.model}, {height} x {width} px, {config.num_epochs} epochs), each trained without "
        "the parts that it judges: no photograph was judged by a detector that had seen it."
    )
    return label_errors(data, judged, judge=judge, suspects=suspects_in(judged))


def held_out_detections(
    data: Data, config: TrainConfig, *, gpu: int | None = None, on_step: OnFoldStep = lambda step, steps: None
) -> list[Judged]:
    """What is found on each split; arguments and errors as for ``fold_detections``."""
    found = dict(chain.from_iterable(some.items() for some in fold_detections(data, config, gpu=gpu, on_step=on_step)))
    positions = iter(range(len(found)))
    return [(split, [found[next(positions)] for _ in split.images]) for split in data.splits]


def fold_detections(
    data: Data, config: TrainConfig, *, gpu: int | None = None, on_step: OnFoldStep = lambda step, steps: None
) -> Iterator[dict[int, Detections]]:
    """For each fold, the position of its images among those of all splits, and what a detector finds on them.

    The scores are raw. The detector was trained without these images and all others of their groups.

    Args:
        on_step: called after each optimiser step with the steps that are done and those of all detectors.

    Raises:
        DataError: fewer parts with defects than folds.
        InfeasibleError: as ``vqc.training.loop.fit``.
    """
    images = [record for split in data.splits for record in split.images]
    numbered = [replace(record, image_id=number) for number, record in enumerate(images)]  # ids are each split's own
    folds = _folds(data, numbered, seed=config.seed)
    for fold in range(FOLDS):
        rest = [record for record in numbered if folds[record.image_id] != fold]
        held = [record for record in numbered if folds[record.image_id] == fold]

        def step_of_all(step: int, steps: int, fold: int = fold) -> None:
            on_step(fold * steps + step, FOLDS * steps)

        found = _found(data, rest, held, config, gpu=gpu, on_step=step_of_all)
        yield {one.image_id: replace(one, image_id=images[one.image_id].image_id) for one in found}


def _folds(data: Data, images: Sequence[ImageRecord], *, seed: int) -> NDArray[np.int64]:
    """The fold of each image, 0 to ``FOLDS`` - 1: whole groups, equal shares of images, defects and categories."""
    groups, member = np.unique([record.group for record in images], return_inverse=True)
    counts = np.zeros((len(groups), 2 + len(data.categories)))
    for record, group in zip(images, member, strict=True):
        boxes = np.bincount(record.labels[~record.crowd] - 1, minlength=len(data.categories))
        counts[group] += [1, record.defective, *boxes]
    free = np.full(len(groups), FREE)
    rng = np.random.default_rng(stream_seed(seed, "folds"))
    folds = choose_splits(counts, [1 / FOLDS] * FOLDS, fixed=free, rng=rng)
    defective = len(set(folds[counts[:, 1] > 0].tolist()))
    if defective < FOLDS:
        raise DataError(
            f"{data.root}: defects are on the photographs of {np.count_nonzero(counts[:, 1])} parts, expected at least "
            f"{FOLDS}: each detector is trained without the parts that it judges"
        )
    return np.asarray(folds[member])


def _found(
    data: Data,
    rest: Sequence[ImageRecord],
    held: Sequence[ImageRecord],
    config: TrainConfig,
    *,
    gpu: int | None,
    on_step: OnFoldStep,
) -> list[Detections]:
    """What a detector that was trained on ``rest`` finds on ``held``."""
    train, judged = (
        Split(name=name, categories=data.categories, images=tuple(some))
        for name, some in (("train", rest), ("val", held))
    )
    # Only its last epoch counts, so one photograph is enough for the scores after each.
    brief = replace(data, train=train, val=replace(judged, images=judged.images[:1]), test=None)
    with TemporaryDirectory(prefix="vqc-fold-", ignore_cleanup_errors=True) as cache:  # Windows keeps mapped files
        *_, last = fit(config, brief, cache=Path(cache), gpu=gpu, on_step=on_step)
    predictor = torch_predictor(last.state.evaluated, last.state.info)
    return detections_on(predictor, replace(brief, val=judged), "val")
