"""Journal -> what a trial that has not finished may still reach; pure.

Called by ``tune.policy.early_stopping``, which asks whether a trial may become the best, and by
``tune.policy.propose``, which tells the sampler what to expect. A trial's value after all epochs is its latest one and
a gain: what completed trials gained from that epoch on, by a Gaussian process over their configurations, so that a slow
starter is told from one that stays behind. While few are completed their mean has to do, with one more that gained
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from tune.history.table import Trial
from tune.settings import SearchSettings
from tune.space import to_unit, unordered_choices

if TYPE_CHECKING:
    from tune.policy.gaussian_process import Array, Process

__all__ = ["Outlook", "outlooks"]

FEWEST = 5  # completed trials that a process of their gains needs
MOST = 60  # of them, the latest: a verdict costs the same after thousands


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Mean and standard deviation of a trial's value after all epochs."""

    mean: float
    deviation: float

    def chance_of(self, value: float) -> float:
        """The probability of reaching at least ``value``."""
        above = self.mean - value
        if self.deviation == 0.0:
            return float(above >= 0.0)
        return math.erfc(-above / (self.deviation * math.sqrt(2))) / 2


def outlooks(trials: Iterable[Trial], finished: Sequence[Trial], settings: SearchSettings) -> Mapping[int, Outlook]:
    """Trial number -> its outlook, for those with at least one epoch.

    Args:
        finished: completed trials, in the order of proposal.
    """
    by_epoch: dict[int, list[Trial]] = {}
    for trial in trials:
        if trial.epochs:
            by_epoch.setdefault(trial.epochs, []).append(trial)
    found = {}
    for epoch, some in by_epoch.items():
        longer = [trial for trial in finished if trial.epochs > epoch][-MOST:]
        for trial, mean, deviation in zip(some, *_gains(some, epoch, longer, settings), strict=True):
            value = trial.values(settings.metric)[-1]
            found[trial.number] = Outlook(mean=value + max(0.0, float(mean)), deviation=float(deviation))
    return found


def _gains(
    trials: Sequence[Trial], epoch: int, finished: Sequence[Trial], settings: SearchSettings
) -> tuple[Array, Array]:
    """What the trials gain from an epoch to the last: means and deviations."""
    curves = [trial.values(settings.metric) for trial in finished]
    gains = np.array([curve[-1] - curve[epoch - 1] for curve in curves])
    if len(gains) < FEWEST:
        known = np.append(gains, 0.0)
        return np.full(len(trials), known.mean()), np.full(len(trials), known.std())
    points = tuple(tuple(to_unit(settings.space, trial.params)) for trial in finished)
    process = _process(points, tuple(gains.tolist()), unordered_choices(settings.space))
    return process.predict(np.array([to_unit(settings.space, trial.params) for trial in trials]))


@lru_cache(maxsize=16)  # asked several times between two completed trials
def _process(points: tuple[tuple[float, ...], ...], gains: tuple[float, ...], choices: tuple[int, ...]) -> Process:
    from tune.policy.gaussian_process import fit

    return fit(np.array(points), np.array(gains), choices=choices)
