"""Predicted final values of trials that have not run all their epochs; pure.

A trial's value after all epochs is its latest one and a gain: what completed trials gained from that epoch on, by a
Gaussian process over their configurations, so that a slow starter is told from one that stays behind. While few are
completed, the gain is the mean of theirs and of a zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from tune.history.journal import Trial
from tune.settings import SearchSettings
from tune.space import Array, Space

if TYPE_CHECKING:
    from tune.policy.gaussian_process import Process

__all__ = ["Prediction", "predict_final_values"]

MIN_COMPLETED = 5  # trials that a process of their gains needs
MAX_COMPLETED = 60  # the latest ones: a prediction costs the same after thousands


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Mean and standard deviation of a trial's value after all epochs."""

    mean: float
    std: float

    def probability_above(self, value: float) -> float:
        """The probability of reaching at least ``value``."""
        above = self.mean - value
        if self.std == 0.0:
            return float(above >= 0.0)
        return math.erfc(-above / (self.std * math.sqrt(2))) / 2


def predict_final_values(
    trials: Iterable[Trial], completed: Sequence[Trial], settings: SearchSettings
) -> Mapping[int, Prediction]:
    """Trial number -> prediction, for those with at least one epoch.

    Args:
        trials: to predict.
        completed: trials to learn from, in the order of proposal.
    """
    by_epoch: dict[int, list[Trial]] = {}
    for trial in trials:
        if trial.epochs:
            by_epoch.setdefault(trial.epochs, []).append(trial)
    predictions = {}
    for epoch, group in by_epoch.items():
        longer = [trial for trial in completed if trial.epochs > epoch][-MAX_COMPLETED:]
        for trial, mean, std in zip(group, *_gains(group, epoch, longer, settings), strict=True):
            value = trial.values(settings.metric)[-1]
            predictions[trial.number] = Prediction(mean=value + max(0.0, float(mean)), std=float(std))
    return predictions


def _gains(
    trials: Sequence[Trial], epoch: int, completed: Sequence[Trial], settings: SearchSettings
) -> tuple[Array, Array]:
    """What the trials gain from an epoch to the last: means and standard deviations."""
    curves = [trial.values(settings.metric) for trial in completed]
    gains = np.array([curve[-1] - curve[epoch - 1] for curve in curves])
    if len(gains) < MIN_COMPLETED:
        known = np.append(gains, 0.0)
        return np.full(len(trials), known.mean()), np.full(len(trials), known.std())
    space = Space(settings.space)
    points = tuple(tuple(space.to_unit(trial.params)) for trial in completed)
    process = _process(points, tuple(gains.tolist()), space.unordered)
    return process.predict(np.array([space.to_unit(trial.params) for trial in trials]))


@lru_cache(maxsize=16)  # asked several times between two completed trials
def _process(points: tuple[tuple[float, ...], ...], gains: tuple[float, ...], unordered: tuple[bool, ...]) -> Process:
    from tune.policy.gaussian_process import fit

    return fit(np.array(points), np.array(gains), unordered=unordered)
