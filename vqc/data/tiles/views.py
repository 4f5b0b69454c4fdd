"""Photographs cut into square tiles, so that small defects keep their size at the detector's input.

A *view* is what a detector sees at once: a tile of a photograph, or the whole photograph. Tiles have one side in pixels
of the photograph and overlap by at least ``overlap_px``, so a defect that is no longer than that lies whole in one of
them. Pure functions of sizes and boxes; nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vqc.config import Record
from vqc.data.letterbox import PAD_VALUE, fit_image, fit_scale

FEWEST_OVERLAP_PX = 16
USUAL_LENGTH = 0.95  # the overlap holds the longer side of this share of the defects
KEPT_SHARE, KEPT_PX = 0.5, 8  # of a box that a border cuts: it stays annotated where so much of it is inside
Boxes = NDArray[np.float32]


class TilePlan(Record):
    """How a photograph is cut."""

    tile_px: int = Field(ge=32, description="side of a tile in pixels of the photograph")
    overlap_px: int = Field(ge=0, description="of neighbouring tiles, at least")
    whole: bool = Field(description="whether the whole photograph is looked at too, for defects that fill a tile")


@dataclass(frozen=True, kw_only=True)
class View:
    """A rectangle of a photograph, in its pixels, and how much it is scaled at the detector's input."""

    left: int
    top: int
    width: int
    height: int
    scale: float
    tile: bool = True

    @property
    def corner(self) -> NDArray[np.float32]:
        """Of the rectangle: x, y, x, y."""
        return np.array([self.left, self.top] * 2, np.float32)

    @property
    def box(self) -> NDArray[np.float32]:
        """The rectangle, xyxy."""
        return np.array([self.left, self.top, self.left + self.width, self.top + self.height], np.float32)


def plan_tiles(tile_px: int, sides_px: NDArray[np.float32]) -> TilePlan:
    """The plan for training defects with sides [n, 2] in pixels; nearly all are no longer than the overlap."""
    longer = sides_px.max(axis=1) if len(sides_px) else np.zeros(1)
    overlap_px = max(FEWEST_OVERLAP_PX, int(np.ceil(np.quantile(longer, USUAL_LENGTH))))
    overlap_px = min(overlap_px, tile_px // 2)
    return TilePlan(tile_px=tile_px, overlap_px=overlap_px, whole=bool((longer > tile_px / 2).any()))


def views_of(width: int, height: int, size: tuple[int, int], plan: TilePlan | None) -> list[View]:
    """What a detector of input ``size`` (height, width) sees of a photograph: all of it, or its tiles row by row."""
    whole = View(left=0, top=0, width=width, height=height, scale=fit_scale(width, height, size), tile=False)
    if plan is None:
        return [whole]
    columns, rows = (_starts(side, plan) for side in (width, height))
    tiles = [tile_at(x, y, width, height, size, plan) for y in rows for x in columns]
    return [*tiles, whole] if plan.whole and len(tiles) > 1 else tiles


def decoded_for(size: tuple[int, int], plan: TilePlan | None) -> tuple[int, int] | None:
    """What a photograph is decoded to fit into: the detector's input ``size``; None: tiles need all of its pixels."""
    return size if plan is None else None


def _starts(side_px: int, plan: TilePlan) -> list[int]:
    """Where the tiles along a side start: as few as overlap enough, spread evenly."""
    if side_px <= plan.tile_px:
        return [0]
    count = -(-(side_px - plan.overlap_px) // (plan.tile_px - plan.overlap_px))
    return [at * (side_px - plan.tile_px) // (count - 1) for at in range(count)]


def tile_at(x: int, y: int, width: int, height: int, size: tuple[int, int], plan: TilePlan) -> View:
    # A photograph smaller than a tile keeps the tile's scale, and is padded.
    side = plan.tile_px
    return View(left=x, top=y, width=min(side, width), height=min(side, height), scale=min(size) / side)


def boxes_in_view(boxes: Boxes, view: View) -> tuple[Boxes, NDArray[np.bool_], Boxes]:
    """The boxes [n, 4] xyxy of a photograph as a view shows them.

    Returns:
        The boxes that stay annotated [m, 4], xyxy in pixels at the detector's input, which of the n they are, and the
        rest of those that are cut [k, 4], in the same pixels: neither a defect nor background.
    """
    if not view.tile:
        return boxes * np.float32(view.scale), np.ones(len(boxes), bool), np.zeros((0, 4), np.float32)
    limits = np.array([view.width, view.height] * 2, np.float32)
    clipped = np.clip(boxes - view.corner, 0, limits)
    sides, inside = boxes[:, 2:] - boxes[:, :2], clipped[:, 2:] - clipped[:, :2]
    whole = (inside == sides).all(axis=1)
    enough = (inside.prod(axis=1) >= KEPT_SHARE * sides.prod(axis=1)) & (inside.min(axis=1, initial=np.inf) >= KEPT_PX)
    kept, cut = whole | enough, (inside > 0).all(axis=1)
    scaled = clipped * np.float32(view.scale)
    return scaled[kept], kept, scaled[cut & ~kept]


def view_pixels(image: NDArray[np.uint8], view: View, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The view of a photograph [h, w, 3] at the detector's input [H, W, 3]; what it does not fill is padding.

    The whole photograph is seen as well on an ``image`` that is a reduction of it.
    """
    import cv2

    if not view.tile:
        return fit_image(image, size, original=(view.width, view.height))
    part = image[view.top : view.top + view.height, view.left : view.left + view.width]
    if view.scale != 1:
        sides = max(1, round(view.width * view.scale)), max(1, round(view.height * view.scale))
        part = np.asarray(
            cv2.resize(part, sides, interpolation=cv2.INTER_AREA if view.scale < 1 else cv2.INTER_LINEAR), np.uint8
        )
    fitted = np.full((*size, 3), PAD_VALUE, np.uint8)
    fitted[: part.shape[0], : part.shape[1]] = part
    return fitted


def without(pixels: NDArray[np.uint8], rests: Boxes) -> NDArray[np.uint8]:
    """The pixels [H, W, 3] with the rests of cut boxes [k, 4] painted like padding, in place.

    A loss that leaves out a region would have to be built into each detector; painted, it is no defect to any of them.
    """
    for left, top, right, bottom in ((int(r[0]), int(r[1]), int(np.ceil(r[2])), int(np.ceil(r[3]))) for r in rests):
        pixels[top:bottom, left:right] = PAD_VALUE
    return pixels


def inner_borders(view: View, width: int, height: int) -> Sequence[float]:
    """The view's borders that cut the photograph, xyxy in its pixels; a border on the photograph's edge is infinite."""
    right, bottom = view.left + view.width, view.top + view.height
    return (
        view.left if view.left > 0 else -np.inf,
        view.top if view.top > 0 else -np.inf,
        right if right < width else np.inf,
        bottom if bottom < height else np.inf,
    )
