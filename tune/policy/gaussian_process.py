"""A Gaussian process over the unit cube, its expected improvement, and a maximiser. Needs numpy and scipy only.

Symbols and shapes: n observed points, d dimensions, m candidates. Two different choices of a dimension without order
are at distance 1 along it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tune.space import Array

# Priors of the logarithms (mean, standard deviation), for values of mean 0 and variance 1 on the unit cube.
INVERSE_SQUARED_LENGTH = (-1.5, 1.0)
OUTPUT_VARIANCE = (1.0, 1.0)
NOISE_VARIANCE = (-7.0, 1.5)
MIN_NOISE_VARIANCE = 1e-5  # below this the Cholesky factor of near-equal points breaks down


@dataclass(frozen=True, kw_only=True)
class Process:
    """Posterior of a process with Matern 5/2 kernel, one length per dimension (Rasmussen and Williams, ch. 2 and 4).

    Args:
        points: [n, d] observed points of the unit cube.
        unordered: per dimension, whether its values have no order.
        inverse_squared_lengths: [d] of the kernel.
        output_variance: of the process, in units of ``value_scale`` squared.
        factor: [n, n] lower Cholesky factor of the covariance of the observed values.
        weights: [n] that covariance's inverse times the standardised values.
        value_mean, value_scale: standardised values times scale plus mean are values.
    """

    points: Array
    unordered: tuple[bool, ...]
    inverse_squared_lengths: Array
    output_variance: float
    factor: Array
    weights: Array
    value_mean: float
    value_scale: float

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Mean and standard deviation, both [m], of the noiseless value at points [m, d] of the unit cube."""
        mean, explained = self._explained(points)
        variance = np.maximum(self.output_variance - (explained**2).sum(0), 1e-12)
        return self.value_mean + self.value_scale * mean, self.value_scale * np.sqrt(variance)

    def draw(self, points: Array, count: int, rng: np.random.Generator) -> Array:
        """Noiseless values [count, m] at points [m, d], drawn jointly."""
        mean, explained = self._explained(points)
        variances, vectors = np.linalg.eigh(self._covariance(points, points) - explained.T @ explained)
        root = vectors * np.sqrt(np.maximum(variances, 0.0))  # rounding leaves tiny negative ones
        drawn = mean + rng.standard_normal((count, len(points))) @ root.T
        return np.asarray(self.value_mean + self.value_scale * drawn)

    def _explained(self, points: Array) -> tuple[Array, Array]:
        """At points [m, d]: the standardised mean [m], and the factor [n, m] of the variance it explains."""
        from scipy.linalg import solve_triangular

        cross = self._covariance(points, self.points)
        return cross @ self.weights, solve_triangular(self.factor, cross.T, lower=True, check_finite=False)

    def _covariance(self, one: Array, other: Array) -> Array:
        """[m, n] of points [m, d] with [n, d]."""
        squared = np.tensordot(self.inverse_squared_lengths, _squared_distances(one, other, self.unordered), 1)
        return self.output_variance * _matern(squared)[0]


def fit(
    points: Array, values: Array, *, unordered: Sequence[bool], noise_variance: tuple[float, float] = NOISE_VARIANCE
) -> Process:
    """The process with the most probable lengths, output variance and noise, given finite values [n] at points [n, d].

    Args:
        points: in the unit cube; equal choices of a dimension without order have equal coordinates.
        unordered: per dimension, whether its values have no order.
        noise_variance: its logarithm's prior, of values of variance 1: mean and standard deviation.
    """
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    mean, scale = float(values.mean()), float(values.std()) or 1.0
    target = (values - mean) / scale
    squared = _squared_distances(points, points, unordered)
    prior = np.array([INVERSE_SQUARED_LENGTH] * len(unordered) + [OUTPUT_VARIANCE, noise_variance])
    found = minimize(
        lambda theta: _negative_log_posterior(theta, squared, target, prior),
        prior[:, 0],
        jac=True,
        method="L-BFGS-B",
        bounds=[(-8.0, 8.0)] * (len(unordered) + 1) + [(math.log(MIN_NOISE_VARIANCE), 1.0)],
        options={"maxiter": 50, "ftol": 1e-6},
    )
    *inverse, output, noise = np.exp(found.x)
    covariance = output * _matern(np.tensordot(inverse, squared, 1))[0] + noise * np.eye(len(values))
    lower = np.tril(cho_factor(covariance, lower=True)[0])
    return Process(
        points=points,
        unordered=tuple(unordered),
        inverse_squared_lengths=np.array(inverse),
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
    near = np.maximum(z, -1.0)
    direct = np.log(np.exp(-(near**2) / 2) / math.sqrt(2 * math.pi) + near * ndtr(near))
    far = np.clip(z, -1e5, -1.0)  # beyond, the correction below would be lost in rounding; the density says enough
    log_density = -(z**2) / 2 - math.log(2 * math.pi) / 2
    tail = log_density + np.log1p(far * math.sqrt(math.pi / 2) * erfcx(-far / math.sqrt(2)))
    return np.asarray(np.log(deviation) + np.where(z > -1.0, direct, tail))


def maximise(
    score: Callable[[Array], Array], snap: Callable[[Array], Array], *, near: Array, rng: np.random.Generator
) -> Array:
    """The point [d] of the unit cube with the greatest score found.

    256 quasi-random points and points near those given; then, in eight rounds, points ever closer to the best eight.

    Args:
        score: [m, d] -> [m].
        snap: [m, d] -> [m, d], the nearest points that can be tried.
        near: [k, d] where good points are expected; may be empty.
        rng: the only source of randomness.
    """
    from scipy.stats.qmc import Sobol

    spread = Sobol(near.shape[1], rng=rng).random(256)
    points = snap(np.vstack([spread, *(_around(near, width, 32, rng) for width in (0.2, 0.05))]))
    scores = score(points)
    width = 0.1
    for _ in range(8):
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


def _squared_distances(one: Array, other: Array, unordered: Sequence[bool]) -> Array:
    """[d, m, n] along each dimension between points [m, d] and [n, d]."""
    distances = np.abs(one.T[:, :, None] - other.T[:, None, :])
    named = np.flatnonzero(unordered)
    distances[named] = distances[named] > 1e-9
    return np.asarray(distances**2)


def _matern(squared: Array) -> tuple[Array, Array]:
    """Matern 5/2 correlation at squared scaled distances, and its derivative by them."""
    root = np.sqrt(5 * squared)
    decay = np.exp(-root)
    return (1 + root + root**2 / 3) * decay, -5 / 6 * (1 + root) * decay


def _negative_log_posterior(theta: Array, squared: Array, target: Array, prior: Array) -> tuple[float, Array]:
    """Up to a constant, with its gradient by the logarithms ``theta``: d inverse squared lengths, output, noise."""
    from scipy.linalg import lapack

    inverse, output, noise = np.exp(theta[:-2]), math.exp(theta[-2]), math.exp(theta[-1])
    correlation, slope = _matern(np.tensordot(inverse, squared, 1))
    lower, failed = lapack.dpotrf(output * correlation + noise * np.eye(len(target)), lower=1)
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
    by_noise = noise * np.trace(sensitivity)
    gradient: Any = -np.concatenate([by_length, [by_output, by_noise]]) / 2 + away / prior[:, 1]
    return float(value), gradient
