"""Which defects are found: recall by class and size, FROC and the confusion matrix, counted in boxes.

A defect is found by a detection of its own class at IoU 0.5 or more (``vqc.evaluation.matching``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vqc.config import Record
from vqc.data.dataset import ImageRecord, Split
from vqc.evaluation.intervals import Rate, clustered_rate
from vqc.evaluation.matching import IGNORED, match, paired
from vqc.evaluation.parts import parts_of, with_parts
from vqc.inference.detections import Detections

IOU = 0.5
COCO_EDGES_PX2 = (32.0**2, 96.0**2)  # where medium and large objects begin in COCO

Thresholds = Mapping[int, float]  # label in 1..C -> lowest score that rejects


class FrocPoint(Record):
    """One point of the FROC."""

    threshold: float
    sensitivity: float = Field(ge=0, le=1, description="share of the defects that are found")
    false_per_image: float = Field(ge=0, description="detections that found nothing, per image, good or not")


class Froc(Record):
    """Sensitivity against false alarms per image (Bunch et al., 1977), the same threshold for all classes."""

    points: tuple[FrocPoint, ...] = Field(description="by falling threshold, one at each step up")
    reason: str | None = Field(None, description="why there are no points")


class Recall(Record):
    """Defects of one kind that are found at the operating point."""

    name: str
    low_px2: float | None = Field(None, description="areas from this")
    high_px2: float | None = Field(None, description="areas below this; None: no upper end")
    found: Rate


def froc(split: Split, detections: Sequence[Detections]) -> Froc:
    """Sensitivity against false alarms per image, over all thresholds."""
    defects = sum(int((~record.crowd).sum()) for record in split.images)
    if not defects:
        return Froc(points=(), reason="there are no defects to find")
    scores, found = [np.zeros(0)], [np.zeros(0, bool)]
    for record, here in paired(split, detections):
        truth = match(record, here, iou=IOU).truth
        scores.append(here.scores[truth != IGNORED].astype(np.float64))
        found.append((truth >= 0)[truth != IGNORED])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    score, hit = np.concatenate(scores)[order], np.concatenate(found)[order]
    sensitivity, false = hit.cumsum() / defects, (~hit).cumsum() / len(split.images)
    # Detections of one score are reached together; of points with one sensitivity the one with fewest false alarms.
    last = np.flatnonzero(np.append(np.diff(score) < 0, True)) if len(score) else np.zeros(0, np.int64)
    steps = last[np.diff(sensitivity[last], prepend=0.0) > 0]
    points = (
        FrocPoint(threshold=score[k], sensitivity=min(1.0, sensitivity[k]), false_per_image=false[k]) for k in steps
    )
    return Froc(points=tuple(points))


def confusion(split: Split, detections: Sequence[Detections], *, thresholds: Thresholds) -> NDArray[np.int64]:
    """Confusion matrix [C + 1, C + 1] at the thresholds: rows what is there, columns what was said, last is nothing.

    Best score first, each detection takes the object that it overlaps most at IoU 0.5 or more, whatever its class;
    an object that is left over was missed, a detection that is left over is a false alarm.
    """
    nothing = len(split.categories)
    table = np.zeros((nothing + 1, nothing + 1), np.int64)
    for record, here in paired(split, detections):
        kept = here.reaching(thresholds)
        truth = match(record, kept, iou=IOU, same_class=False).truth
        judged = truth != IGNORED
        rows = np.append(record.labels - 1, nothing)[truth[judged]]  # ``ALONE`` is -1: the last, nothing
        np.add.at(table, (rows, kept.labels[judged] - 1), 1)
        missed = np.setdiff1d(np.flatnonzero(~record.crowd), truth)
        table[:, nothing] += np.bincount(record.labels[missed] - 1, minlength=nothing + 1)
    return table


def recall_by_class(split: Split, detections: Sequence[Detections], *, thresholds: Thresholds) -> tuple[Recall, ...]:
    """How many defects of each class are found at the thresholds, in the order of the categories."""
    names = [category.name for category in split.categories]
    kinds = [f"defects '{name}'" for name in names]
    rates = _recalls(split, detections, thresholds, kinds, lambda record: record.labels - 1)
    return tuple(Recall(name=name, found=found) for name, found in zip(names, rates, strict=True))


def recall_by_size(
    split: Split,
    detections: Sequence[Detections],
    *,
    thresholds: Thresholds,
    edges_px2: tuple[float, float] = COCO_EDGES_PX2,
) -> tuple[Recall, ...]:
    """How many small, medium and large defects are found at the thresholds.

    Args:
        edges_px2: areas at which medium and large begin.
    """
    names = ("small", "medium", "large")
    kinds = [f"{name} defects" for name in names]
    rates = _recalls(split, detections, thresholds, kinds,
                     lambda record: np.searchsorted(edges_px2, record.areas, side="right"))  # fmt: skip
    rows = zip(names, (0.0, *edges_px2), (*edges_px2, None), rates, strict=True)
    return tuple(Recall(name=name, low_px2=low, high_px2=high, found=found) for name, low, high, found in rows)


def terciles_px2(split: Split) -> tuple[float, float] | None:
    """Areas that divide the split's defects into three equal groups; None if that is not possible."""
    areas = np.concatenate([np.zeros(0), *(record.areas[~record.crowd] for record in split.images)])
    if len(areas) < 3:
        return None
    low, high = (float(edge) for edge in np.quantile(areas, (1 / 3, 2 / 3)))
    return (low, high) if low < high else None


def _recalls(
    split: Split,
    detections: Sequence[Detections],
    thresholds: Thresholds,
    kinds: Sequence[str],
    kind_of: Callable[[ImageRecord], NDArray[np.int64]],
) -> list[Rate]:
    """The share of the defects of each kind that is found; ``kind_of`` gives the kind of each object of an image."""
    found, total = np.zeros((2, len(kinds), len(parts_of(split).good)), np.int64)
    for part, record, here in with_parts(split, detections):
        truth, kind = match(record, here.reaching(thresholds), iou=IOU).truth, kind_of(record)
        found[:, part] += np.bincount(kind[truth[truth >= 0]], minlength=len(kinds))
        total[:, part] += np.bincount(kind[~record.crowd], minlength=len(kinds))
    return [clustered_rate(found[k], total[k], of=kind) for k, kind in enumerate(kinds)]
