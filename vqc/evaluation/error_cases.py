"""The parts that an inspector should look at: the worst misses and the worst false alarms of a split.

Pure functions of a split and the detections on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vqc.config import Record
from vqc.data.dataset import ImageRecord, Split
from vqc.evaluation.matching import ALONE, match, paired
from vqc.evaluation.parts import class_scores, parts_of, rejected
from vqc.inference.detections import Detections

IOU = 0.5
Box = tuple[float, float, float, float]


class Case(Record):
    """One part on which the detector was wrong, and the box that shows it best."""

    kind: Literal["miss", "false alarm"]
    image_id: int
    file_name: str
    box: Box = Field(description="xyxy pixels: the missed defect, or the false alarm")
    category: str
    area_px2: float = Field(ge=0, description="of the missed defect as annotated, or of the false alarm's box")
    score: float | None = Field(None, description="of the detection; of a miss: the best near the defect, None: none")
    verdict_wrong: bool = Field(description="whether the part as a whole was judged wrongly: an escape, or overkill")


def misses(
    split: Split, detections: Sequence[Detections], *, thresholds: Mapping[int, float], most: int
) -> tuple[Case, ...]:
    """The largest missed defect of each part, at most ``most``: parts that escape first, then by size."""
    parts = parts_of(split)
    passes = ~rejected(class_scores(split, detections), thresholds)
    cases = [
        (part, _miss(split, record, found, thresholds, passes=bool(passes[part])))
        for part, (record, found) in zip(parts.of_image, paired(split, detections), strict=True)
    ]
    return _worst(cases, most, badness=lambda case: case.area_px2)


def false_alarms(
    split: Split, detections: Sequence[Detections], *, thresholds: Mapping[int, float], most: int
) -> tuple[Case, ...]:
    """The false alarm with the highest score on each part, at most ``most``: good parts first, then by score."""
    parts = parts_of(split)
    cases = [
        (part, _false_alarm(split, record, found, thresholds, good=bool(parts.good[part])))
        for part, (record, found) in zip(parts.of_image, paired(split, detections), strict=True)
    ]
    return _worst(cases, most, badness=lambda case: case.score or 0.0)


def _worst(cases: list[tuple[int, Case | None]], most: int, *, badness: Callable[[Case], float]) -> tuple[Case, ...]:
    """The worst case of each part, wrong verdicts first."""
    known = [(part, case) for part, case in cases if case is not None]
    known.sort(key=lambda pair: (pair[1].verdict_wrong, badness(pair[1])))
    of_part = dict(known)  # the last of a part stays
    return tuple(sorted(of_part.values(), key=lambda case: (not case.verdict_wrong, -badness(case)))[:most])


def _miss(
    split: Split, record: ImageRecord, found: Detections, thresholds: Mapping[int, float], *, passes: bool
) -> Case | None:
    truth = match(record, found.reaching(thresholds), iou=IOU).truth
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
        verdict_wrong=passes,
    )


def _false_alarm(
    split: Split, record: ImageRecord, found: Detections, thresholds: Mapping[int, float], *, good: bool
) -> Case | None:
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
        verdict_wrong=good,
    )


def _alone(record: ImageRecord, k: int) -> ImageRecord:
    """The image as if it had this one object alone."""
    names = ("boxes", "labels", "areas", "crowd")
    return replace(record, **{name: getattr(record, name)[k : k + 1] for name in names})


def _box(corners: NDArray[np.float32]) -> Box:
    x0, y0, x1, y1 = (float(value) for value in corners)
    return x0, y0, x1, y1
