"""Which configurations are run again, and which one wins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import add_trial, search_settings, search_started
from tune.history.events import State
from tune.history.table import Table
from tune.policy.replication import (
    best_trial,
    full_run_s,
    next_repeat,
    repeat_seed,
    repeated,
    rest_s,
    seed_std,
)

SETTINGS = search_settings(epochs=2, trials=5, confirm=2)
EPOCH_S = 2.0 + 0.3  # training and evaluation, of ``tests.builders.epoch_report``


def table_of(*values: float) -> Table:
    """A table whose trials reached these values in their second epoch."""
    table = Table()
    table.started = search_started(SETTINGS)
    for value in values:
        add_trial(table, SETTINGS, values=[value / 2, value])
    return table


def repeat(table: Table, number: int, value: float, *, state: State = "completed") -> None:
    """Run trial ``number`` again, with this value."""
    add_trial(table, SETTINGS, values=[value / 2, value], state=state).repeats = number


def test_the_best_two_are_run_again_and_then_no_more() -> None:
    table = table_of(0.1, 0.8, 0.3, 0.7)
    first = next_repeat(table, SETTINGS)
    assert first is table.trials[2]
    repeat(table, 2, 0.8)
    second = next_repeat(table, SETTINGS)
    assert second is table.trials[4]
    repeat(table, 4, 0.7)
    assert next_repeat(table, SETTINGS) is None


def test_configurations_within_the_seed_std_of_the_winner_are_run_again_as_well() -> None:
    table = table_of(0.1, 0.80, 0.79, 0.70)
    repeat(table, 2, 0.60)  # 0.2 apart: one run differs from the next by 0.14
    repeat(table, 3, 0.81)
    assert next_repeat(table, SETTINGS) is table.trials[4]


@pytest.mark.parametrize(("concurrent", "expected"), [(1, None), (2, 4), (3, 4)])
def test_no_place_stays_empty_beside_a_repeat(concurrent: int, expected: int | None) -> None:
    settings = search_settings(epochs=2, trials=5, confirm=1, concurrent=concurrent)
    table = table_of(0.1, 0.8, 0.3, 0.7)
    repeat(table, 2, 0.0, state="running")
    following = next_repeat(table, settings)
    assert (following and following.number) == expected
    repeat(table, 4, 0.0, state="running")
    assert next_repeat(table, settings) is None  # twice as many as asked for at the most


@pytest.mark.parametrize("state", ["failed", "infeasible"])
def test_what_could_not_be_run_is_not_run_again(state: State) -> None:
    table = table_of(0.1)
    add_trial(table, SETTINGS, values=[0.9], state=state)
    assert next_repeat(table, SETTINGS) is table.trials[1]


def test_a_repeat_that_failed_is_not_tried_for_ever() -> None:
    table = table_of(0.8)
    repeat(table, 1, 0.1, state="failed")
    assert next_repeat(table, SETTINGS) is None
    assert repeated(table) == []


def test_without_confirmation_nothing_is_run_again() -> None:
    assert next_repeat(table_of(0.8, 0.7), search_settings(confirm=0)) is None


def test_the_winner_has_the_highest_mean_and_its_best_run_is_taken() -> None:
    table = table_of(0.1, 0.9, 0.8)
    repeat(table, 2, 0.5)
    repeat(table, 3, 0.85)
    winner, loser = repeated(table)
    assert (winner.values, loser.values) == ((0.8, 0.85), (0.9, 0.5))
    assert best_trial(table) is winner.best_trial is table.trials[5]


def test_a_repeat_of_another_does_not_make_it_the_best_before_the_leading_one_was_repeated() -> None:
    table = table_of(0.1, 0.9, 0.8)
    repeat(table, 3, 0.8)
    assert best_trial(table) is table.trials[2]
    repeat(table, 2, 0.5, state="interrupted")  # the hours ended
    assert best_trial(table) is table.trials[2]
    table.trials[5].state = "completed"
    assert best_trial(table) is table.trials[3]


def test_before_any_repeat_the_leader_is_the_best_and_the_std_unknown() -> None:
    table = table_of(0.1, 0.9)
    assert best_trial(table) is table.trials[2]
    assert seed_std(table) is None


@given(pairs=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5))
def test_the_seed_std_is_the_pooled_standard_deviation_of_pairs(pairs: Sequence[tuple[float, float]]) -> None:
    table = table_of(*(first for first, _ in pairs))
    for number, (_, second) in enumerate(pairs, start=1):
        repeat(table, number, second)
    expected = math.sqrt(sum((a - b) ** 2 for a, b in pairs) / 2 / len(pairs))
    assert seed_std(table) == pytest.approx(expected, abs=1e-12)


def test_the_rest_is_an_epoch_under_way_and_the_repeats_at_their_own_pace() -> None:
    table = table_of(0.1, 0.8, 0.7)
    assert full_run_s(table.trials[1]) == pytest.approx(2 * EPOCH_S)
    assert rest_s(table, SETTINGS, at_most_s=math.inf) == pytest.approx((1 + 2 * 2) * EPOCH_S)
    repeat(table, 2, 0.8)
    assert rest_s(table, SETTINGS, at_most_s=math.inf) == pytest.approx((1 + 2) * EPOCH_S)


def test_the_rest_includes_the_default_to_its_last_epoch() -> None:
    table = table_of(0.1, 0.8, 0.7)
    table.trials[1].state = "paused"
    del table.trials[1].reports[1:]
    assert rest_s(table, SETTINGS, at_most_s=math.inf) == pytest.approx((1 + 2 * 2 + 1) * EPOCH_S)


@pytest.mark.parametrize(("at_most", "epochs"), [(5.1, 5), (4.9, 3), (2.9, 1), (0.5, 0.5)])
def test_no_time_is_kept_for_a_repeat_that_would_not_end(at_most: float, epochs: float) -> None:
    table = table_of(0.1, 0.8, 0.7)
    assert rest_s(table, SETTINGS, at_most_s=at_most * EPOCH_S) == pytest.approx(epochs * EPOCH_S)


def test_a_repeat_has_a_seed_of_its_own() -> None:
    table = table_of(0.1, 0.8)
    seeds = {repeat_seed(SETTINGS, trial) for trial in table.trials.values()}
    assert len(seeds | {trial.config.seed for trial in table.trials.values()}) == 3
