"""Which configurations are run again, and which one wins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import add_trial, search_settings
from tune.history.journal import SearchStarted, State, Table
from tune.policy.replication import (
    best_trial,
    full_run_s,
    next_replicate,
    replicate_seed,
    replicated,
    replicates_s,
    seed_std,
)

SETTINGS = search_settings(epochs=2, trials=5, confirm=2)


def table_of(*values: float) -> Table:
    """A table whose trials reached these values in their second epoch."""
    table = Table()
    table.started = SearchStarted(
        at_ms=1, name="t", search_id="t", settings=SETTINGS.model_dump(mode="json"), data={}, versions={}, command=""
    )
    for value in values:
        add_trial(table, SETTINGS, values=[value / 2, value])
    return table


def replicate(table: Table, number: int, value: float, *, state: State = "completed") -> None:
    """Run trial ``number`` again, with this value."""
    add_trial(table, SETTINGS, values=[value / 2, value], state=state).repeats = number


def test_the_best_two_are_run_again_and_then_no_more() -> None:
    table = table_of(0.1, 0.8, 0.3, 0.7)
    first = next_replicate(table, SETTINGS)
    assert first is table.trials[2]
    replicate(table, 2, 0.8)
    second = next_replicate(table, SETTINGS)
    assert second is table.trials[4]
    replicate(table, 4, 0.7)
    assert next_replicate(table, SETTINGS) is None


def test_configurations_within_the_seed_std_of_the_winner_are_run_again_as_well() -> None:
    table = table_of(0.1, 0.80, 0.79, 0.70)
    replicate(table, 2, 0.60)  # 0.2 apart: one run differs from the next by 0.14
    replicate(table, 3, 0.81)
    assert next_replicate(table, SETTINGS) is table.trials[4]


@pytest.mark.parametrize("state", ["failed", "infeasible"])
def test_what_could_not_be_run_is_not_run_again(state: State) -> None:
    table = table_of(0.1)
    add_trial(table, SETTINGS, values=[0.9], state=state)
    assert next_replicate(table, SETTINGS) is table.trials[1]


def test_a_replicate_that_failed_is_not_tried_for_ever() -> None:
    table = table_of(0.8)
    replicate(table, 1, 0.1, state="failed")
    assert next_replicate(table, SETTINGS) is None
    assert replicated(table) == []


def test_without_confirmation_nothing_is_run_again() -> None:
    assert next_replicate(table_of(0.8, 0.7), search_settings(confirm=0)) is None


def test_the_winner_has_the_highest_mean_and_its_best_run_is_taken() -> None:
    table = table_of(0.1, 0.9, 0.8)
    replicate(table, 2, 0.5)
    replicate(table, 3, 0.85)
    winner, loser = replicated(table)
    assert (winner.values, loser.values) == ((0.8, 0.85), (0.9, 0.5))
    assert best_trial(table) is winner.best_trial is table.trials[5]


def test_before_any_replicate_the_leader_is_the_best_and_the_std_unknown() -> None:
    table = table_of(0.1, 0.9)
    assert best_trial(table) is table.trials[2]
    assert seed_std(table) is None


@given(pairs=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5))
def test_the_seed_std_is_the_pooled_standard_deviation_of_pairs(pairs: Sequence[tuple[float, float]]) -> None:
    table = table_of(*(first for first, _ in pairs))
    for number, (_, second) in enumerate(pairs, start=1):
        replicate(table, number, second)
    expected = math.sqrt(sum((a - b) ** 2 for a, b in pairs) / 2 / len(pairs))
    assert seed_std(table) == pytest.approx(expected, abs=1e-12)


def test_replicates_cost_full_runs_at_their_own_pace() -> None:
    table = table_of(0.1, 0.8, 0.7)
    assert full_run_s(table.trials[1]) == pytest.approx(2 * (2.0 + 0.3))
    assert replicates_s(table, SETTINGS) == pytest.approx(2 * 2 * (2.0 + 0.3))


def test_a_replicate_has_a_seed_of_its_own() -> None:
    table = table_of(0.1, 0.8)
    seeds = {replicate_seed(SETTINGS, trial) for trial in table.trials.values()}
    assert len(seeds | {trial.config.seed for trial in table.trials.values()}) == 3
