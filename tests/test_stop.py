"""The stopping rule: strict at the rungs, lenient while there is nothing to compare with."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import add_trial, search_settings
from tune.journal import State, Table
from tune.stop import rung_epochs, verdict

SETTINGS = search_settings(epochs=12)
RUNG = rung_epochs(SETTINGS)[0]
VALUES = st.floats(0, 1, allow_nan=False)


def table_with(*others: float, state: State = "completed") -> Table:
    """A default that reached nothing, and trials with these values at the first rung."""
    table = Table()
    add_trial(table, SETTINGS, values=[0.0] * 12)
    for value in others:
        add_trial(table, SETTINGS, values=[value] * RUNG, state=state)
    return table


def goes_on(table: Table, value: float) -> bool:
    trial = add_trial(table, SETTINGS, values=[value] * RUNG, state="running")
    answer = verdict(table, trial, SETTINGS).action == "go on"
    del table.trials[trial.number]
    return answer


@pytest.mark.parametrize(
    ("epochs", "rungs"), [(12, [2, 6]), (52, [9, 26]), (50, [9, 25]), (3, [1, 2]), (2, [1]), (1, [])]
)
def test_rungs_are_epochs_before_the_last(epochs: int, rungs: list[int]) -> None:
    assert rung_epochs(search_settings(epochs=epochs)) == rungs


@given(st.lists(VALUES, max_size=6), VALUES, VALUES)
def test_what_goes_on_would_also_go_on_with_more(others: list[float], value: float, more: float) -> None:
    table = table_with(*others)
    low, high = sorted((value, more))
    assert goes_on(table, high) or not goes_on(table, low)


@given(st.lists(VALUES, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_the_others_does_not_matter(others: list[float], chance: random.Random) -> None:
    shuffled = list(others)
    chance.shuffle(shuffled)
    value = others[0]
    assert goes_on(table_with(*others), value) == goes_on(table_with(*shuffled), value)


@given(VALUES)
def test_the_first_at_a_rung_goes_on(value: float) -> None:
    table = Table()
    trial = add_trial(table, SETTINGS, values=[value] * RUNG, state="running")
    assert verdict(table, trial, SETTINGS).action == "go on"


@given(VALUES)
def test_equal_values_go_on(value: float) -> None:
    assert goes_on(table_with(value, value), value)


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_the_default_is_never_stopped(others: list[float]) -> None:
    table = Table()
    default = add_trial(table, SETTINGS, values=[0.0] * RUNG, state="running")
    for value in others:
        add_trial(table, SETTINGS, values=[value] * RUNG)
    assert verdict(table, default, SETTINGS).action == "go on"


def test_a_weaker_trial_is_stopped_and_told_why() -> None:
    table = table_with(0.5)
    trial = add_trial(table, SETTINGS, values=[0.1, 0.3], state="running")
    said = verdict(table, trial, SETTINGS)
    assert said.action != "go on"
    assert said.reason == "ap50 0.300 at epoch 2, the best had 0.500 there"


@pytest.mark.parametrize("epoch", [1, 3, 5, 7, 11])
def test_nothing_is_stopped_between_rungs(epoch: int) -> None:
    table = table_with(0.9)
    trial = add_trial(table, SETTINGS, values=[0.0] * epoch, state="running")
    assert verdict(table, trial, SETTINGS).action == "go on"


@pytest.mark.parametrize("state", ["failed", "infeasible"])
def test_trials_that_broke_are_not_compared_with(state: State) -> None:
    assert goes_on(table_with(0.9, state=state), 0.1)


def test_an_epoch_without_a_score_counts_as_nothing() -> None:
    table = table_with(0.1)
    trial = add_trial(table, SETTINGS, values=[0.0] * RUNG, state="running")
    scores = trial.reports[-1].scores.model_copy(update={"ap50": None})
    trial.reports[-1] = trial.reports[-1].model_copy(update={"scores": scores})
    assert verdict(table, trial, SETTINGS).action != "go on"
