"""Detections on the views of a photograph -> detections on the photograph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vqc.data.tiles.views import View, inner_borders
from vqc.inference.detections import Detections

MOST_DETECTIONS = 100  # on a photograph, as COCO counts them
MOST_CANDIDATES = 1000  # the best of all views together that are compared with each other
SAME_IOU = 0.5  # of two boxes of one class from here on, one is dropped
SAME_SHARE = 0.7  # a box is dropped too if so much of it lies in another one: a part of a defect that a border cut
BORDER_PX = 2.0  # a box that ends so near to a border which cuts the photograph may be a part


def merge_views(found: Sequence[tuple[View, Detections]], *, image_id: int, width: int, height: int) -> Detections:
    """Merge what was found on the views of one photograph, in pixels at the detector's input.

    Class by class, boxes that no border cuts come first, then by falling score; each drops those after it that it
    overlaps or holds. Neighbouring tiles overlap, so a part at a border has a whole box in the next tile.
    """
    return merge_with_views(found, image_id=image_id, width=width, height=height)[0]


def merge_with_views(
    found: Sequence[tuple[View, Detections]], *, image_id: int, width: int, height: int
) -> tuple[Detections, list[View]]:
    """As ``merge_views``, and the view on which each detection was found."""
    limits = np.array([width, height] * 2, np.float32)
    boxes = [np.clip(one.boxes / np.float32(view.scale) + view.corner, 0, limits) for view, one in found]
    all_of_them = Detections(
        image_id=image_id,
        boxes=np.concatenate(boxes).astype(np.float32),
        scores=np.concatenate([one.scores for _, one in found]),
        labels=np.concatenate([one.labels for _, one in found]),
    )
    views = [view for view, one in found for _ in range(len(one))]
    if len(found) == 1:
        return all_of_them, views
    parts = np.concatenate([
        _at_border(some, inner_borders(view, width, height)) for some, (view, _) in zip(boxes, found, strict=True)
    ])  # fmt: skip
    kept = _kept(all_of_them, parts)
    kept = kept[np.argsort(-all_of_them.scores[kept], kind="stable")][:MOST_DETECTIONS]
    return all_of_them[kept], [views[at] for at in kept]


def _at_border(boxes: NDArray[np.float32], borders: Sequence[float]) -> NDArray[np.bool_]:
    left, top, right, bottom = borders
    near = BORDER_PX
    return np.asarray(
        (boxes[:, 0] <= left + near) | (boxes[:, 1] <= top + near) | (boxes[:, 2] >= right - near)
        | (boxes[:, 3] >= bottom - near)
    )  # fmt: skip


def _kept(found: Detections, parts: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Positions of the detections that are not dropped."""
    best = np.argsort(-found.scores, kind="stable")[:MOST_CANDIDATES]
    order = best[np.argsort(parts[best], kind="stable")]
    boxes, labels = found.boxes[order], found.labels[order]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    alive = np.ones(len(order), bool)
    for at in range(len(order)):
        if not alive[at]:
            continue
        rest = slice(at + 1, None)
        low, high = np.maximum(boxes[at, :2], boxes[rest, :2]), np.minimum(boxes[at, 2:], boxes[rest, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        same = shared > SAME_IOU * (areas[at] + areas[rest] - shared)
        held = shared > SAME_SHARE * areas[rest]
        alive[rest] &= ~((labels[rest] == labels[at]) & (same | held))
    return np.asarray(order[alive])
