"""Each defect is trained on in tiles that hold it whole, beside good tiles, which change from epoch to epoch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.vqc.data.tiles.test_views import SIZE, boxes, plan
from vqc.data.dataset import ImageRecord, Split
from vqc.data.tiles.training_views import SplitViews, tiles_of, training_views
from vqc.data.tiles.views import View, boxes_in_view, views_of


def whole_in(box: NDArray[np.float32], view: View) -> bool:
    left, top, right, bottom = box
    return bool(view.left <= left and view.top <= top
                and right <= view.left + view.width and bottom <= view.top + view.height)  # fmt: skip


@given(seed=st.integers(0, 1000), x=st.integers(0, 280), y=st.integers(0, 180), side=st.integers(2, 20))
def test_tiles_show_each_defect_whole_and_good_ones_show_none(seed: int, x: int, y: int, side: int) -> None:
    box = boxes((x, y, x + side, y + side))
    shown, good, wanted = tiles_of(300, 200, box, SIZE, plan(64), random=Random(seed))
    assert (shown, good, wanted) == tiles_of(300, 200, box, SIZE, plan(64), random=Random(seed))
    assert len(set(shown)) == len(shown) == wanted
    assert 1 <= len(shown) <= 2
    assert all(whole_in(box[0], view) for view in shown)
    assert len(set(good)) == len(good) == 3 * wanted
    assert not any(boxes_in_view(box, view)[1].any() or len(boxes_in_view(box, view)[2]) for view in good)


@given(
    seed=st.integers(0, 1000),
    corners=st.lists(st.tuples(st.integers(0, 280), st.integers(0, 180), st.integers(2, 20)), min_size=1, max_size=12),
)
def test_each_defect_is_whole_in_some_tile_and_close_ones_share_theirs(
    seed: int, corners: list[tuple[int, int, int]]
) -> None:
    some = boxes(*((x, y, x + side, y + side) for x, y, side in corners))
    shown, _, _ = tiles_of(300, 200, some, SIZE, plan(64), random=Random(seed))
    assert all(any(whole_in(one, view) for view in shown) for one in some)
    assert len(shown) <= 2 * len(some)
    again, _, _ = tiles_of(300, 200, np.concatenate([some, some, some]), SIZE, plan(64), random=Random(seed))
    assert set(shown) <= set(again)
    assert len(again) <= 2 * len(some)


def test_a_good_photograph_and_a_full_one_are_trained_on_too() -> None:
    shown, good, wanted = tiles_of(300, 200, boxes(), SIZE, plan(64), random=Random(0))
    assert (shown, len(good), wanted) == ([], 6, 2)
    full = boxes((0, 0, 300, 200))
    (view,), *rest = tiles_of(300, 200, full, SIZE, plan(64, whole=True), random=Random(0))
    assert not view.tile
    assert rest == [[], 0]
    assert tiles_of(300, 200, full, SIZE, plan(64), random=Random(0)) == (views_of(300, 200, SIZE, plan(64)), [], 0)


def some_views(count: int, *, good: list[int], good_an_epoch: int, shown_an_epoch: int | None = None) -> SplitViews:
    view = View(left=0, top=0, width=1, height=1, scale=1.0)
    shown = count - len(good) if shown_an_epoch is None else shown_an_epoch
    return SplitViews(views=[(0, view)] * count, good=good, good_an_epoch=good_an_epoch, shown_an_epoch=shown)


@given(seed=st.integers(0, 99), hard=st.integers(0, 4))
def test_an_epoch_has_all_defects_the_hard_tiles_and_others_by_chance(seed: int, hard: int) -> None:
    views = some_views(30, good=list(range(2, 26)), good_an_epoch=8)
    examined = views.examined(seed=seed)
    assert len(examined) == 2 * views.most_hard == 8
    epoch = views.of_epoch(hard=examined[:hard], seed=seed)
    assert epoch == sorted(set(epoch))
    assert len(epoch) == views.an_epoch == 14
    assert set(epoch) >= {0, 1, 26, 27, 28, 29, *examined[:hard]}
    assert views.of_epoch(hard=examined[:hard], seed=seed) == epoch
    assert {tuple(views.of_epoch(hard=[], seed=other)) for other in range(20)} != {
        tuple(views.of_epoch(hard=[], seed=0))
    }


@pytest.mark.parametrize("count", [0, 5])
def test_without_good_tiles_an_epoch_has_all_views(count: int) -> None:
    views = some_views(count, good=[], good_an_epoch=0)
    assert views.of_epoch(hard=[], seed=1) == list(range(count))
    assert (views.an_epoch, views.most_hard, views.examined(seed=1)) == (count, 0, [])


@given(seed=st.integers(0, 99), shown_an_epoch=st.integers(10, 20))
def test_where_defects_fill_more_than_an_epoch_it_takes_some_by_chance(seed: int, shown_an_epoch: int) -> None:
    views = some_views(30, good=list(range(10)), good_an_epoch=4, shown_an_epoch=shown_an_epoch)
    epochs = [views.of_epoch(hard=[3], seed=seed + more) for more in range(40)]
    assert all(len(set(epoch)) == len(epoch) == views.an_epoch and 3 in epoch for epoch in epochs)
    assert all(sum(index >= 10 for index in epoch) == shown_an_epoch for epoch in epochs)
    assert {index for epoch in epochs for index in epoch} == set(range(30))


def split_of(count: int, *, defects: int, side_px: int = 256) -> Split:
    """Photographs with so many defects each, far from one another."""
    middles = (np.arange(defects, dtype=np.float32) + 0.5) * (side_px / max(1, defects))
    found = np.stack([middles - 4, middles - 4, middles + 4, middles + 4], 1)
    record = ImageRecord(
        image_id=1, path=Path("a.png"), sha256="", group="", width=side_px, height=side_px, rotate=False, boxes=found,
        labels=np.ones(defects, np.int64), areas=np.full(defects, 64, np.float32), crowd=np.zeros(defects, bool),
    )  # fmt: skip
    images = tuple(replace(record, image_id=number) for number in range(1, count + 1))
    return Split(name="train", categories=(), images=images)


@pytest.mark.parametrize(
    ("defects", "an_epoch"),
    [
        (0, 4 * 2),  # two good tiles a photograph
        (1, 4 * 4),  # two tiles around the defect, two good ones
        (16, 4 * 16 + 1),  # as many tiles as cover the photographs once; defective and good ones are rounded up
    ],
)
def test_an_epoch_of_tiles_has_no_more_pixels_than_the_photographs(defects: int, an_epoch: int) -> None:
    views = training_views(split_of(4, defects=defects), SIZE, plan(64))
    assert views.an_epoch == an_epoch
    assert len(views.of_epoch(hard=[], seed=0)) == an_epoch
    assert (an_epoch - 1) * 64**2 <= 4 * 256**2


def test_a_single_photograph_smaller_than_its_tile_is_an_epoch() -> None:
    views = training_views(split_of(1, defects=2, side_px=32), SIZE, plan(64))
    assert views.an_epoch == len(views.of_epoch(hard=[], seed=0)) == 1
