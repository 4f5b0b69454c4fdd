"""Groups stay whole, shares come out as near as they can, and nothing is left to chance."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vqc.data.splitting.placement import FREE, choose_splits, connected

SHARES = (0.7, 0.15, 0.15)


def choose(counts: NDArray[np.float64], *, seed: int = 0, fixed: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    free = np.full(len(counts), FREE) if fixed is None else fixed
    return choose_splits(counts, SHARES, fixed=free, rng=np.random.default_rng(seed))


def made_up(groups: int, categories: int, seed: int) -> NDArray[np.float64]:
    """Images, defective ones, and boxes of each category, of groups of 1 to 9 photographs."""
    rng = np.random.default_rng(seed)
    images = rng.integers(1, 10, groups)
    boxes = rng.poisson(images[:, None] * rng.uniform(0.1, 1, categories))
    return np.column_stack([images, rng.binomial(images, 0.6), boxes]).astype(float)


def deviation(counts: NDArray[np.float64], chosen: NDArray[np.int64]) -> float:
    """The sum of squares that is to be small."""
    held = np.array([counts[chosen == split].sum(axis=0) for split in range(3)]) / counts.sum(axis=0)
    return float(((held - np.array(SHARES)[:, None]) ** 2).sum())


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_linked_items_are_in_one_group_and_others_are_not(count: int, pairs: list[tuple[int, int]]) -> None:
    links = [(one % count, other % count) for one, other in pairs]
    reach = np.eye(count, dtype=bool)
    for one, other in links:
        reach[one, other] = reach[other, one] = True
    for middle in range(count):  # Warshall's transitive closure
        reach |= reach[:, middle : middle + 1] & reach[middle : middle + 1]
    assert connected(count, links).tolist() == [int(np.flatnonzero(row)[0]) for row in reach]


@pytest.mark.parametrize("seed", range(5))
def test_no_other_choice_is_better_for_few_groups(seed: int) -> None:
    counts = made_up(7, 2, seed)
    every = [np.array(choice) for choice in product(range(3), repeat=7) if len(set(choice)) == 3]
    best = min(
        deviation(counts, chosen) for chosen in every if all(counts[chosen == split, 1].sum() > 0 for split in range(3))
    )
    assert deviation(counts, choose(counts)) == pytest.approx(best)


@pytest.mark.parametrize(("groups", "categories", "most"), [(60, 4, 0.03), (400, 20, 0.01)])
def test_every_share_is_as_asked(groups: int, categories: int, most: float) -> None:
    counts = made_up(groups, categories, 1)
    chosen = choose(counts)
    held = np.array([counts[chosen == split].sum(axis=0) for split in range(3)]) / counts.sum(axis=0)
    assert np.abs(held - np.array(SHARES)[:, None]).max() < most


def test_the_seed_decides() -> None:
    counts = made_up(50, 3, 0)
    assert choose(counts).tolist() == choose(counts).tolist()
    assert choose(counts).tolist() != choose(counts, seed=1).tolist()


def test_three_equal_groups_are_one_for_each_split() -> None:
    assert sorted(choose(np.ones((3, 3)))) == [0, 1, 2]


def test_a_category_of_one_group_is_learnt() -> None:
    counts = np.column_stack([np.ones(20), np.ones(20), np.arange(20) == 4]).astype(float)
    assert choose(counts)[4] == 0


def test_what_is_placed_stays_and_the_others_fill_up() -> None:
    counts = made_up(60, 3, 0)
    fixed = np.full(60, FREE)
    fixed[:20] = 1  # a third of all is in val
    chosen = choose(counts, fixed=fixed)
    assert set(chosen[:20]) == {1}
    assert set(chosen[20:]) == {0, 2}


@pytest.mark.parametrize("groups", [0, 1, 2])
def test_too_few_groups_leave_a_split_empty(groups: int) -> None:
    assert len(set(choose(np.ones((groups, 2))))) == groups
