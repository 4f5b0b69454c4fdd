"""Each photograph is judged by a detector that was trained without the part on it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vqc.config import TrainConfig
from vqc.data.dataset import Data, Split
from vqc.errors import DataError
from vqc.training import folds
from vqc.training.folds import FOLDS, errors_by_folds, fold_config, held_out_detections

BRIEF = TrainConfig(model="fcos_tiny", weights="none", image_size=64, num_epochs=1, batch_size=8, num_workers=0)


def grouped(split: Split, *, size: int) -> Split:
    """Every ``size`` images that follow each other show one part."""
    images = [replace(image, group=f"{split.name} {at // size}") for at, image in enumerate(split.images)]
    return replace(split, images=tuple(images))


def test_no_detector_sees_a_part_that_it_judges(tiny: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    data = replace(tiny, train=grouped(tiny.train, size=2), val=grouped(tiny.val, size=2))
    trained, judged, fit, detections_on = [], [], folds.fit, folds.detections_on

    def note_fit(config: TrainConfig, some: Data, **more: object) -> object:
        trained.append({image.group for image in some.train.images})
        return fit(config, some, **more)  # type: ignore[arg-type]

    def note_detections(predictor: object, some: Data, split: str) -> object:
        judged.append({image.group for image in some.split(split).images})
        return detections_on(predictor, some, split)  # type: ignore[arg-type]

    monkeypatch.setattr(folds, "fit", note_fit)
    monkeypatch.setattr(folds, "detections_on", note_detections)
    steps: list[tuple[int, int]] = []
    found = held_out_detections(data, BRIEF, on_step=lambda *step: steps.append(step))
    everything = {image.group for split in data.splits for image in split.images}
    assert all(
        before | after == everything and not before & after for before, after in zip(trained, judged, strict=True)
    )
    assert len(trained) == FOLDS
    assert [split.name for split, _ in found] == ["train", "val", "test"]
    for split, detections in found:
        assert [one.image_id for one in detections] == [image.image_id for image in split.images]
    assert steps == [(step, 6) for step in range(1, 7)]  # two batches for each detector


def test_the_record_says_what_the_detectors_have_seen(tiny: Data) -> None:
    errors = errors_by_folds(tiny, BRIEF)
    assert "3 detectors (fcos_tiny, 64 x 64 px" in errors.judge
    assert list(errors.ap50) == ["train", "val", "test"]
    assert errors.boxes == 22


def test_too_few_parts_are_told(tiny: Data) -> None:
    data = replace(tiny, train=grouped(tiny.train, size=99), val=grouped(tiny.val, size=99), test=None)
    with pytest.raises(DataError, match="defects are on the photographs of 2 parts, expected at least 3"):
        held_out_detections(data, BRIEF)


@pytest.mark.parametrize(("copies", "epochs"), [(1, 40), (20, 13), (1000, 3)])
def test_many_photographs_are_seen_less_often(tiny: Data, copies: int, epochs: int) -> None:
    data = replace(tiny, train=replace(tiny.train, images=tiny.train.images * copies), test=None)
    config = fold_config(data, image_size=(96, 96))
    assert (config.model, config.num_epochs, config.image_size) == ("fcos_lite0", epochs, (96, 96))
