"""What a search does next, as a function of the table, the time left and the trials that have a worker."""

from __future__ import annotations

import math

import pytest

from tests.tables import EPOCH_S, add_trial, search_settings, search_started
from tune.history.table import Table
from tune.policy.schedule import Continue, Promote, Propose, Repeat, Step, is_complete, may_run, next_step
from tune.settings import SearchSettings

SETTINGS = search_settings(epochs=12, trials=3, confirm=1)
HOURS = search_settings(epochs=12, trials=None, hours=1.0, confirm=1)


def table_of(settings: SearchSettings = SETTINGS) -> Table:
    table = Table()
    table.apply(search_started(settings))
    return table


def step(
    table: Table, settings: SearchSettings = SETTINGS, *, left_s: float = math.inf, busy: set[int] | None = None
) -> Step | None:
    return next_step(table, settings, left_s=left_s, with_worker=busy or set())


def completed(table: Table, settings: SearchSettings, value: float) -> None:
    add_trial(table, settings, values=[value] * 12)


def test_a_new_search_proposes() -> None:
    assert step(table_of()) == Propose()


@pytest.mark.parametrize("state", ["proposed", "running", "interrupted"])
def test_what_was_begun_and_has_no_worker_comes_first(state: str) -> None:
    table = table_of()
    begun = add_trial(table, SETTINGS, values=[0.1], state=state)
    assert step(table) == Continue(begun)
    assert step(table, busy={1}) == Propose()


def test_of_several_that_were_begun_the_best_comes_first() -> None:
    table = table_of()
    for values in ([], [0.1], [0.3], [0.2]):
        add_trial(table, SETTINGS, values=values, state="interrupted")
    assert step(table) == Continue(table.trials[3])


def test_a_trial_of_an_outage_waits_for_an_epoch_of_another() -> None:
    table = table_of()
    failed = add_trial(table, SETTINGS, values=[], state="interrupted")
    failed.after_outage = True
    assert step(table) == Propose()
    table.session_epochs = 1
    assert step(table) == Continue(failed)


def test_a_trial_of_an_outage_is_tried_where_nothing_else_is_left() -> None:
    table = table_of()
    for _ in range(3):
        add_trial(table, SETTINGS, values=[], state="interrupted").after_outage = True
    assert step(table) == Continue(table.trials[1])


def test_once_all_were_tried_the_default_is_completed_and_then_the_best_is_repeated() -> None:
    table = table_of()
    default = add_trial(table, SETTINGS, values=[0.1, 0.1], state="paused")
    default.origin = "default"
    completed(table, SETTINGS, 0.5)
    completed(table, SETTINGS, 0.7)
    assert step(table) == Promote(default, 12)
    default.state = "completed"
    assert step(table) == Repeat(table.trials[3])
    assert not is_complete(table, SETTINGS)
    completed(table, SETTINGS, 0.6)
    table.trials[4].repeats = 3
    assert step(table) is None
    assert is_complete(table, SETTINGS)


def test_what_runs_decides_before_the_repeats() -> None:
    table = table_of()
    for value in (0.1, 0.2, 0.3):
        completed(table, SETTINGS, value)
    table.trials[3].state = "running"
    assert step(table, busy={3}) is None


def test_the_default_is_completed_beside_what_still_runs() -> None:
    table = table_of()
    default = add_trial(table, SETTINGS, values=[0.1, 0.1], state="paused")
    default.origin = "default"
    for value in (0.2, 0.3):
        completed(table, SETTINGS, value)
    table.trials[3].state = "running"
    assert step(table, busy={3}) == Promote(default, 12)
    assert step(table, busy={1, 3}) is None


def test_the_best_are_repeated_side_by_side_and_others_only_once_those_are_known() -> None:
    settings = search_settings(epochs=12, trials=3, confirm=2, concurrent=2)
    table = table_of(settings)
    for value in (0.5, 0.69, 0.7):
        completed(table, settings, value)
    assert step(table, settings) == Repeat(table.trials[3])
    add_trial(table, settings, values=[0.1], state="running").repeats = 3
    assert step(table, settings, busy={4}) == Repeat(table.trials[2])
    add_trial(table, settings, values=[0.3] * 12).repeats = 2  # 0.39 from the other: the third is as likely the best
    assert step(table, settings, busy={4}) is None
    table.trials[4].state = "completed"
    assert step(table, settings) == Repeat(table.trials[1])


def test_hours_that_are_nearly_over_leave_time_for_the_default_and_the_repeat_alone() -> None:
    table = table_of(HOURS)
    default = add_trial(table, HOURS, values=[0.1] * 3, state="paused")
    default.origin = "default"
    other = add_trial(table, HOURS, values=[0.5] * 12, state="interrupted")
    plenty_s, enough_s = 25 * EPOCH_S, 22 * EPOCH_S  # 9 epochs of the default, 12 of the repeat, one under way
    assert step(table, HOURS, left_s=plenty_s) == Continue(other)
    assert step(table, HOURS, left_s=enough_s) == Promote(default, 12)
    assert [may_run(table, HOURS, trial, left_s=enough_s) for trial in (default, other)] == [True, False]
    default.state = "completed"
    assert step(table, HOURS, left_s=12 * EPOCH_S) == Repeat(other)
    assert step(table, HOURS, left_s=11 * EPOCH_S) == Continue(other)  # the repeat would not end


@pytest.mark.parametrize(("begun", "num_epochs"), [(9, 12), (6, 9), (1, 4)])
def test_the_best_is_promoted_for_as_many_epochs_as_are_left(begun: int, num_epochs: int) -> None:
    """Of its 9 those that end in time; 12 of a repeat are kept back. The default, which waits too, comes first."""
    table = table_of(HOURS)
    default = add_trial(table, HOURS, values=[0.1] * 3, state="paused")
    default.origin = "default"
    best = add_trial(table, HOURS, values=[0.5] * 3, state="paused")
    left_s = (12 + begun + 0.5) * EPOCH_S
    assert step(table, HOURS, left_s=9 * EPOCH_S + left_s) == Promote(default, 12)
    default.state = "running"
    assert step(table, HOURS, left_s=left_s, busy={1}) == Promote(best, num_epochs)


def test_a_default_that_does_not_fit_any_more_is_shortened_too() -> None:
    table = table_of(HOURS)
    default = add_trial(table, HOURS, values=[0.1] * 3, state="paused")
    default.origin = "default"
    assert step(table, HOURS, left_s=4.5 * EPOCH_S) == Promote(default, 7)
    assert step(table, HOURS, left_s=0.5 * EPOCH_S) is None


def test_what_was_shortened_goes_on_to_its_end() -> None:
    table = table_of(HOURS)
    add_trial(table, HOURS, values=[0.1] * 3, state="paused").origin = "default"
    best = add_trial(table, HOURS, values=[0.5] * 3, state="running")
    assert not may_run(table, HOURS, best, left_s=9 * EPOCH_S)
    best.shortened = True
    assert may_run(table, HOURS, best, left_s=9 * EPOCH_S)


def test_a_search_with_hours_alone_is_never_complete() -> None:
    table = table_of(HOURS)
    completed(table, HOURS, 0.5)
    assert not is_complete(table, HOURS)
