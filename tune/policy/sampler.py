"""An Optuna sampler over the unit cube: greatest expected improvement under a Gaussian process.

Optuna's own ``GPSampler`` imports torch, takes several times as long and finds less on recorded learning curves
(tests/benchmarks/LOG.md). A running trial is assumed to reach what the process expects of it, so that two workers are
not sent to the same point (Ginsbourger et al., "Kriging is well-suited to parallelize optimization", the believer).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from tune.policy.gaussian_process import fit, log_expected_improvement, maximise
from tune.space import MIN_DISTANCE, Array, Space

# A second process says where trials are feasible (1) or not (-1). A point must be feasible by this margin, and that
# counts so many times: the best configurations often lie just beside what does not fit.
FEASIBILITY_MARGIN = 0.8
FEASIBILITY_WEIGHT = 5.0
REPEAT_PENALTY = 1e6  # taken off the score of a point that repeats a trial: chosen only where nothing else is left
EARLY_DISTANCES = ((8, 0.1), (16, 0.05))  # among fewer trials: the scatter of a training would hide smaller steps
SEEDS = 4  # best observed points, around which the maximum is looked for first


class GaussianProcessSampler(BaseSampler):
    """Equal studies and seeds give equal proposals.

    Args:
        space: the searched space; the study's parameters are coordinates of its unit cube.
        seed: of the candidates.
    """

    def __init__(self, space: Space, *, seed: int) -> None:
        self._space = space
        self._rng = np.random.default_rng(seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        points = np.array([[other.params[name] for name in search_space] for other in others])
        finished = np.array([other.state == TrialState.COMPLETE for other in others], dtype=bool)
        feasible = np.array([all(value <= 0 for value in other.constraints.values()) for other in others], dtype=bool)
        if not (finished & feasible).any():
            return dict(zip(search_space, self._rng.random(len(search_space)).tolist(), strict=True))
        values = np.array([other.value for other, usable in zip(others, finished & feasible, strict=True) if usable])
        point = self._maximum(points, values, finished=finished, feasible=feasible)
        return dict(zip(search_space, point.tolist(), strict=True))

    def _maximum(self, points: Array, values: Array, *, finished: Any, feasible: Any) -> Array:
        """The point [d] of the cube to try next.

        Args:
            points: [n, d] all that were proposed.
            values: of those that finished and are feasible.
            finished, feasible: [n].
        """
        unordered = self._space.unordered
        observed, targets = points[finished & feasible], _log_distance_below_best(values)
        process = fit(observed, targets, unordered=unordered)
        running = points[~finished]
        if len(running):
            observed, targets = np.vstack([observed, running]), np.append(targets, process.predict(running)[0])
            process = fit(observed, targets, unordered=unordered)
        labels = np.where(feasible[finished], 1.0, -1.0)
        feasibility = None if labels.min() > 0 else fit(points[finished], labels, unordered=unordered)
        apart = next((distance for trials, distance in EARLY_DISTANCES if len(points) < trials), MIN_DISTANCE)

        def score(candidates: Array) -> Array:
            from scipy.special import log_ndtr

            found = log_expected_improvement(*process.predict(candidates), float(targets.max()))
            # Nothing is proposed twice: the best are run again at the end, with other seeds.
            distance = np.abs(candidates[:, None] - points[None]).max(2).min(1)
            found = np.where(distance < apart, found - REPEAT_PENALTY, found)
            if feasibility is None:
                return found
            mean, deviation = feasibility.predict(candidates)
            return np.asarray(found + FEASIBILITY_WEIGHT * log_ndtr((mean - FEASIBILITY_MARGIN) / deviation))

        best = observed[np.argsort(-targets, kind="stable")[:SEEDS]]
        return maximise(score, self._space.snap, near=best, rng=self._rng)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"{param_name} is not a dimension of the space")


def _log_distance_below_best(values: Array) -> Array:
    """Minus the logarithm of 1 plus the distance below the best value, in units of its median: what is near the best
    takes most of the scale.

    A configuration that learns nothing would otherwise take it, and a process that is smooth everywhere would have to
    explain that.
    """
    below = values.max() - values
    return np.asarray(-np.log1p(below / (np.median(below) or 1.0)))
