"""Everything that ``vqc evaluate`` measures of one detector on one split, as one record, in float32 as exported."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vqc.config import Record
from vqc.data.dataset import Data, Split, read_to_fit
from vqc.data.loader import FittedImages, evaluation_batches
from vqc.epoch import Scores
from vqc.errors import DataError, ModelError
from vqc.evaluation.bootstrap import ScoreIntervals, score_intervals
from vqc.evaluation.calibration_fit import CalibrationErrors, errors, samples_of
from vqc.evaluation.coco_metrics import AreaScores, coco_scores, coco_scores_by_area, on_photographs
from vqc.evaluation.detection_metrics import (
    Froc,
    Recall,
    confusion,
    froc,
    recall_by_class,
    recall_by_size,
    terciles_px2,
)
from vqc.evaluation.error_cases import Case, false_alarms, misses
from vqc.evaluation.image_metrics import TradeOff, Verdicts, part_verdicts, trade_off
from vqc.evaluation.intervals import FEWEST, without_intervals
from vqc.evaluation.parts import parts_of
from vqc.files import file_sha256
from vqc.inference.calibration import Calibration
from vqc.inference.detections import Detections
from vqc.inference.latency import LATENCY_IMAGES, Latency, measure_latency
from vqc.inference.model_file import open_predictor
from vqc.inference.predictor import Predictor
from vqc.inference.thresholds import resolve_thresholds

WORST_SHOWN = 8
BATCH_SIZE = 8
PACKAGES = ("vqc-tune", "torch", "torchvision", "pycocotools", "numpy")


class Evaluation(Record):
    """The content of ``metrics/evaluation_results.json``; a figure that cannot be computed is null, with a reason."""

    version: Literal[2] = 2
    model_file: str
    model_sha256: str
    detector: str = Field(description="architecture")
    image_size: tuple[int, int] = Field(description="height and width in pixels that images are fitted to")
    epoch: int = Field(description="of its training")
    data: dict[str, Any]
    split: str
    images: int
    parts: int = Field(description="physical parts on these images: what is resampled, and counted in per_part")
    device: str
    coco: Scores
    coco_intervals: ScoreIntervals
    coco_by_area: dict[str, AreaScores]
    calibrated: bool = Field(description="whether the thresholds are on calibrated scores, which are expected IoUs")
    thresholds: dict[str, float] = Field(description="category -> lowest score that rejects a part")
    threshold_source: str = Field(description="where the thresholds come from, in a sentence")
    per_part: Verdicts
    trade_off: TradeOff
    froc: Froc
    confusion_names: tuple[str, ...] = Field(description="of rows and columns; the last is 'nothing'")
    confusion: tuple[tuple[int, ...], ...] = Field(description="rows: annotated, columns: detected")
    recall_by_class: tuple[Recall, ...]
    recall_by_size: tuple[Recall, ...] = Field(description="COCO's small, medium and large")
    recall_by_tercile: tuple[Recall, ...] = Field(description="thirds of the training defects by area; empty: too few")
    score_errors_raw: CalibrationErrors
    score_errors: CalibrationErrors = Field(description="of the scores as used: calibrated if there is a calibration")
    latency: Latency
    worst_misses: tuple[Case, ...]
    worst_false_alarms: tuple[Case, ...]
    notes: tuple[str, ...] = Field(description="what limits these figures, in sentences")
    versions: dict[str, str]
    created: str
    command: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluated:
    """The record, and what its pictures are drawn from."""

    record: Evaluation
    split: Split
    raw: tuple[Detections, ...]
    detections: tuple[Detections, ...]  # with the scores as used
    thresholds: Mapping[int, float]


def evaluate(
    model_path: Path,
    data: Data,
    *,
    split: str,
    threshold: float | None = None,
    command: str = "",
    on_step: Callable[[str], None] = lambda text: None,
) -> Evaluated:
    """Measure a detector on a split.

    Args:
        model_path: weights or an exported file; the calibration beside them is used if there is one.
        threshold: lowest score that rejects, for all classes; None: the calibration's, else a default.
        command: as typed, without secrets.

    Raises:
        ModelError: the weights or the calibration cannot be used, or know other categories.
        DataError: the split does not exist or is empty.
    """
    judged = data.split(split)
    if not judged.images:
        raise DataError(f"{data.root}: the split '{split}' has no images, expected some to evaluate on")
    predictor = open_predictor(model_path)
    check_categories(model_path, predictor, data)
    calibration = predictor.calibration
    thresholds, source = resolve_thresholds(predictor, given=threshold)
    on_step(f"finding defects on {len(judged.images)} images of {split}")
    raw = detections_on(predictor, data, split)
    on_step("measuring latency")
    pictures = [read_to_fit(record, predictor.decoded_for) for record in judged.images[:LATENCY_IMAGES]]
    latency = measure_latency(predictor, pictures)
    on_step("computing the figures and their intervals")
    found = [predictor.calibrated(one) for one in raw]
    verdicts = part_verdicts(judged, found, thresholds=thresholds)
    parts, samples = len(parts_of(judged).good), samples_of(judged, raw)
    record = Evaluation(
        **_origin(model_path, predictor, data, judged),
        **_figures(judged, raw, found, thresholds, data.train),
        score_errors_raw=errors(samples),
        score_errors=errors(samples if calibration is None else samples.calibrated(calibration.curves)),
        command=command,
        parts=parts,
        per_part=verdicts,
        calibrated=calibration is not None,
        thresholds={name: thresholds[label] for label, (_, name) in enumerate(predictor.categories, start=1)},
        threshold_source=source,
        latency=latency,
        notes=(*_notes(predictor, data, judged), *_rate_notes(parts, len(judged.images), verdicts)),
    )
    if threshold is None and calibration is not None and _chosen_on(judged, data, calibration):
        record = without_intervals(record, "these parts chose the threshold")
    return Evaluated(record=record, split=judged, raw=tuple(raw), detections=tuple(found), thresholds=thresholds)


def detections_on(predictor: Predictor, data: Data, split: str) -> list[Detections]:
    """What the detector finds on the images of a split, with raw scores."""
    images = FittedImages(data, split, size=predictor.image_size, cache=None, tiles=predictor.tiles)
    found: list[tuple[int, Detections]] = []
    for batch in evaluation_batches(images, batch_size=BATCH_SIZE, threads=1):
        fitted = predictor.detect_fitted(batch.images.permute(0, 2, 3, 1).numpy())
        found += zip(batch.indices, fitted, strict=True)
    return on_photographs(images, found)


def check_categories(model_path: Path, predictor: Predictor, data: Data) -> None:
    """Raise ``ModelError`` unless the data has the categories that the detector was trained on."""
    there = tuple((category.id, category.name) for category in data.categories)
    if there != predictor.categories:
        names = [", ".join(f"{id_} '{name}'" for id_, name in some) for some in (predictor.categories, there)]
        raise ModelError(f"{model_path}: finds {names[0]}, but {data.root} has {names[1]}; expected the same")


def _origin(path: Path, predictor: Predictor, data: Data, split: Split) -> dict[str, Any]:
    return {
        "model_file": path.name,
        "model_sha256": file_sha256(path),
        "detector": predictor.architecture,
        "image_size": predictor.image_size,
        "epoch": predictor.epoch,
        "data": data.summary(),
        "split": split.name,
        "images": len(split.images),
        "device": predictor.detect_fitted.device,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _figures(
    split: Split, raw: Sequence[Detections], found: Sequence[Detections], thresholds: Mapping[int, float], train: Split
) -> dict[str, Any]:
    """Figures of boxes. Calibration keeps the order within a class, so it leaves the COCO scores alone."""
    terciles = terciles_px2(train)
    by_tercile = terciles and recall_by_size(split, found, thresholds=thresholds, edges_px2=terciles)
    return {
        "coco": coco_scores(split, raw),
        "coco_intervals": score_intervals(split, raw),
        "coco_by_area": coco_scores_by_area(split, raw),
        "trade_off": trade_off(split, found),
        "froc": froc(split, found),
        "confusion_names": (*(category.name for category in split.categories), "nothing"),
        "confusion": tuple(map(tuple, confusion(split, found, thresholds=thresholds).tolist())),
        "recall_by_class": recall_by_class(split, found, thresholds=thresholds),
        "recall_by_size": recall_by_size(split, found, thresholds=thresholds),
        "recall_by_tercile": by_tercile or (),
        "worst_misses": misses(split, found, thresholds=thresholds, most=WORST_SHOWN),
        "worst_false_alarms": false_alarms(split, found, thresholds=thresholds, most=WORST_SHOWN),
    }


def _chosen_on(split: Split, data: Data, calibration: Calibration) -> bool:
    """Whether the calibration's thresholds were chosen on this split."""
    return split.name == "val" and calibration.data_fingerprint == data.fingerprint


