"""The best of nine paused trials is promoted, then the likeliest; nothing depends on the order of equals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import epoch_report
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
from tune.history.events import State
from tune.history.table import Table, Trial
from tune.policy.early_stopping import MAX_PAUSED, decide, trials_to_prune
from tune.policy.promotion import OPENING, REDUCTION_FACTOR, next_promotion
from tune.settings import SearchSettings


def add_epoch(trial: Trial) -> None:
    trial.reports.append(trial.reports[-1].model_copy(update={"epoch": trial.epochs + 1}))


def trained(table: Table, trial: Trial, settings: SearchSettings, *, value: float) -> None:
    """Train it until it pauses or ends; from the higher rung on it has this value."""
    trial.state = "running"
    while trial.state == "running":
        latest = value if trial.epochs + 1 >= HIGHER else trial.values("ap50")[-1]
        trial.reports.append(epoch_report(trial.epochs + 1, ap50=latest))
        paused = decide(table, trial, settings).action == "pause"
        trial.state = "completed" if trial.epochs == 12 else "paused" if paused else "running"


@given(VALUES, st.integers(0, 10))
def test_equal_values_are_promoted_in_the_order_of_proposal(value: float, more: int) -> None:
    table = paused(*[value] * (REDUCTION_FACTOR + more))
    first = next_promotion(table, TWELVE)
    assert first is not None
    assert first.number == 1


@given(st.lists(VALUES, max_size=MAX_PAUSED), VALUES)
def test_while_there_are_too_few_to_rank_a_trial_pauses_and_none_is_pruned(others: list[float], value: float) -> None:
    table = paused(*others)
    assert decided(table, value) == "pause"
    assert next_promotion(table, TWELVE) is None
    assert trials_to_prune(table, TWELVE) == []


@given(st.lists(VALUES, min_size=REDUCTION_FACTOR, max_size=REDUCTION_FACTOR + 5))
def test_the_best_paused_trial_is_promoted(values: list[float]) -> None:
    chosen = next_promotion(paused(*values), TWELVE)
    assert chosen is not None
    assert chosen.values("ap50")[-1] == max(values)


@given(st.lists(VALUES, max_size=20))
def test_one_in_nine_is_promoted_and_never_more(values: list[float]) -> None:
    table = paused(*values)
    promoted = 0
    while (trial := next_promotion(table, TWELVE)) is not None:
        trial.state, promoted = "running", promoted + 1
    assert promoted == len(values) // REDUCTION_FACTOR


@given(st.lists(VALUES, max_size=20))
def test_what_would_be_promoted_is_not_pruned(values: list[float]) -> None:
    table = paused(*values)
    assert next_promotion(table, TWELVE) not in trials_to_prune(table, TWELVE)
    assert len(values) - len(trials_to_prune(table, TWELVE)) <= MAX_PAUSED + 1  # and the default


def test_the_higher_rung_comes_first() -> None:
    table = paused(*[0.9] * REDUCTION_FACTOR)
    for number in range(REDUCTION_FACTOR):
        add_trial(table, TWELVE, values=[0.3 if number == 1 else 0.2] * HIGHER, state="paused")
    chosen = next_promotion(table, TWELVE)
    assert chosen is not None
    assert chosen.number == REDUCTION_FACTOR + 2


def test_at_the_end_the_best_three_run_all_epochs_and_none_without_a_chance() -> None:
    settings = search_settings(epochs=12, trials=7)
    table = paused(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    assert next_promotion(table, settings) is None
    add_trial(table, settings, values=[0.35] * RUNG, state="paused")
    order = []
    while (trial := next_promotion(table, settings)) is not None:
        order.append(trial.number)
        while trial.epochs < 12:
            add_epoch(trial)
            trial.state = "running"
            if decide(table, trial, settings).action == "pause":
                trial.state = "paused"
                break
        else:
            trial.state = "completed"
    assert order == [6, 5, 4, 1, 1]  # flat curves: no other can exceed the best; the default pauses twice
    assert table.trials[6].state == "completed"
    assert table.trials[1].state == "completed"


def test_trials_that_had_learnt_nothing_do_not_count_as_promoted() -> None:
    table = Table()
    for _ in range(5):
        add_trial(table, TWELVE, values=[0.0] * RUNG + [0.0] * (12 - RUNG))
    for value in (0.2, 0.3, 0.25, 0.1):
        add_trial(table, TWELVE, values=[value] * RUNG, state="paused")
    chosen = next_promotion(table, TWELVE)
    assert chosen is not None
    assert chosen.values("ap50")[-1] == 0.3


def test_a_late_paused_trial_is_promoted_once_others_gained_as_much() -> None:
    table = late(0.1, 0.1, 0.1)
    late_one = add_trial(table, TWELVE, values=[0.3] * RUNG, state="paused")
    assert next_promotion(table, TWELVE) is None
    add_trial(table, TWELVE, values=[0.1] * RUNG + [0.55] * (12 - RUNG))
    assert next_promotion(table, TWELVE) is late_one


@pytest.mark.parametrize(("completed", "promoted"), [(3, True), (6, False)])
def test_while_few_epochs_are_those_of_completed_trials_the_likeliest_goes_on(completed: int, promoted: bool) -> None:
    """Six completed trials of 12 epochs have more than 35 % of all, three have less."""
    table = late(*[0.1] * completed)
    hopeless = add_trial(table, TWELVE, values=[0.3] * RUNG, state="paused")
    assert next_promotion(table, search_settings(epochs=12, trials=1000)) is (hopeless if promoted else None)
    assert next_promotion(table, search_settings(epochs=12, trials=30)) is None


@pytest.mark.parametrize("state", ["failed", "infeasible"])
def test_failed_and_infeasible_trials_are_not_counted(state: State) -> None:
    table = paused(0.5, 0.5)
    add_trial(table, TWELVE, values=[0.9] * RUNG, state=state)
    assert next_promotion(table, TWELVE) is None


def test_the_default_is_never_pruned_and_is_trained_in_full_at_the_end() -> None:
    settings = search_settings(epochs=12, trials=REDUCTION_FACTOR)
    table = paused(*(0.1 * number for number in range(1, REDUCTION_FACTOR)))
    assert table.trials[1] not in trials_to_prune(table, settings)
    assert next_promotion(table, settings) is None
    add_trial(table, settings, values=[0.15] * RUNG, state="paused")
    promoted = []
    while (trial := next_promotion(table, settings)) is not None:
        promoted.append(trial.number)
        trial.state = "running"
    assert promoted[-1] == 1


@given(st.lists(VALUES, min_size=8, max_size=8, unique=True), st.lists(VALUES, min_size=8, max_size=8, unique=True))
def test_of_the_opening_five_pass_the_lower_rung_and_the_best_three_of_these_are_trained_in_full(
    values: list[float], later: list[float]
) -> None:
    highest, next_one, _ = OPENING
    settings = opened(7)
    table, ended = paused(*values), list[int]()
    while len(ended) < highest:
        trial = next_promotion(table, settings)
        assert trial is not None
        trained(table, trial, settings, value=later[trial.number - 1])
        ended += [trial.number] if trial.state == "completed" else []
    longer = sorted(range(8), key=lambda index: -values[index])[:next_one]
    assert {number for number, trial in table.trials.items() if trial.epochs > RUNG} == {index + 1 for index in longer}
    best_first = sorted(longer, key=lambda index: -later[index])
    assert ended == [index + 1 for index in best_first][:highest]


@pytest.mark.parametrize(("points", "longer", "in_full"), [(1, 2, 1), (2, 2, 2), (3, 3, 2)])
def test_of_a_small_opening_about_half_are_trained_in_full(points: int, longer: int, in_full: int) -> None:
    settings = opened(points)
    table = paused(*(0.5 - number / 100 for number in range(points + 1)))
    while (trial := next_promotion(table, settings)) is not None:
        trained(table, trial, settings, value=trial.values("ap50")[-1])
    assert [trial.epochs for trial in table.searched[:longer]] == in_full * [12] + (longer - in_full) * [HIGHER]
    assert {trial.epochs for trial in table.searched[longer:]} <= {RUNG}


@pytest.mark.parametrize(("proposed", "promoted"), [(15, False), (32, False), (33, True)])
def test_after_a_small_opening_trials_are_ranked_and_then_the_likeliest_goes_on(proposed: int, promoted: bool) -> None:
    settings = search_settings(epochs=12, trials=100, initial_points=opened(1).initial_points)
    table = Table()
    add_trial(table, settings, values=[0.5] * RUNG + [0.6] * (12 - RUNG), state="completed")
    for _ in range(3):  # with it four of 27 to 35 have passed the lower rung: by rank nobody else does
        add_trial(table, settings, values=[0.4] * HIGHER, state="paused")
    while len(table.trials) < proposed:
        add_trial(table, settings, values=[0.45] * RUNG, state="paused")
    assert (next_promotion(table, settings) is not None) == promoted


@pytest.mark.parametrize(("other", "first"), [(0.6, 2), (0.2, 1)])
@pytest.mark.parametrize("failed", [False, True])
def test_the_only_place_is_for_the_better_of_two_and_not_for_the_first_to_arrive(
    other: float, first: int, failed: bool
) -> None:
    settings = opened(1)
    table = Table()
    default = add_trial(table, settings, values=[0.3] * HIGHER, state="running")
    late = add_trial(table, settings, values=[other] * (HIGHER - 1), state="running")
    assert decide(table, default, settings).action == "pause"
    default.state = "paused"
    assert next_promotion(table, settings) is None
    late.reports.append(epoch_report(HIGHER, ap50=other))
    assert decide(table, late, settings).action == ("continue" if first == 2 else "pause")
    late.state = "failed" if failed else "paused"
    chosen = next_promotion(table, settings)
    assert chosen is not None
    assert chosen.number == (1 if failed else first)


def test_nothing_is_promoted_before_the_opening_was_tried_and_while_its_best_are_on_the_way() -> None:
    settings = opened(6)
    table = paused(0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
    assert next_promotion(table, settings) is None
    seventh = add_trial(table, settings, values=[0.95] * RUNG, state="running")
    assert decide(table, seventh, settings).action == "continue"
    for number in (1, 2, 3, 4):  # as many workers as there are places
        trial = next_promotion(table, settings)
        assert trial is not None
        assert trial.number == number
        trial.state = "running"
    assert next_promotion(table, settings) is None
    table.trials[3].state = "failed"
    chosen = next_promotion(table, settings)
    assert chosen is not None
    assert chosen.number == 5


def test_initial_points_proposed_after_a_repeat_are_promoted_like_those_before_it() -> None:
    settings = opened(2)
    table = paused(0.3, 0.4, 0.3, 0.9)
    table.trials[3].repeats = 1
    table.trials[3].state = "completed"
    trial = next_promotion(table, settings)
    assert trial is not None
    assert trial.number == 4


@pytest.mark.parametrize(
    ("hours", "left_s", "goes_on"),
    [(1.0, 9 * EPOCH_S + 1, False), (1.0, 9 * EPOCH_S, True), (0.01, 13.0, False), (0.01, 12.0, True)],
)
def test_when_the_hours_leave_the_best_only_its_rest_or_a_third_of_them_it_goes_on(
    hours: float, left_s: float, goes_on: bool
) -> None:
    settings = search_settings(epochs=12, hours=hours)
    table = paused(0.3, 0.5, 0.4)
    table.apply(search_started(settings))
    for number in (1, 2, 3):  # the default, and the best first
        assert next_promotion(table, settings, left_s=left_s) is (table.trials[number] if goes_on else None)
        table.trials[number].state = "running"


def test_once_all_were_tried_the_last_seconds_are_for_none_without_a_chance() -> None:
    settings = search_settings(epochs=12, trials=5, hours=1.0)
    table = late(0.1, 0.1, 0.1)
    table.apply(search_started(settings))
    add_trial(table, settings, values=[0.3] * RUNG, state="paused")
    assert next_promotion(table, settings, left_s=1.0) is None


def test_the_best_completed_trial_may_be_a_shortened_one() -> None:
    table = paused(0.1, 0.3)
    add_trial(table, TWELVE, values=[0.2] * (RUNG + 1)).shortened = True
    higher = add_trial(table, TWELVE, values=[0.1] * HIGHER, state="paused")
    assert next_promotion(table, TWELVE) is table.trials[2]  # as good as the best one was there
    table.trials[2].state = "running"
    assert next_promotion(table, TWELVE) is None
    higher.reports[-1] = epoch_report(HIGHER, ap50=0.2)  # as good as the best one was in the end
    assert next_promotion(table, TWELVE) is higher
