"""Predicted final values of trials that have not run all their epochs; pure.

A trial's value after all epochs is its latest one and a gain: what completed trials gained from that epoch on, by a
Gaussian process over their configurations, so that a slow starter is told from one that stays behind. While few are
completed, the gain is the mean of theirs and of a zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from tune.history.table import Trial
from tune.settings import SearchSettings
from tune.space import Array, Space

if TYPE_CHECKING:
    from tune.policy.gaussian_process import Process

MIN_COMPLETED = 5  # trials that a process of their gains needs
MAX_COMPLETED = 60  # the latest ones: a prediction costs the same after thousands
MIN_STD = 1e-12  # a distribution without spread has no cumulative probability


def predict_final_values(
    trials: Iterable[Trial], completed: Sequence[Trial], settings: SearchSettings
) -> Mapping[int, NormalDist]:
    """Trial number -> the distribution of its value after all epochs, for those with at least one epoch.

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
            if trial.state == "completed":  # perhaps a shortened one
                mean = std = 0.0
            predictions[trial.number] = NormalDist(value + max(0.0, float(mean)), max(MIN_STD, float(std)))
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