def _notes(predictor: Predictor, data: Data, split: Split) -> Iterator[str]:
    """What limits these figures: data that the detector or its calibration has seen."""
    calibration = predictor.calibration
    if data.fingerprint != predictor.fingerprint:
        yield "The detector was trained on other data: its figures there may differ."
    elif split.name == "train":
        yield "The detector was trained on these images: their figures say nothing about new parts."
    elif split.name == "val":
        yield "The val split chose the epoch, and the configuration if there was a search: its figures are optimistic."
    if calibration is not None and _chosen_on(split, data, calibration):
        yield "The val split also chose the calibration and its threshold."
    if calibration is not None and calibration.data_fingerprint != data.fingerprint:
        yield "The calibration was fitted on other data than this."


def _rate_notes(parts: int, images: int, verdicts: Verdicts) -> Iterator[str]:
    """Why a rate is missing, how parts were counted, and what an escape rate hides."""
    for kind, name, count in (
        ("good", "overkill", verdicts.overkill.total),
        ("defective", "escape", verdicts.escape.total),
    ):
        if count == 0:
            yield f"There are no {kind} parts in this split, so there is no {name} rate."
        elif count < FEWEST:
            yield f"There are only {count} {kind} parts in this split, too few to state the {name} rate."
    if parts < images:
        yield "A part is rejected if any of its views is; rates and intervals count parts, not images."
    if verdicts.beside:
        rejects = verdicts.escape.total - verdicts.escape.count
        yield f"{verdicts.beside} of {rejects} rejected defective parts have no detection on a defect: that is luck."
