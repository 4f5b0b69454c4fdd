"""Which group of photographs goes into train, val or test, so that each has its share of every category.

A group is never divided: its photographs show one part, or were taken together, and scores must be of unseen parts.
Groups are placed by a local search: greedily, the largest first, then moved and exchanged while that helps. It is
iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011) with an objective: the squared deviations of
all shares from those asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vqc.config import Record

SplitName = Literal["train", "val", "test"]
FREE = -1  # of a group that may go anywhere
STARTS = 200  # groups times local searches: few groups have many local optima
MOST_STARTS = 10
STEPS = 10_000  # groups tried in all passes of one local search
EXCHANGES = 40  # other groups that a group is exchanged with, on trial
EMPTY = 10.0  # cost of a split without images, or without defective ones; all other costs are below 2 for each column
EPSILON = 1e-6  # a gain in cost that is not worth a step: a thousandth of one share

Counts = NDArray[np.float64]


class Placed(Record):
    """Where one photograph is, and why; ``file`` is relative to its source, with forward slashes."""

    file: str
    sha256: str
    split: SplitName
    group: str
    why: str


class Manifest(Record):
    """``splits.json``: the placement of every photograph, and what it was asked to be."""

    version: Literal[1] = 1
    seed: int
    shares: dict[SplitName, float]
    images: tuple[Placed, ...]


def connected(count: int, links: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """For each of ``count`` items the lowest position that it is linked to, over any number of links: [count]."""
    lowest = list(range(count))

    def root(item: int) -> int:
        while lowest[item] != item:
            lowest[item] = lowest[lowest[item]]
            item = lowest[item]
        return item

    for one, other in links:
        first, second = sorted((root(one), root(other)))
        lowest[second] = first
    return np.array([root(item) for item in range(count)], dtype=np.int64)


def choose_splits(
    counts: Counts, shares: Sequence[float], *, fixed: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """The split of each of ``n`` groups as a position in ``shares``: [n].

    Args:
        counts: [n, columns], at least 0. The first two columns are images and defective images, of which each split
            gets some if there are enough groups; the others are what else is to be shared, such as boxes of a category.
        shares: of each split, above 0; their sum is 1.
        fixed: [n], the split of groups that are placed already, else ``FREE``.
    """
    target = np.array(shares)[:, None]
    totals = counts.sum(axis=0)
    portions = counts / np.where(totals > 0, totals, 1.0)
    found = []
    for _ in range(int(np.clip(STARTS // max(len(counts), 1), 1, MOST_STARTS))):
        chosen = _greedy(portions, target, fixed, rng)
        found.append((_improve(portions, target, chosen, np.flatnonzero(fixed == FREE), rng), chosen))
    return min(found, key=lambda pair: pair[0])[1]


def _cost(held: Counts, target: Counts) -> NDArray[np.float64]:
    """Of ``held`` [..., splits, columns], the portion of each column that each split has."""
    return np.asarray(((held - target) ** 2).sum(axis=(-2, -1)) + EMPTY * (held[..., :2] < EPSILON).sum(axis=(-2, -1)))


def _held(portions: Counts, chosen: NDArray[np.int64], splits: int) -> Counts:
    return np.array([portions[chosen == split].sum(axis=0) for split in range(splits)])


def _greedy(portions: Counts, target: Counts, fixed: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """The largest groups first, equal ones in random order, each to where the sum of squares stays lowest."""
    chosen, held = fixed.copy(), _held(portions, fixed, len(target))
    shuffled = rng.permutation(len(portions))
    for group in shuffled[np.argsort(-portions[shuffled].max(axis=1, initial=0.0), kind="stable")]:
        if chosen[group] == FREE:
            added = 2 * ((held - target) * portions[group]).sum(axis=1)  # and the same square of the group for each
            chosen[group] = int(np.argmin(added))
            held[chosen[group]] += portions[group]
    return chosen


def _improve(
    portions: Counts, target: Counts, chosen: NDArray[np.int64], free: NDArray[np.int64], rng: np.random.Generator
) -> float:
    """Move and exchange groups in ``chosen``, in place, until none helps; the cost that is left."""
    held = _held(portions, chosen, len(target))
    cost = float(_cost(held, target))
    for _ in range(int(np.clip(STEPS // max(len(free), 1), 1, 50))):
        before = cost
        for group in rng.permutation(free):
            others = free[rng.integers(len(free), size=EXCHANGES)]
            others = others[chosen[others] != chosen[group]]
            elsewhere = np.setdiff1d(np.arange(len(target)), chosen[group])
            to = np.concatenate([elsewhere, chosen[others]])
            gain = portions[group] - np.concatenate([np.zeros((len(elsewhere), portions.shape[1])), portions[others]])
            after = np.repeat(held[None], len(to), axis=0)
            after[:, chosen[group]] -= gain
            after[np.arange(len(to)), to] += gain
            costs = _cost(after, target)
            best = int(np.argmin(costs))
            if costs[best] < cost - EPSILON:
                cost, held = float(costs[best]), after[best]
                if best >= len(elsewhere):
                    chosen[others[best - len(elsewhere)]] = chosen[group]
                chosen[group] = to[best]
        if cost >= before - EPSILON:
            break
    return cost
