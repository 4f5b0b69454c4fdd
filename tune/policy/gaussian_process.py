"""A Gaussian process of the searched space, and the point at which it expects the most.

``tune.policy.propose`` fits one to the values of the trials and one to which of them were feasible, and takes the point
of the unit cube with the greatest expected improvement. Needs numpy and scipy only: Optuna's own process imports torch.

Symbols and shapes: n points told, d dimensions of the cube, m candidates, c columns. A column is a dimension with an
order, or one choice of a dimension without (one-hot, scaled so that two different choices are at distance 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Process", "fit", "log_expected_improvement", "log_probability_positive", "maximise"]

Array: TypeAlias = npt.NDArray[np.float64]

# Priors of the logarithms (mean, standard deviation), for values of mean 0 and variance 1 on the unit cube.
INVERSE_SQUARED_LENGTH = (-1.5, 1.0)
OUTPUT_VARIANCE = (1.0, 1.0)
NOISE_VARIANCE = (-7.0, 1.5)
LOWEST_NOISE_VARIANCE = 1e-5  # below this the Cholesky factor of near-equal points breaks down


@dataclass(frozen=True, kw_only=True)
class Process:
    """Posterior of a process with Matern 5/2 kernel, one length per dimension (Rasmussen and Williams, ch. 2 and 4).

    Args:
        columns: [n, c] the points told, already divided by their lengths.
        choices: per dimension, 0 if it is ordered, else its number of unordered choices.
        column_scale: [c] one over the length of each column.
        output_variance: of the process, in units of ``value_scale`` squared.
        factor: [n, n] lower Cholesky factor of the covariance of what was told.
        weights: [n] that covariance's inverse times the standardised values.
        value_mean, value_scale: standardised values times scale plus mean are values.
    """

    columns: Array
    choices: tuple[int, ...]
    column_scale: Array
    output_variance: float
    factor: Array
    weights: Array
    value_mean: float
    value_scale: float

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Mean and standard deviation, both [m], of the noiseless value at points [m, d] of the unit cube."""
        mean, explained = self._explained(_columns(points, self.choices) * self.column_scale)
        variance = np.maximum(self.output_variance - (explained**2).sum(0), 1e-12)
        return self.value_mean + self.value_scale * mean, self.value_scale * np.sqrt(variance)

    def draw(self, points: Array, count: int, rng: np.random.Generator) -> Array:
        """Noiseless values [count, m] at points [m, d], drawn jointly."""
        columns = _columns(points, self.choices) * self.column_scale
        mean, explained = self._explained(columns)
        covariance = self.output_variance * _correlation(columns, columns) - explained.T @ explained
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))  # rounding leaves tiny negative ones
        drawn = mean + rng.standard_normal((count, len(points))) @ root.T
        return np.asarray(self.value_mean + self.value_scale * drawn)

    def _explained(self, columns: Array) -> tuple[Array, Array]:
        """At scaled columns [m, c]: the standardised mean [m], and the factor [n, m] of the variance it explains."""
        from scipy.linalg import solve_triangular

        cross = self.output_variance * _correlation(columns, self.columns)
        return cross @ self.weights, solve_triangular(self.factor, cross.T, lower=True, check_finite=False)


def fit(points: Array, values: Array, *, choices: Sequence[int], noise_factor: Array | None = None) -> Process:
    """The process with the most probable lengths, output variance and noise, given values [n] at points [n, d].

    Args:
        points: in the unit cube; a dimension without order holds the middles of as many equal bins as it has choices.
        values: finite; any scale.
        choices: per dimension, 0 if it is ordered, else its number of unordered choices.
        noise_factor: [n] noise variance of each value relative to the common one; none given: all 1.
    """
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    mean, scale = float(values.mean()), float(values.std()) or 1.0
    target = (values - mean) / scale
    factor = np.ones(len(values)) if noise_factor is None else noise_factor
    columns = _columns(points, choices)
    squared = _squared_by_dimension(columns, choices)
    prior = np.array([INVERSE_SQUARED_LENGTH] * len(choices) + [OUTPUT_VARIANCE, NOISE_VARIANCE])

    found = minimize(
        lambda theta: _negative_log_posterior(theta, squared, target, factor, prior),
        prior[:, 0],
        jac=True,
        method="L-BFGS-B",
        bounds=[(-8.0, 8.0)] * (len(choices) + 1) + [(math.log(LOWEST_NOISE_VARIANCE), 1.0)],
        options={"maxiter": 50, "ftol": 1e-6},
    )
    *inverse, output, noise = np.exp(found.x)
    covariance = output * _matern(np.tensordot(np.asarray(inverse), squared, 1))[0] + np.diag(noise * factor)
    lower = np.tril(cho_factor(covariance, lower=True)[0])
    column_scale = np.sqrt(np.repeat(inverse, [max(1, count) for count in choices]))
    return Process(
        columns=columns * column_scale,
        choices=tuple(choices),
        column_scale=column_scale,
        output_variance=float(output),
        factor=lower,
        weights=cho_solve((lower, True), target),
        value_mean=mean,
        value_scale=scale,
    )


