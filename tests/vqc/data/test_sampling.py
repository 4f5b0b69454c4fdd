"""Repeat factor sampling: rare categories more often, epochs of equal length."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqc.data.sampling import epoch_order, repeat_factors

FACTORS = st.lists(st.floats(1, 10), min_size=1, max_size=40).map(np.array)
SEEDS = st.integers(0, 2**32 - 1)


def labels(*images: list[int]) -> list[np.ndarray]:
    return [np.array(image, np.int64) for image in images]


def test_factors_are_those_of_the_paper() -> None:
    """Of 16 images category 1 is on 4, category 2 on one: sqrt(0.25 / (1 / 16)) = 2; a good part has factor 1."""
    found = repeat_factors(labels([1, 1], [1], [1], [1, 2, 2], *[[]] * 12), threshold=0.25)
    assert found.tolist() == [1, 1, 1, 2, *[1] * 12]


@pytest.mark.parametrize("images", [labels([], []), labels([1], []), labels([2])])
def test_threshold_0_repeats_nothing(images: list[np.ndarray]) -> None:
    assert repeat_factors(images, threshold=0.0).tolist() == [1.0] * len(images)


@given(st.integers(1, 500), SEEDS)
def test_equal_factors_give_each_image_once_in_numpys_order(count: int, seed: int) -> None:
    expected = np.random.default_rng(seed).permutation(count).tolist()
    assert epoch_order(np.ones(count), np.random.default_rng(seed)) == expected


@given(FACTORS, SEEDS)
def test_every_image_comes_as_often_as_its_share_rounded_up_or_down(factors: np.ndarray, seed: int) -> None:
    order = epoch_order(factors, np.random.default_rng(seed))
    assert len(order) == len(factors)
    times, shares = Counter(order), factors * (len(factors) / factors.sum())
    assert all(np.floor(share - 1e-9) <= times[i] <= np.ceil(share + 1e-9) for i, share in enumerate(shares))


def test_over_many_epochs_images_come_by_their_factors() -> None:
    random = np.random.default_rng(0)
    times = Counter(index for _ in range(2000) for index in epoch_order(np.array([1.0, 1.0, 3.0]), random))
    np.testing.assert_allclose([times[i] / 2000 for i in range(3)], [0.6, 0.6, 1.8], atol=0.04)
