"""What an inspector signs: how many defective parts pass, how many good ones are rejected, and what was overlooked.

Called by ``vqc.evaluation.evaluate`` and ``vqc.evaluation.operating_point``; calls ``vqc.evaluation.matching``. Pure
functions of a split and the detections on it. A part is one image. It is *rejected* when a detection of any class
reaches that class's threshold, wherever its box lies, and *passes* otherwise. *Escape*: a defective part passes.
*Overkill*: a good part is rejected. An image with nothing but crowd regions is neither, and is counted as unclear.
Figures of boxes count a defect as found by a detection of its own class at IoU 0.5 or more
(``vqc.evaluation.matching``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vqc.config import Record
from vqc.data.dataset import Split
from vqc.evaluation.intervals import Rate, rate
from vqc.evaluation.matching import ALONE, IGNORED, match, paired
from vqc.inference.detections import Detections

__all__ = [
    "FoundAt",
    "Froc",
    "PerImage",
    "Recall",
    "TradeOff",
    "class_scores",
    "confusion",
    "froc",
    "kinds",
    "per_image",
    "recall_by_class",
    "recall_by_size",
    "terciles_px2",
    "trade_off",
]

IOU = 0.5
COCO_EDGES_PX2 = (32.0**2, 96.0**2)  # small, medium and large objects, as COCO divides them
DEFECTIVE_IMAGES, GOOD_IMAGES = "defective images", "good images"

Thresholds = Mapping[int, float]  # label in 1..C -> lowest score that rejects


class PerImage(Record):
    """Verdicts on the parts of a split at one operating point."""

    escape: Rate = Field(description="defective images that pass, of all defective ones")
    overkill: Rate = Field(description="good images that are rejected, of all good ones")
    beside: int = Field(ge=0, description="defective images rejected only by detections that overlap no defect")
    unclear: int = Field(ge=0, description="images with nothing but crowd regions: in neither rate")


class TradeOff(Record):
    """Escapes and overkill for one threshold of all classes, over every threshold at which either changes.

    The lists are parallel, thresholds ascend. Above the last threshold every part passes.
    """

    thresholds: tuple[float, ...]
    escaped: tuple[int, ...]
    overkilled: tuple[int, ...]
    defective: int
    good: int


class FoundAt(Record):
    """One point of the FROC."""

    threshold: float
    sensitivity: float = Field(ge=0, le=1, description="share of the defects that are found")
    false_per_image: float = Field(ge=0, description="detections that found nothing, per image, good or not")


class Froc(Record):
    """Sensitivity against false alarms per image (Bunch et al., 1977), the same threshold for all classes."""

    points: tuple[FoundAt, ...] = Field(description="by falling threshold, one at each step up")
    reason: str | None = Field(None, description="why there are no points")


class Recall(Record):
    """Defects of one kind that are found at the operating point."""

    name: str
    low_px2: float | None = Field(None, description="areas from this")
    high_px2: float | None = Field(None, description="areas below this; None: no upper end")
    found: Rate


def class_scores(split: Split, detections: Sequence[Detections]) -> NDArray[np.float64]:
    """Best score [N, C] of each class on each image of the split; ``-inf`` where nothing of a class was found."""
    best = np.full((len(split.images), len(split.categories)), -np.inf)
    for row, (_, found) in zip(best, paired(split, detections), strict=True):
        np.maximum.at(row, found.labels - 1, found.scores.astype(np.float64))
    return best


def kinds(split: Split) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which images [N] are defective, and which are good; an image with nothing but crowd regions is neither."""
    defective = np.array([record.defective for record in split.images], bool)
    good = np.array([len(record.boxes) == 0 for record in split.images], bool)
    return defective, good


