"""Tiles: every pixel and every small box lies in one, and the rest of a cut box is not taught as background."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.images import rgb
from vqc.data.letterbox import PAD_VALUE, fit_image
from vqc.data.tiles.views import (
    TilePlan,
    View,
    boxes_in_view,
    inner_borders,
    plan_tiles,
    view_pixels,
    views_of,
    without,
)

SIZE = (64, 64)
SIDES = st.integers(1, 900)


def plan(tile_px: int, overlap_px: int = 16, *, whole: bool = False) -> TilePlan:
    return TilePlan(tile_px=tile_px, overlap_px=overlap_px, whole=whole)


def boxes(*rows: tuple[float, float, float, float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, 4)


@given(width=SIDES, height=SIDES, tile_px=st.integers(32, 400), data=st.data())
def test_every_pixel_and_every_small_box_lies_in_a_tile(
    width: int, height: int, tile_px: int, data: st.DataObject
) -> None:
    overlap_px = data.draw(st.integers(0, tile_px // 2))
    tiles = views_of(width, height, SIZE, plan(tile_px, overlap_px))
    assert len(set(tiles)) == len(tiles)
    seen = np.zeros((height, width), bool)
    for view in tiles:
        assert 0 <= view.left <= view.left + view.width <= width
        assert 0 <= view.top <= view.top + view.height <= height
        assert (view.width, view.height) == (min(tile_px, width), min(tile_px, height))
        assert view.scale == 64 / tile_px
        seen[view.top : view.top + view.height, view.left : view.left + view.width] = True
    assert seen.all()
    sides = [data.draw(st.integers(1, max(1, min(overlap_px, side)))) for side in (width, height)]
    x, y = (data.draw(st.integers(0, side - one)) for side, one in zip((width, height), sides, strict=True))
    box = boxes((x, y, x + sides[0], y + sides[1]))
    if overlap_px:
        assert any((boxes_in_view(box, view)[0] == (box - view.corner) * np.float32(view.scale)).all() for view in tiles
                   if boxes_in_view(box, view)[1].all() and not len(boxes_in_view(box, view)[2]))  # fmt: skip


def test_without_a_plan_the_photograph_is_one_view() -> None:
    (view,) = views_of(200, 100, (96, 128), None)
    assert view == View(left=0, top=0, width=200, height=100, scale=0.64, tile=False)
    pixels = rgb(3, (200, 100))
    assert np.array_equal(view_pixels(pixels, view, (96, 128)), fit_image(pixels, (96, 128)))


def test_a_tile_shows_the_photographs_own_pixels() -> None:
    pixels = rgb(1, (150, 90))
    tiles = views_of(150, 90, SIZE, plan(64))
    assert [(view.left, view.top) for view in tiles] == [(0, 0), (43, 0), (86, 0), (0, 26), (43, 26), (86, 26)]
    shown = view_pixels(pixels, tiles[4], SIZE)
    assert np.array_equal(shown, pixels[26:90, 43:107])


def test_a_photograph_smaller_than_a_tile_is_padded_and_not_enlarged() -> None:
    (view,) = views_of(40, 30, SIZE, plan(64))
    pixels = rgb(2, (40, 30))
    shown = view_pixels(pixels, view, SIZE)
    assert np.array_equal(shown[:30, :40], pixels)
    assert (shown[30:] == PAD_VALUE).all()
    assert (shown[:, 40:] == PAD_VALUE).all()


@pytest.mark.parametrize(
    ("sides", "overlap_px", "whole"),
    [([], 16, False), ([[5, 9]] * 20, 16, False), ([[30, 20]] * 19 + [[400, 9]], 30, True), ([[90, 4]] * 3, 64, True)],
)
def test_the_overlap_holds_nearly_all_defects(sides: list[list[float]], overlap_px: int, whole: bool) -> None:
    found = plan_tiles(128, np.array(sides, np.float32).reshape(-1, 2))
    assert found.whole == whole
    assert overlap_px <= found.overlap_px <= 64
    assert len(views_of(300, 300, SIZE, found)) == len(views_of(300, 300, SIZE, plan(128, found.overlap_px))) + whole


VIEW = View(left=100, top=0, width=64, height=64, scale=2.0)


@pytest.mark.parametrize(
    ("box", "kept", "rest"),
    [
        ((110, 10, 130, 20), (20, 20, 60, 40), None),
        ((90, 10, 130, 30), (0, 20, 60, 60), None),  # 30 of 40 px are inside
        ((60, 10, 110, 30), None, (0, 20, 20, 60)),  # 10 of 50
        ((96, 10, 106, 30), None, (0, 20, 12, 60)),  # more than half, and 6 px
        ((104, 10, 107, 13), (8, 20, 14, 26), None),  # small, but nothing cuts it
        ((10, 10, 99, 30), None, None),
        ((164, 10, 190, 30), None, None),
    ],
)
def test_a_cut_box_is_kept_or_neither_defect_nor_background(
    box: tuple[float, float, float, float], kept: tuple[float, ...] | None, rest: tuple[float, ...] | None
) -> None:
    shown, which, rests = boxes_in_view(boxes(box), VIEW)
    assert shown.tolist() == ([list(kept)] if kept else [])
    assert which.tolist() == [kept is not None]
    assert rests.tolist() == ([list(rest)] if rest else [])
    assert (shown.dtype, rests.dtype) == (np.float32, np.float32)


def test_a_rest_is_painted_like_padding() -> None:
    pixels = rgb(5, SIZE)
    painted = without(pixels.copy(), boxes((0, 20.5, 12.2, 60)))
    assert (painted[20:60, :13] == PAD_VALUE).all()
    assert np.array_equal(painted[:, 13:], pixels[:, 13:])


def test_borders_on_the_edge_of_the_photograph_cut_nothing() -> None:
    first, last = views_of(100, 64, SIZE, plan(64))
    assert inner_borders(first, 100, 64) == (-np.inf, -np.inf, 64, np.inf)
    assert inner_borders(last, 100, 64) == (36, -np.inf, np.inf, np.inf)
