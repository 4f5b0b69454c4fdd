"""Boxes as arrays: inside the system always xyxy, pixels, float32; conversions and overlaps are here and nowhere else.

An ``xyxy`` box holds the left, top, right and bottom edge, an ``xywh`` box (COCO's files) left, top, width and height.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating[Any]]


def xywh_to_xyxy(boxes: Boxes) -> Boxes:
    """[n, 4] xywh -> [n, 4] xyxy, of the same dtype."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def xyxy_to_xywh(boxes: Boxes) -> Boxes:
    """[n, 4] xyxy -> [n, 4] xywh, of the same dtype."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def areas_px2(boxes: Boxes) -> NDArray[np.float64]:
    """Areas [n] of [n, 4] xyxy boxes."""
    wide = boxes.astype(np.float64)
    return np.asarray((wide[:, 2:] - wide[:, :2]).prod(axis=1))


def iou(boxes: Boxes, others: Boxes) -> NDArray[np.float64]:
    """Intersection over union [m, n] of [m, 4] and [n, 4] xyxy boxes, 0..1; 0 where both have no area."""
    shared = _intersections_px2(boxes, others)
    union = areas_px2(boxes)[:, None] + areas_px2(others)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def share_inside(boxes: Boxes, others: Boxes) -> NDArray[np.float64]:
    """Share [m, n] of each of [m, 4] xyxy boxes that lies inside each of [n, 4] others, 0..1; 0 without an area.

    COCO's overlap of a detection with a crowd region.
    """
    shared = _intersections_px2(boxes, others)
    own = np.broadcast_to(areas_px2(boxes)[:, None], shared.shape)
    return np.divide(shared, own, out=np.zeros_like(shared), where=own > 0)


def _intersections_px2(boxes: Boxes, others: Boxes) -> NDArray[np.float64]:
    ours, theirs = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    sides = np.minimum(ours[..., 2:], theirs[..., 2:]) - np.maximum(ours[..., :2], theirs[..., :2])
    return np.asarray(np.maximum(sides, 0).prod(axis=2))
