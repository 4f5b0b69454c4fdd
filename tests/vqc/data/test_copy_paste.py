"""Defects on good parts: whose they are, and what of both photographs is seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqc.data.copy_paste import BLEND_PX, Donors, with_defects

HEIGHT, WIDTH = 48, 64


def flat(value: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


NONE, ONE, TWO = (np.ones(count, np.int64) for count in range(3))
SMALL, LARGE = (64, 48), (80, 48)


def test_a_good_part_takes_the_defects_of_a_photograph_of_its_size() -> None:
    donors = Donors([SMALL, SMALL, SMALL, LARGE], [NONE, ONE, TWO, ONE], probability=1.0)
    assert {donors.of(0, seed=seed) for seed in range(50)} == {1, 2}
    assert [donors.of(index, seed=0) for index in (1, 2, 3)] == [1, 2, 3]


@pytest.mark.parametrize("second", [(SMALL, NONE), (LARGE, ONE)])
def test_without_a_donor_of_its_size_a_good_part_stays_as_it_is(second: tuple[tuple[int, int], np.ndarray]) -> None:
    assert Donors([SMALL, second[0]], [NONE, second[1]], probability=1.0).of(0, seed=1) == 0


def test_defects_are_pasted_with_the_stated_probability() -> None:
    donors = Donors([SMALL, SMALL], [NONE, ONE], probability=0.25)
    assert 70 <= sum(donors.of(0, seed=seed) for seed in range(400)) <= 130  # 100 expected, standard deviation 8.7


def donor_with(box: Sequence[float]) -> np.ndarray:
    """Of value 200, with a defect of value 100 on the left half of the box."""
    left, top, right, bottom = box
    pixels = flat(200)
    pixels[int(top) : math.ceil(bottom), int(left) : math.ceil((left + right) / 2)] = 100
    return pixels


@given(st.integers(0, WIDTH - 8), st.integers(0, HEIGHT - 8), st.floats(4, 30), st.floats(4, 30))
def test_the_defect_is_seen_in_the_light_of_the_part(x: int, y: int, w: float, h: float) -> None:
    boxes = np.array([[x, y, min(x + w, WIDTH), min(y + h, HEIGHT)]], np.float32)
    box = boxes[0].tolist()  # rounded to float32, as it is pasted
    donor = donor_with(box)
    found = with_defects(flat(150), donor, boxes)
    columns, rows = np.arange(WIDTH), np.arange(HEIGHT)
    inside = np.outer((rows >= box[1]) & (rows < box[3]), (columns >= box[0]) & (columns < box[2]))
    assert np.array_equal(found[inside], donor[inside] - 50)
    assert (found[~inside & (donor[..., 0] == 200)] == 150).all()


def test_the_edge_fades_evenly() -> None:
    """A ramp that the median leaves as it is: so many pixels are darker by 90 as are brighter."""
    donor = flat(180)
    donor[:, : 20 + 5] = 0
    line = with_defects(flat(90), donor, np.array([[20, 0, 30, HEIGHT]], np.float32))[24, :, 0]
    assert line[30 : 30 + BLEND_PX + 1].tolist() == [170, 160, 150, 140, 130, 120, 110, 100, 90]
    assert line[20 - BLEND_PX - 1 : 20].tolist() == [90, 80, 70, 60, 50, 40, 30, 20, 10]


@pytest.mark.parametrize("value", [5, 250])
def test_values_stay_in_range(value: int) -> None:
    donor = flat(128)
    donor[12:18, 22:28] = [[255]] if value == 250 else [[0]]
    found = with_defects(flat(value), donor, np.array([[20, 10, 30, 20]], np.float32))
    assert found[15, 25, 0] == (255 if value == 250 else 0)


def test_both_photographs_stay_as_they_are_and_equal_ones_give_the_same() -> None:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image.flags.writeable = False
    assert np.array_equal(with_defects(image, image, np.array([[3, 3, 20, 20]], np.float32)), image)
