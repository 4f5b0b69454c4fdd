"""What a trial does after an epoch: it pauses at the rungs, unless it would be promoted at once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import (
    EPOCH_S,
    HIGHER,
    RUNG,
    TWELVE,
    VALUES,
    add_trial,
    decided,
    late,
    opened,
    paused,
    search_settings,
    search_started,
)
from tune.history.table import Table, Trial
from tune.policy.early_stopping import decide


def without_score(trial: Trial) -> None:
    scores = trial.reports[-1].scores.model_copy(update={"ap50": None})
    trial.reports[-1] = trial.reports[-1].model_copy(update={"scores": scores})


@given(st.lists(VALUES, max_size=7), VALUES, VALUES)
def test_what_continues_would_also_continue_with_more(others: list[float], value: float, more: float) -> None:
    low, high = sorted((value, more))
    assert decided(paused(*others), high) == "continue" or decided(paused(*others), low) != "continue"


@given(st.lists(VALUES, max_size=7), st.randoms(use_true_random=False), VALUES)
def test_the_order_of_the_others_does_not_matter(others: list[float], chance: random.Random, value: float) -> None:
    shuffled = list(others)
    chance.shuffle(shuffled)
    assert decided(paused(*others), value) == decided(paused(*shuffled), value)


@pytest.mark.parametrize(("others", "value", "action"), [
    ([], 0.0, "pause"), ([0.0, 0.001, 0.004], 0.002, "continue"), ([0.001], 0.3, "continue"),
    ([0.0, 0.3], 0.002, "pause"), ([0.3], 0.2, "pause"),
])  # fmt: skip
def test_no_trial_pauses_where_the_others_have_learnt_nothing(others: list[float], value: float, action: str) -> None:
    assert decided(paused(*others), value) == action


@pytest.mark.parametrize(("value", "action"), [(0.6, "continue"), (0.55, "continue"), (0.1, "pause")])
def test_a_late_trial_continues_while_it_may_become_the_best(value: float, action: str) -> None:
    assert decided(late(0.2, 0.3, 0.1), value) == action


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=8), VALUES, VALUES)
def test_a_late_trial_that_continues_would_also_continue_with_more(
    gains: list[float], value: float, more: float
) -> None:
    low, high = sorted((value, more))
    assert decided(late(*gains), high) == "continue" or decided(late(*gains), low) != "continue"


@pytest.mark.parametrize("epoch", [epoch for epoch in range(1, 12) if epoch not in (RUNG, HIGHER)])
def test_no_trial_pauses_between_rungs(epoch: int) -> None:
    table = paused(0.9, 0.9)
    trial = add_trial(table, TWELVE, values=[0.0] * epoch, state="running")
    assert decide(table, trial, TWELVE).action == "continue"


def test_an_epoch_without_a_score_stops() -> None:
    table = paused(0.1)
    trial = add_trial(table, TWELVE, values=[0.5] * RUNG, state="running")
    without_score(trial)
    decision = decide(table, trial, TWELVE)
    assert (decision.action, decision.reason) == ("stop", f"no AP50 at epoch {RUNG}")


def test_a_paused_trial_has_a_reason() -> None:
    table = paused(0.5)
    trial = add_trial(table, TWELVE, values=[0.3] * RUNG, state="running")
    assert decide(table, trial, TWELVE).reason == f"AP50 0.300 at epoch {RUNG}"


def test_what_is_as_good_as_the_best_completed_trial_was_there_does_not_pause() -> None:
    table = paused(0.1, 0.1, 0.1, 0.1, 0.1)
    add_trial(table, TWELVE, values=[0.5] * RUNG + [0.9] * (12 - RUNG))
    assert decided(table, 0.5) == "continue"
    for trial in table.trials.values():  # one in nine is promoted already
        trial.state = "completed" if trial.epochs == 12 else "running"
    assert decided(table, 0.5) == "continue"
    assert decided(table, 0.49) == "pause"


@pytest.mark.parametrize(("count", "action"), [(15, "continue"), (16, "pause"), (29, "pause")])
def test_all_initial_points_pause_at_the_lowest_rung_however_many(count: int, action: str) -> None:
    settings = search_settings(epochs=52, initial_points=opened(count).initial_points)
    table = Table()
    for _ in range(16):
        add_trial(table, settings, values=[0.9] * 5, state="paused")
    last = add_trial(table, settings, values=[0.1] * 5, state="running")
    assert decide(table, last, settings).action == action


@pytest.mark.parametrize(("number", "action"), [(16, "pause"), (17, "continue")])
def test_only_early_trials_pause_at_half_the_first_rung(number: int, action: str) -> None:
    settings = search_settings(epochs=52)
    table = Table()
    for _ in range(number - 1):
        add_trial(table, settings, values=[0.9] * 5, state="stopped")
    for trial in table.trials.values():
        trial.state = "running"  # more than one in nine is promoted already
    trial = add_trial(table, settings, values=[0.1] * 5, state="running")
    assert decide(table, trial, settings).action == action


def test_without_rungs_every_trial_continues() -> None:
    settings = search_settings(epochs=12, rungs=[])
    trial = add_trial(Table(), settings, values=[0.0] * RUNG, state="running")
    assert decide(Table(trials={1: trial}), trial, settings).action == "continue"


@pytest.mark.parametrize(("left_s", "action"), [(9 * EPOCH_S, "continue"), (5 * EPOCH_S, "pause")])
def test_the_best_pauses_where_the_hours_do_not_leave_its_rest(left_s: float, action: str) -> None:
    """It is promoted at once, for fewer epochs."""
    settings = search_settings(epochs=12, hours=1.0)
    table = paused(0.3, 0.4)
    table.apply(search_started(settings))
    table.trials[1].state = "failed"  # the default, which would come first
    best = add_trial(table, settings, values=[0.5] * RUNG, state="running")
    assert decide(table, best, settings, left_s=left_s).action == action


@pytest.mark.parametrize("shortened", [True, False])
def test_a_shortened_trial_pauses_no_more(shortened: bool) -> None:
    trial = add_trial(paused(0.9, 0.9), TWELVE, values=[0.1] * HIGHER, state="running")
    trial.shortened = shortened
    assert decide(paused(0.9, 0.9), trial, TWELVE).action == ("continue" if shortened else "pause")
