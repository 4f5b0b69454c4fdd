"""Which detection found which object: greedy, best score first, one to one.

Called by ``vqc.evaluation.image_metrics`` and ``vqc.evaluation.calibration_fit``. Boxes are xyxy pixels. The rule is
COCO's: each detection in the order of its score takes the object that it overlaps most among those that are not yet
taken, if the overlap reaches the threshold. What scores less never changes what a better one got, so the matches above
a threshold are the first ones of the matches above a lower one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqc.data.dataset import ImageRecord, Split
from vqc.evaluation.coco_metrics import Detections

__all__ = ["ALONE", "IGNORED", "Match", "match", "paired", "reaching"]

ALONE, IGNORED = -1, -2


@dataclass(frozen=True, kw_only=True, eq=False)
class Match:
    """What became of the ``m`` detections of one image, in their order.

    Attributes:
        truth: int64 [m], position among the image's boxes; ``ALONE``: it found nothing; ``IGNORED``: in a crowd.
        iou: float64 [m] in 0..1, with that object; 0 where there is none.
    """

    truth: NDArray[np.int64]
    iou: NDArray[np.float64]


def match(record: ImageRecord, found: Detections, *, iou: float, same_class: bool = True) -> Match:
    """Match the detections of one image with its objects.

    A detection without an object that lies in a crowd region (the share of its own area, as COCO has it) is neither
    right nor wrong.

    Args:
        iou: lowest overlap of a match; 0 takes any overlap.
        same_class: whether only objects of the detection's own class count.
    """
    overlap, inside = _overlaps(found.boxes, record.boxes)
    fits = found.labels[:, None] == record.labels[None, :] if same_class else np.ones(overlap.shape, bool)
    reaches = fits & ~record.crowd & (overlap >= iou) & (overlap > 0)
    in_crowd = np.asarray((fits & record.crowd & (inside >= iou) & (inside > 0)).any(axis=1))
    truth = np.full(len(found.scores), ALONE, np.int64)
    for k in np.argsort(-found.scores, kind="stable"):
        if reaches[k].any():
            truth[k] = np.where(reaches[k], overlap[k], -1.0).argmax()
            reaches[:, truth[k]] = False
        elif in_crowd[k]:
            truth[k] = IGNORED
    rows = np.flatnonzero(truth >= 0)
    best = np.zeros(len(truth))
    best[rows] = overlap[rows, truth[rows]]
    return Match(truth=truth, iou=best)


def paired(split: Split, detections: Iterable[Detections]) -> Iterator[tuple[ImageRecord, Detections]]:
    """Every image of the split, in its order, with what was found on it; nothing where it is not among them."""
    by_id = {found.image_id: found for found in detections}
    for record in split.images:
        yield record, by_id.get(record.image_id, _nothing(record.image_id))


def reaching(found: Detections, thresholds: Mapping[int, float]) -> Detections:
    """The detections that reach their class's threshold.

    Args:
        thresholds: label in 1..C -> lowest score that counts.
    """
    limits = np.array([thresholds[int(label)] for label in found.labels], np.float64)
    kept = found.scores.astype(np.float64) >= limits
    return Detections(
        image_id=found.image_id, boxes=found.boxes[kept], scores=found.scores[kept], labels=found.labels[kept]
    )


def _nothing(image_id: int) -> Detections:
    boxes, scores, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
    return Detections(image_id=image_id, boxes=boxes, scores=scores, labels=labels)


def _overlaps(
    boxes: NDArray[np.float32], others: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """IoU [m, n] of two lists of boxes, and the share of each of the first that lies inside each of the second."""
    ours, theirs = boxes.astype(np.float64), others.astype(np.float64)
    corner = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    sides = np.clip(np.minimum(ours[:, None, 2:], theirs[None, :, 2:]) - corner, 0, None)
    shared = sides.prod(axis=2)
    area, other_area = _area_px2(ours)[:, None], _area_px2(theirs)[None, :]
    union = area + other_area - shared
    with np.errstate(invalid="ignore", divide="ignore"):  # boxes without area overlap nothing
        return np.nan_to_num(shared / union), np.nan_to_num(shared / np.broadcast_to(area, shared.shape))


def _area_px2(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
