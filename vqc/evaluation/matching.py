"""Which detection found which object: greedy, best score first, one to one.

Boxes are xyxy pixels. The rule is COCO's: in order of falling score, each detection takes the object that it overlaps
most among those that are not yet taken, if the overlap reaches the threshold. So a detection never changes the match of
one with a higher score.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqc.boxes import iou as box_iou
from vqc.boxes import share_inside
from vqc.data.dataset import ImageRecord, Split
from vqc.inference.detections import Detections

ALONE, IGNORED = -1, -2


@dataclass(frozen=True, kw_only=True, eq=False)
class Match:
    """The matches of the ``m`` detections of one image, in their order."""

    truth: NDArray[np.int64]  # [m], position among the image's boxes; ``ALONE``: found nothing; ``IGNORED``: in a crowd
    iou: NDArray[np.float64]  # [m] in 0..1, with that object; 0 where there is none


def match(record: ImageRecord, found: Detections, *, iou: float, same_class: bool = True) -> Match:
    """Match the detections of one image with its objects.

    A detection without an object that lies in a crowd region (the share of its own area, as COCO has it) is neither
    right nor wrong.

    Args:
        iou: lowest overlap of a match; 0 takes any overlap.
        same_class: whether only objects of the detection's own class count.
    """
    overlap, inside = box_iou(found.boxes, record.boxes), share_inside(found.boxes, record.boxes)
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
        yield record, by_id.get(record.image_id, Detections.none(record.image_id))
