"""Defects on good parts: whose they are, and what of both photographs is seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqc.data.copy_paste import BLEND_PX, Donors, with_defects
from vqc.data.dataset import ImageRecord

HEIGHT, WIDTH = 48, 64


def record(*, boxes: int, width: int = WIDTH) -> ImageRecord:
    return ImageRecord(
        image_id=1,
        path=Path("a.png"),
        sha256="",
        group="a",
        width=width,
        height=HEIGHT,
        rotate=False,
        boxes=np.tile(np.array([[4, 4, 9, 9]], np.float32), (boxes, 1)),
        labels=np.ones(boxes, np.int64),
        areas=np.full(boxes, 25, np.float32),
        crowd=np.zeros(boxes, np.bool_),
    )


def flat(value: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


def test_a_good_part_takes_the_defects_of_a_photograph_of_its_size() -> None:
    images = [record(boxes=0), record(boxes=1), record(boxes=2), record(boxes=1, width=80)]
    donors = Donors(images, probability=1.0)
    assert {donors.of(0, seed=seed) for seed in range(50)} == {1, 2}
    assert [donors.of(index, seed=0) for index in (1, 2, 3)] == [1, 2, 3]


@pytest.mark.parametrize("images", [[record(boxes=0)] * 3, [record(boxes=0), record(boxes=1, width=80)]])
def test_without_a_donor_of_its_size_a_good_part_stays_as_it_is(images: list[ImageRecord]) -> None:
    assert Donors(images, probability=1.0).of(0, seed=1) == 0


def test_defects_are_pasted_with_the_stated_probability() -> None:
    donors = Donors([record(boxes=0), record(boxes=1)], probability=0.25)
    assert 70 <= sum(donors.of(0, seed=seed) for seed in range(400)) <= 130  # 100 expected, standard deviation 8.7


@given(st.integers(0, WIDTH - 2), st.integers(0, HEIGHT - 2), st.floats(0.5, WIDTH), st.floats(0.5, HEIGHT))
def test_the_donor_is_seen_inside_the_box_and_the_part_away_from_it(x: int, y: int, w: float, h: float) -> None:
    right, bottom = min(x + w, WIDTH), min(y + h, HEIGHT)
    found = with_defects(flat(50), flat(200), np.array([[x, y, right, bottom]], np.float32))
    columns, rows = np.arange(WIDTH), np.arange(HEIGHT)
    inside = np.outer((rows >= y) & (rows < bottom), (columns >= x) & (columns < right))
    near = np.outer(
        (rows >= y - BLEND_PX) & (rows < bottom + BLEND_PX), (columns >= x - BLEND_PX) & (columns < right + BLEND_PX)
    )
    assert (found[inside] == 200).all()
    assert (found[~near] == 50).all()
    assert ((found >= 50) & (found <= 200)).all()


def test_the_edge_fades_evenly() -> None:
    line = with_defects(flat(0), flat(180), np.array([[20, 0, 30, HEIGHT]], np.float32))[24, 30 : 30 + BLEND_PX + 1, 0]
    assert line.tolist() == [160, 140, 120, 100, 80, 60, 40, 20, 0]


def test_both_photographs_stay_as_they_are_and_equal_ones_give_the_same() -> None:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image.flags.writeable = False
    assert np.array_equal(with_defects(image, image, np.array([[3, 3, 20, 20]], np.float32)), image)
