"""The Gaussian process against closed forms and numerical derivatives, and the search for its best point."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from tune.policy import gaussian_process as gaussian
from tune.policy.gaussian_process import (
    Process,
    fit,
    log_expected_improvement,
    maximise,
)
from tune.space import Array


def points(count: int, dimensions: int, *, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((count, dimensions))


def wave(x: Array) -> Array:
    """Two dimensions that matter and one that does not."""
    return np.asarray(np.sin(4 * x[:, 0]) + x[:, 1] ** 2)


@pytest.fixture(scope="module")
def process() -> Process:
    told = points(40, 3)
    return fit(told, wave(told), unordered=(False,) * 3)


def test_it_passes_through_what_it_was_told(process: Process) -> None:
    told = points(40, 3)
    mean, deviation = process.predict(told)
    assert mean == pytest.approx(wave(told), abs=0.05)
    assert deviation.max() < 0.1


def test_it_predicts_what_it_was_not_told(process: Process) -> None:
    fresh = points(200, 3, seed=1)
    mean, deviation = process.predict(fresh)
    assert np.sqrt(np.mean((mean - wave(fresh)) ** 2)) < 0.05
    assert np.mean(np.abs(mean - wave(fresh)) < 3 * deviation) > 0.95


def test_a_dimension_that_does_not_matter_gets_the_greatest_length(process: Process) -> None:
    assert np.argmin(process.inverse_squared_lengths) == 2


def test_the_prediction_is_the_textbooks() -> None:
    told, values, asked = points(6, 2), np.arange(6.0), points(4, 2, seed=1)
    found = fit(told, values, unordered=(False,) * 2)
    noise = (found.factor @ found.factor.T)[0, 0] - found.output_variance

    def kernel(a: Array, b: Array) -> Array:
        scale = np.sqrt(5 * found.inverse_squared_lengths)
        distance = np.linalg.norm((a[:, None] - b[None]) * scale, axis=2)
        return np.asarray(found.output_variance * (1 + distance + distance**2 / 3) * np.exp(-distance))

    inverse = np.linalg.inv(kernel(told, told) + noise * np.eye(6))
    cross = kernel(asked, told)
    mean, deviation = found.predict(asked)
    assert mean == pytest.approx(values.mean() + cross @ inverse @ (values - values.mean()))
    expected = found.output_variance - np.einsum("ij,jk,ik->i", cross, inverse, cross)
    assert deviation == pytest.approx(np.sqrt(expected) * values.std(), rel=1e-6)


@pytest.mark.parametrize("unordered", [(False, False, False), (False, True, False)], ids=["ordered", "with choices"])
def test_the_gradient_is_the_derivative(unordered: tuple[bool, ...]) -> None:
    told = points(12, 3)
    told[:, 1] = np.round(told[:, 1], 1)
    squared = gaussian._squared_distances(told, told, unordered)
    prior = np.array([(0.0, 1.0)] * 5)
    target = wave(told) - wave(told).mean()
    theta = np.array([0.3, -0.2, 0.5, 0.1, -4.0])

    def posterior(at: Array) -> tuple[float, Array]:
        return gaussian._negative_log_posterior(at, squared, target, prior)

    step = 1e-6
    numeric = [(posterior(theta + step * e)[0] - posterior(theta - step * e)[0]) / (2 * step) for e in np.eye(5)]
    assert posterior(theta)[1] == pytest.approx(numeric, rel=1e-4, abs=1e-6)


def test_two_different_choices_are_equally_far_apart_wherever_they_are() -> None:
    choices = np.array([[1 / 6], [3 / 6], [5 / 6]])
    squared = gaussian._squared_distances(choices, choices, (True,))[0]
    assert squared == pytest.approx(1 - np.eye(3))


@pytest.mark.parametrize("values", [np.zeros(5), np.array([1.0, 1, 1, 1, 1e9])], ids=["all equal", "one far off"])
def test_odd_values_are_borne(values: Array) -> None:
    mean, deviation = fit(points(5, 2), values, unordered=(False,) * 2).predict(points(7, 2, seed=1))
    assert np.isfinite(mean).all()
    assert (deviation > 0).all()


def test_one_point_told_many_times_is_borne() -> None:
    told = np.full((20, 2), 0.5)
    mean, _ = fit(told, np.linspace(0, 1, 20), unordered=(False,) * 2).predict(told[:1])
    assert mean[0] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("z", [-6.0, -1.001, -1.0, -0.999, 0.0, 3.0])
def test_expected_improvement_is_its_integral(z: float) -> None:
    integral, _ = quad(lambda x: max(0.0, x) * norm.pdf(x, loc=z), 0, max(z, 0) + 10, epsabs=0)
    found = log_expected_improvement(np.array([z]), np.array([1.0]), 0.0)[0]
    assert found == pytest.approx(math.log(integral), abs=1e-6)


@settings(max_examples=50)
@given(st.floats(-1e6, 40), st.floats(1e-3, 10), st.floats(1e-6, 1e-3))
def test_expected_improvement_is_finite_and_grows_with_the_mean(mean: float, deviation: float, more: float) -> None:
    means = np.array([mean, mean + more * max(1.0, abs(mean))])
    low, high = log_expected_improvement(means, np.full(2, deviation), 0.0)
    assert np.isfinite(low)
    assert high > low


def test_the_maximum_is_found_on_a_grid_that_is_snapped_to() -> None:
    def snap(x: Array) -> Array:
        return np.round(x, 1)

    found = maximise(lambda x: -np.abs(x - 0.37).sum(1), snap, near=np.full((1, 5), 0.9), rng=np.random.default_rng(0))
    assert found == pytest.approx(np.full(5, 0.4))


def test_the_maximum_is_found_to_a_thousandth() -> None:
    found = maximise(
        lambda x: -((x - 0.37) ** 2).sum(1), lambda x: x, near=np.empty((0, 3)), rng=np.random.default_rng(0)
    )
    assert found == pytest.approx(np.full(3, 0.37), abs=5e-3)
