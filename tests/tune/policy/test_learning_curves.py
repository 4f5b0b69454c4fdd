"""Predicted final values: the latest value and what others gained, by configuration once enough are completed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import pytest

from tests.tables import add_trial, search_settings
from tune.history.table import Table, Trial
from tune.policy.learning_curves import MAX_COMPLETED, MIN_COMPLETED, MIN_STD, predict_final_values

SETTINGS = search_settings(epochs=12)


def completed(gains: Sequence[float], rates: Sequence[float] = ()) -> tuple[Table, list[Trial]]:
    """Completed trials that were at 0.5 after three epochs and gained so much until the last."""
    table = Table()
    for number, gain in enumerate(gains):
        rate = rates[number] if rates else 1e-3
        params = {"learning_rate": rate, "batch_size": 8, "image_size": 128}
        add_trial(table, SETTINGS, values=[0.5] * 3 + [0.5 + gain] * 9, params=params)
    return table, list(table.trials.values())


def waiting(table: Table, *, value: float = 0.4, rate: float = 1e-3, epochs: int = 3) -> Trial:
    params = {"learning_rate": rate, "batch_size": 8, "image_size": 128}
    return add_trial(table, SETTINGS, values=[value] * epochs, state="paused", params=params)


def prediction(trial: Trial, finished: Sequence[Trial]) -> NormalDist:
    return predict_final_values([trial], finished, SETTINGS)[trial.number]


def certain(value: float) -> NormalDist:
    return NormalDist(value, MIN_STD)


def test_with_nothing_completed_a_trial_is_where_it_is() -> None:
    assert prediction(waiting(Table()), []) == certain(0.4)


def test_few_gains_are_averaged_with_one_that_is_none() -> None:
    table, finished = completed([0.2, 0.4])
    found = prediction(waiting(table), finished)
    assert found.mean == pytest.approx(0.4 + 0.2)
    assert found.stdev == pytest.approx(math.sqrt(0.08 / 3))


def test_a_completed_trial_has_nothing_to_gain() -> None:
    _, finished = completed([0.2, 0.4, 0.1, 0.3, 0.2, 0.25])
    assert prediction(finished[1], finished) == certain(0.9)


def test_a_gain_below_nothing_is_none() -> None:
    table, finished = completed([-0.2, -0.4])
    assert prediction(waiting(table), finished).mean == 0.4


def test_slow_starters_are_predicted_from_their_configuration() -> None:
    rates = [1e-4, 2e-4, 4e-4, 1e-3, 2e-3, 4e-3]
    table, finished = completed([0.40, 0.35, 0.28, 0.20, 0.12, 0.05], rates)
    slow, fast = waiting(table, rate=1.5e-4), waiting(table, rate=3e-3)
    assert prediction(slow, finished).mean > prediction(fast, finished).mean + 0.2
    assert len(finished) >= MIN_COMPLETED


def test_where_nothing_was_completed_nearby_it_is_less_certain() -> None:
    table, finished = completed([0.40, 0.10, 0.30, 0.20, 0.35], [1e-4, 1.2e-4, 1.4e-4, 1.6e-4, 1.8e-4])
    near, far = waiting(table, rate=1.5e-4), waiting(table, rate=1e-2)
    assert prediction(far, finished).stdev > prediction(near, finished).stdev


def test_only_the_latest_are_looked_at() -> None:
    table, finished = completed([0.9] * 10 + [0.1] * MAX_COMPLETED)
    assert prediction(waiting(table), finished).mean == pytest.approx(0.5, abs=0.01)


def test_trials_without_an_epoch_have_none() -> None:
    trial = waiting(Table(), epochs=0)
    assert predict_final_values([trial], [], SETTINGS) == {}