def per_image(split: Split, detections: Sequence[Detections], *, thresholds: Thresholds) -> PerImage:
    """Escape and overkill at the thresholds, each with its interval."""
    rejected = np.array([len(found.reaching(thresholds)) > 0 for _, found in paired(split, detections)], bool)
    defective, good = kinds(split)
    beside = 0
    for record, found in paired(split, detections):
        kept = found.reaching(thresholds)
        touches = match(record, kept, iou=0.0, same_class=False).truth != ALONE
        beside += record.defective and len(kept.scores) > 0 and not touches.any()
    return PerImage(
        escape=rate(int((defective & ~rejected).sum()), int(defective.sum()), of=DEFECTIVE_IMAGES),
        overkill=rate(int((good & rejected).sum()), int(good.sum()), of=GOOD_IMAGES),
        beside=beside,
        unclear=int((~defective & ~good).sum()),
    )


def trade_off(split: Split, detections: Sequence[Detections]) -> TradeOff:
    """The whole curve: at each threshold, how many defective parts pass and how many good ones are rejected."""
    worst = class_scores(split, detections).max(axis=1, initial=-np.inf)
    defective, good = kinds(split)
    known = worst[defective | good]
    thresholds = np.unique(known[np.isfinite(known)])
    escaped = np.searchsorted(np.sort(worst[defective]), thresholds, side="left")
    passed = np.searchsorted(np.sort(worst[good]), thresholds, side="left")
    return TradeOff(
        thresholds=tuple(thresholds.tolist()),
        escaped=tuple(escaped.tolist()),
        overkilled=tuple((good.sum() - passed).tolist()),
        defective=int(defective.sum()),
        good=int(good.sum()),
    )


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
        FoundAt(threshold=score[k], sensitivity=min(1.0, sensitivity[k]), false_per_image=false[k]) for k in steps
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
        hit = truth >= 0
        np.add.at(table, (record.labels[truth[hit]] - 1, kept.labels[hit] - 1), 1)
        alone = kept.labels[truth == ALONE] - 1
        np.add.at(table, (np.full_like(alone, nothing), alone), 1)
        missed = ~record.crowd
        missed[truth[hit]] = False
        gone = record.labels[missed] - 1
        np.add.at(table, (gone, np.full_like(gone, nothing)), 1)
    return table


def recall_by_class(split: Split, detections: Sequence[Detections], *, thresholds: Thresholds) -> tuple[Recall, ...]:
    """How many defects of each class are found at the thresholds, in the order of the categories."""
    labels, _, hit = _defects(split, detections, thresholds)
    return tuple(
        Recall(name=category.name, found=_share(hit[labels == label], f"defects '{category.name}'"))
        for label, category in enumerate(split.categories, start=1)
    )


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
    _, areas, hit = _defects(split, detections, thresholds)
    band = np.searchsorted(np.array(edges_px2), areas, side="right")
    lows, highs = (0.0, *edges_px2), (*edges_px2, None)
    return tuple(
        Recall(name=name, low_px2=lows[k], high_px2=highs[k], found=_share(hit[band == k], f"{name} defects"))
        for k, name in enumerate(("small", "medium", "large"))
    )


def terciles_px2(split: Split) -> tuple[float, float] | None:
    """Areas that divide the split's defects into three equal parts; None where that cannot be done."""
    areas = np.concatenate([np.zeros(0), *(record.areas[~record.crowd] for record in split.images)])
    if len(areas) < 3:
        return None
    low, high = (float(edge) for edge in np.quantile(areas, (1 / 3, 2 / 3)))
    return (low, high) if low < high else None


def _share(hit: NDArray[np.bool_], of: str) -> Rate:
    return rate(int(hit.sum()), len(hit), of=of)


def _defects(
    split: Split, detections: Sequence[Detections], thresholds: Thresholds
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Label, area in px2 and whether it is found, of every defect of the split."""
    labels, areas, hits = [np.zeros(0, np.int64)], [np.zeros(0)], [np.zeros(0, bool)]
    for record, here in paired(split, detections):
        truth = match(record, here.reaching(thresholds), iou=IOU).truth
        hit = np.isin(np.arange(len(record.labels)), truth)
        labels.append(record.labels[~record.crowd])
        areas.append(record.areas[~record.crowd].astype(np.float64))
        hits.append(hit[~record.crowd])
    return np.concatenate(labels), np.concatenate(areas), np.concatenate(hits)
