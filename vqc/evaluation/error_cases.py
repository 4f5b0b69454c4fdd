"""The parts that an inspector should look at: the worst misses and the worst false alarms of a split.

Called by ``vqc.evaluation.evaluate``; calls ``vqc.evaluation.matching``. Pure functions of a split and the detections
on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vqc.config import Record
from vqc.data.dataset import ImageRecord, Split
from vqc.evaluation.matching import ALONE, match, paired
from vqc.inference.detections import Detections

__all__ = ["Case", "false_alarms", "misses"]

IOU = 0.5
Box = tuple[float, float, float, float]


class Case(Record):
    """One image on which the detector was wrong, and the box that says it best."""

    kind: Literal["miss", "false alarm"]
    image_id: int
    file_name: str
    box: Box = Field(description="xyxy pixels: the missed defect, or what was taken for one")
    category: str
    area_px2: float = Field(ge=0, description="of that box's object as annotated, or of the box")
    score: float | None = Field(None, description="of the detection; of a miss: the best near the defect, None: none")
    verdict_wrong: bool = Field(description="whether the part as a whole was judged wrongly: an escape, or overkill")


def misses(
    split: Split, detections: Sequence[Detections], *, thresholds: Mapping[int, float], most: int
) -> tuple[Case, ...]:
    """The largest missed defect of each image, ``most`` of them: on parts that escape first, then by size."""
    cases = [_miss(split, record, found, thresholds) for record, found in paired(split, detections)]
    known = [case for case in cases if case is not None]
    return tuple(sorted(known, key=lambda case: (not case.verdict_wrong, -case.area_px2))[:most])


def false_alarms(
    split: Split, detections: Sequence[Detections], *, thresholds: Mapping[int, float], most: int
) -> tuple[Case, ...]:
    """The surest false alarm of each image, ``most`` of them: on good parts first, then by score."""
    cases = [_false_alarm(split, record, found, thresholds) for record, found in paired(split, detections)]
    known = [case for case in cases if case is not None]
    return tuple(sorted(known, key=lambda case: (not case.verdict_wrong, -(case.score or 0.0)))[:most])


def _miss(split: Split, record: ImageRecord, found: Detections, thresholds: Mapping[int, float]) -> Case | None:
    said = found.reaching(thresholds)
    truth = match(record, said, iou=IOU).truth
    missed = [k for k in np.flatnonzero(~record.crowd) if k not in truth]
    if not missed:
        return None
    worst = max(missed, key=lambda k: float(record.areas[k]))
    near = match(_alone(record, int(worst)), found, iou=IOU, same_class=False).truth >= 0
    return Case(
        kind="miss",
        image_id=record.image_id,
        file_name=record.path.name,
        box=_box(record.boxes[worst]),
        category=split.categories[int(record.labels[worst]) - 1].name,
        area_px2=float(record.areas[worst]),
        score=float(found.scores[near].max()) if near.any() else None,
        verdict_wrong=len(said.scores) == 0,
    )


def _false_alarm(split: Split, record: ImageRecord, found: Detections, thresholds: Mapping[int, float]) -> Case | None:
    kept = found.reaching(thresholds)
    wrong = np.flatnonzero(match(record, kept, iou=IOU, same_class=False).truth == ALONE)
    if not len(wrong):
        return None
    worst = wrong[kept.scores[wrong].argmax()]
    box = _box(kept.boxes[worst])
    return Case(
        kind="false alarm",
        image_id=record.image_id,
        file_name=record.path.name,
        box=box,
        category=split.categories[int(kept.labels[worst]) - 1].name,
        area_px2=max(0.0, (box[2] - box[0]) * (box[3] - box[1])),
        score=float(kept.scores[worst]),
        verdict_wrong=len(record.boxes) == 0,
    )


def _alone(record: ImageRecord, k: int) -> ImageRecord:
    """The image as if it had this one object alone."""
    names = ("boxes", "labels", "areas", "crowd", "annotation_ids")
    return replace(record, **{name: getattr(record, name)[k : k + 1] for name in names})


def _box(corners: NDArray[np.float32]) -> Box:
    x0, y0, x1, y1 = (float(value) for value in corners)
    return x0, y0, x1, y1