def log_expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Logarithm of E[max(0, value - best)], [m]; finite far below the best too.

    Ament et al., "Unexpected Improvements to Expected Improvement for Bayesian Optimization", eq. 9.
    """
    from scipy.special import erfcx, ndtr

    z = (mean - best) / deviation
    log_density = -(z**2) / 2 - math.log(2 * math.pi) / 2
    near = np.maximum(z, -1.0)
    direct = np.log(np.exp(-(near**2) / 2) / math.sqrt(2 * math.pi) + near * ndtr(near))
    far = np.clip(z, -1e5, -1.0)  # beyond, the correction below would be lost in rounding; the density says enough
    tail = log_density + np.log1p(far * math.sqrt(math.pi / 2) * erfcx(-far / math.sqrt(2)))
    return np.asarray(np.log(deviation) + np.where(z > -1.0, direct, tail), dtype=np.float64)


def log_probability_positive(mean: Array, deviation: Array) -> Array:
    """Logarithm of P(value > 0), [m]."""
    from scipy.special import log_ndtr

    return np.asarray(log_ndtr(mean / deviation), dtype=np.float64)


def maximise(
    score: Callable[[Array], Array],
    snap: Callable[[Array], Array],
    *,
    near: Array,
    rng: np.random.Generator,
    candidates: int = 256,
    rounds: int = 8,
) -> Array:
    """The point [d] of the unit cube with the greatest score found.

    Quasi-random points and points near those given; then, round by round, points ever closer to the best few.

    Args:
        score: [m, d] -> [m].
        snap: [m, d] -> [m, d], the nearest points that can be tried.
        near: [k, d] where good points are expected; may be empty.
        rng: the only source of chance.
        candidates: quasi-random points, a power of two.
        rounds: of refinement, each a third as wide as the one before.
    """
    from scipy.stats.qmc import Sobol

    dimensions = near.shape[1]
    spread = Sobol(dimensions, rng=rng).random(candidates)
    points = snap(np.vstack([spread, *(_around(near, width, 32, rng) for width in (0.2, 0.05))]))
    scores = score(points)
    width = 0.1
    for _ in range(rounds):
        top = np.argsort(-scores, kind="stable")[:8]
        closer = snap(_around(points[top], width, 16, rng))
        points, scores = np.vstack([points[top], closer]), np.concatenate([scores[top], score(closer)])
        width /= 2.5
    return np.asarray(points[int(np.argmax(scores))])


def _around(centres: Array, width: float, each: int, rng: np.random.Generator) -> Array:
    """Points [k * each, d] near the centres [k, d]: about half of the coordinates are moved, by ``width`` or so."""
    points = np.repeat(centres, each, axis=0)
    moved = rng.random(points.shape) < 0.5
    points = points + moved * width * rng.standard_normal(points.shape)
    # A dimension in which the cube is a few bins needs jumps: one in ten coordinates is drawn anew.
    fresh = rng.random(points.shape) < 0.1
    return np.clip(np.where(fresh, rng.random(points.shape), points), 0.0, 1.0 - 1e-12)


def _columns(points: Array, choices: Sequence[int]) -> Array:
    """[m, d] -> [m, c]."""
    parts = [
        np.eye(count)[np.minimum((points[:, i] * count).astype(int), count - 1)] / math.sqrt(2)
        if count
        else points[:, i : i + 1]
        for i, count in enumerate(choices)
    ]
    return np.hstack(parts)


def _squared_by_dimension(columns: Array, choices: Sequence[int]) -> Array:
    """[d, n, n] squared distances along each dimension."""
    ends = np.cumsum([max(1, count) for count in choices])
    blocks = np.split(columns, ends[:-1], axis=1)
    return np.stack([((block[:, None] - block[None]) ** 2).sum(2) for block in blocks])


def _correlation(one: Array, other: Array) -> Array:
    """[m, n] of scaled columns [m, c] with [n, c]."""
    squared = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    return _matern(np.maximum(squared, 0.0))[0]  # rounding leaves tiny negative ones


def _matern(squared: Array) -> tuple[Array, Array]:
    """Matern 5/2 correlation at squared scaled distances, and its derivative by them."""
    root = np.sqrt(5 * squared)
    decay = np.exp(-root)
    return (1 + root + root**2 / 3) * decay, -5 / 6 * (1 + root) * decay


def _negative_log_posterior(
    theta: Array, squared: Array, target: Array, noise_factor: Array, prior: Array
) -> tuple[float, Array]:
    """Up to a constant, with its gradient by the logarithms ``theta``: d inverse squared lengths, output, noise."""
    from scipy.linalg import lapack

    inverse, output, noise = np.exp(theta[:-2]), math.exp(theta[-2]), math.exp(theta[-1])
    correlation, slope = _matern(np.tensordot(inverse, squared, 1))
    covariance = output * correlation
    covariance[np.diag_indices_from(covariance)] += noise * noise_factor
    lower, failed = lapack.dpotrf(covariance, lower=1)
    if failed:
        return 1e10, np.zeros_like(theta)
    precision = lapack.dpotri(lower, lower=1)[0]
    precision = np.tril(precision) + np.tril(precision, -1).T
    weights = precision @ target
    away = (theta - prior[:, 0]) / prior[:, 1]
    value = target @ weights / 2 + np.log(np.diag(lower)).sum() + (away**2).sum() / 2

    sensitivity = np.outer(weights, weights) - precision  # twice the derivative of the log likelihood by covariance
    by_length = output * inverse * np.tensordot(squared, sensitivity * slope, 2)
    by_output = output * (sensitivity * correlation).sum()
    by_noise = noise * (np.diag(sensitivity) * noise_factor).sum()
    gradient: Any = -np.concatenate([by_length, [by_output, by_noise]]) / 2 + away / prior[:, 1]
    return float(value), gradient
