"""The parts that an inspector should look at: the worst misses and the worst false alarms of a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vqc.boxes import areas_px2, iou
from vqc.config import Record
from vqc.data.dataset import ImageRecord, Split
from vqc.evaluation.detection_metrics import IOU
from vqc.evaluation.matching import ALONE, match
from vqc.evaluation.parts import class_scores, parts_of, rejected, with_parts
from vqc.inference.detections import Detections


class Case(Record):
    """One part on which the detector was wrong, and the box that shows it best."""

    kind: Literal["miss", "false alarm"]
    image_id: int
    file_name: str
    box: tuple[float, float, float, float] = Field(description="xyxy pixels: the missed defect, or the false alarm")
    category: str
    area_px2: float = Field(ge=0, description="of the missed defect as annotated, or of the false alarm's box")
    score: float | None = Field(None, description="of the detection; of a miss: the best near the defect, None: none")
    verdict_wrong: bool = Field(description="whether the part as a whole was judged wrongly: an escape, or overkill")


def misses(
    split: Split, detections: Sequence[Detections], *, thresholds: Mapping[int, float], most: int
) -> tuple[Case, ...]:
    """The largest missed defect of each part, at most ``most``: parts that escape first, then by size."""
    passes = ~rejected(class_scores(split, detections), thresholds)
    cases = []
    for part, record, found in with_parts(split, detections):
        truth = match(record, found.reaching(thresholds), iou=IOU).truth
        missed = np.setdiff1d(np.flatnonzero(~record.crowd), truth)
        if len(missed):
            worst = missed[record.areas[missed].argmax()]
            near = found.scores[iou(found.boxes, record.boxes[[worst]])[:, 0] >= IOU]
            case = Case(
                kind="miss",
                **_shown(split, record, record.boxes[worst], record.labels[worst]),
                area_px2=float(record.areas[worst]),
                score=float(near.max()) if len(near) else None,
                verdict_wrong=bool(passes[part]),
            )
            cases.append((part, case))
    return _worst(cases, most, badness=lambda case: case.area_px2)


def false_alarms(
    split: Split, detections: Sequence[Detections], *, thresholds: Mapping[int, float], most: int
) -> tuple[Case, ...]:
    """The false alarm with the highest score on each part, at most ``most``: good parts first, then by score."""
    good = parts_of(split).good
    cases = []
    for part, record, found in with_parts(split, detections):
        kept = found.reaching(thresholds)
        wrong = kept[match(record, kept, iou=IOU, same_class=False).truth == ALONE]
        if len(wrong):
            worst = wrong.scores.argmax()
            case = Case(
                kind="false alarm",
                **_shown(split, record, wrong.boxes[worst], wrong.labels[worst]),
                area_px2=max(0.0, float(areas_px2(wrong.boxes)[worst])),
                score=float(wrong.scores[worst]),
                verdict_wrong=bool(good[part]),
            )
            cases.append((part, case))
    return _worst(cases, most, badness=lambda case: case.score or 0.0)


def _worst(cases: list[tuple[int, Case]], most: int, *, badness: Callable[[Case], float]) -> tuple[Case, ...]:
    """The worst case of each part, wrong verdicts first."""
    of_part = dict(
        sorted(cases, key=lambda pair: (pair[1].verdict_wrong, badness(pair[1])))
    )  # the last of a part stays
    return tuple(sorted(of_part.values(), key=lambda case: (not case.verdict_wrong, -badness(case)))[:most])


def _shown(split: Split, record: ImageRecord, box: NDArray[np.float32], label: np.int64) -> dict[str, Any]:
    return {
        "image_id": record.image_id,
        "file_name": record.path.name,
        "box": tuple(box.tolist()),
        "category": split.categories[label - 1].name,
    }
