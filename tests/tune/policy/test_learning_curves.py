"""What a trial may still reach: its value and what others gained, told by where they lie once enough are completed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import add_trial, search_settings
from tune.history.table import Table, Trial
from tune.policy.learning_curves import FEWEST, MOST, Outlook, outlooks

SETTINGS = search_settings(epochs=12)
VALUES = st.floats(0, 1, allow_nan=False)


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


def outlook(trial: Trial, finished: Sequence[Trial]) -> Outlook:
    return outlooks([trial], finished, SETTINGS)[trial.number]


def test_with_nothing_completed_a_trial_is_where_it_is() -> None:
    assert outlook(waiting(Table()), []) == Outlook(mean=0.4, deviation=0.0)


def test_few_gains_are_averaged_with_one_that_is_none() -> None:
    table, finished = completed([0.2, 0.4])
    found = outlook(waiting(table), finished)
    assert found.mean == pytest.approx(0.4 + 0.2)
    assert found.deviation == pytest.approx(math.sqrt(0.08 / 3))


def test_a_completed_trial_has_nothing_to_gain() -> None:
    _, finished = completed([0.2, 0.4, 0.1, 0.3, 0.2, 0.25])
    assert outlook(finished[1], finished) == Outlook(mean=0.9, deviation=0.0)


def test_a_gain_below_nothing_is_none() -> None:
    table, finished = completed([-0.2, -0.4])
    assert outlook(waiting(table), finished).mean == 0.4


def test_slow_starters_are_told_by_where_they_lie() -> None:
    rates = [1e-4, 2e-4, 4e-4, 1e-3, 2e-3, 4e-3]
    table, finished = completed([0.40, 0.35, 0.28, 0.20, 0.12, 0.05], rates)
    slow, fast = waiting(table, rate=1.5e-4), waiting(table, rate=3e-3)
    assert outlook(slow, finished).mean > outlook(fast, finished).mean + 0.2
    assert len(finished) >= FEWEST


def test_where_nothing_was_completed_nearby_it_is_less_certain() -> None:
    table, finished = completed([0.40, 0.10, 0.30, 0.20, 0.35], [1e-4, 1.2e-4, 1.4e-4, 1.6e-4, 1.8e-4])
    near, far = waiting(table, rate=1.5e-4), waiting(table, rate=1e-2)
    assert outlook(far, finished).deviation > outlook(near, finished).deviation


def test_only_the_latest_are_looked_at() -> None:
    table, finished = completed([0.9] * 10 + [0.1] * MOST)
    assert outlook(waiting(table), finished).mean == pytest.approx(0.5, abs=0.01)


def test_trials_without_an_epoch_have_none() -> None:
    trial = waiting(Table(), epochs=0)
    assert outlooks([trial], [], SETTINGS) == {}


@given(VALUES, st.floats(0, 1), st.lists(VALUES, min_size=2))
def test_a_chance_is_a_probability_and_falls_with_what_is_asked(
    mean: float, deviation: float, asked: list[float]
) -> None:
    one = Outlook(mean=mean, deviation=deviation)
    chances = [one.chance_of(value) for value in sorted(asked)]
    assert all(0.0 <= chance <= 1.0 for chance in chances)
    assert all(higher <= lower for lower, higher in pairwise(chances))


def test_a_chance_is_that_of_a_normal_distribution() -> None:
    assert Outlook(mean=0.5, deviation=0.1).chance_of(0.5 + 0.1 * 1.2815515655) == pytest.approx(0.1)
