"""Trials pause at the rungs, the best of nine is promoted, and nothing depends on the order of equals."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import epoch_report
from tests.tables import add_trial, search_settings
from tune.history.events import State
from tune.history.table import Table, Trial
from tune.policy.early_stopping import MAX_PAUSED, decide, trials_to_prune
from tune.policy.promotion import OPENING, RANKED, REDUCTION_FACTOR, next_promotion
from tune.policy.rungs import rung_epochs
from tune.settings import SearchSettings

SETTINGS = search_settings(epochs=12)
RUNG, HIGHER = rung_epochs(SETTINGS)
LONG_S = 25.0  # for nine epochs of 2.3 s, and not for any at a tenth of the pace
VALUES = st.floats(0.01, 1)  # what a detector that has found something may have


def paused(*values: float, epochs: int = RUNG) -> Table:
    """Trials that are paused at a rung, with these values there."""
    table = Table()
    for value in values:
        add_trial(table, SETTINGS, values=[value] * epochs, state="paused")
    return table


def decided(table: Table, value: float) -> str:
    """The decision on one more trial that has just reached the first rung."""
    trial = add_trial(table, SETTINGS, values=[value] * RUNG, state="running")
    action = decide(table, trial, SETTINGS).action
    del table.trials[trial.number]
    return action


def without_score(trial: Trial) -> None:
    scores = trial.reports[-1].scores.model_copy(update={"ap50": None})
    trial.reports[-1] = trial.reports[-1].model_copy(update={"scores": scores})


@pytest.mark.parametrize(("epochs", "rungs"), [(52, [5, 9, 26]), (12, [3, 6]), (8, [2, 4]), (4, [1, 2])])
def test_rungs_are_shares_of_the_epochs_but_none_is_in_the_noise(epochs: int, rungs: list[int]) -> None:
    assert rung_epochs(search_settings(epochs=epochs)) == rungs


@pytest.mark.parametrize("epochs", [2, 3, 5, 12, 50, 52, 300])
def test_rungs_are_rising_epochs_before_the_last(epochs: int) -> None:
    rungs = rung_epochs(search_settings(epochs=epochs))
    assert rungs
    assert rungs == sorted(set(rungs))
    assert 1 <= rungs[0] <= rungs[-1] < epochs


def test_one_epoch_has_no_rung() -> None:
    assert rung_epochs(search_settings(epochs=1)) == []


@given(st.lists(VALUES, max_size=7), VALUES, VALUES)
def test_what_continues_would_also_continue_with_more(others: list[float], value: float, more: float) -> None:
    low, high = sorted((value, more))
    assert decided(paused(*others), high) == "continue" or decided(paused(*others), low) != "continue"


@given(st.lists(VALUES, max_size=7), st.randoms(use_true_random=False), VALUES)
def test_the_order_of_the_others_does_not_matter(others: list[float], chance: random.Random, value: float) -> None:
    shuffled = list(others)
    chance.shuffle(shuffled)
    assert decided(paused(*others), value) == decided(paused(*shuffled), value)


@given(VALUES, st.integers(0, 10))
def test_equal_values_are_promoted_in_the_order_of_proposal(value: float, more: int) -> None:
    table = paused(*[value] * (REDUCTION_FACTOR + more))
    first = next_promotion(table, SETTINGS)
    assert first is not None
    assert first.number == 1


@given(st.lists(VALUES, max_size=MAX_PAUSED), VALUES)
def test_while_there_are_too_few_to_rank_a_trial_pauses_and_none_is_pruned(others: list[float], value: float) -> None:
    table = paused(*others)
    assert decided(table, value) == "pause"
    assert next_promotion(table, SETTINGS) is None
    assert trials_to_prune(table, SETTINGS) == []


@given(st.lists(VALUES, min_size=REDUCTION_FACTOR, max_size=REDUCTION_FACTOR + 5))
def test_the_best_paused_trial_is_promoted(values: list[float]) -> None:
    chosen = next_promotion(paused(*values), SETTINGS)
    assert chosen is not None
    assert chosen.values("ap50")[-1] == max(values)


@given(st.lists(VALUES, max_size=20))
def test_one_in_nine_is_promoted_and_never_more(values: list[float]) -> None:
    table = paused(*values)
    promoted = 0
    while (trial := next_promotion(table, SETTINGS)) is not None:
        trial.state, promoted = "running", promoted + 1
    assert promoted == len(values) // REDUCTION_FACTOR


@given(st.lists(VALUES, max_size=20))
def test_what_would_be_promoted_is_not_pruned(values: list[float]) -> None:
    table = paused(*values)
    assert next_promotion(table, SETTINGS) not in trials_to_prune(table, SETTINGS)
    assert len(values) - len(trials_to_prune(table, SETTINGS)) <= MAX_PAUSED + 1  # and the default


def test_the_higher_rung_comes_first() -> None:
    table = paused(*[0.9] * REDUCTION_FACTOR)
    for number in range(REDUCTION_FACTOR):
        add_trial(table, SETTINGS, values=[0.3 if number == 1 else 0.2] * HIGHER, state="paused")
    chosen = next_promotion(table, SETTINGS)
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


@pytest.mark.parametrize(("others", "value", "action"), [
    ([], 0.0, "pause"), ([0.0, 0.001, 0.004], 0.002, "continue"), ([0.001], 0.3, "continue"),
    ([0.0, 0.3], 0.002, "pause"), ([0.3], 0.2, "pause"),
])  # fmt: skip
def test_no_trial_pauses_where_the_others_have_learnt_nothing(others: list[float], value: float, action: str) -> None:
    assert decided(paused(*others), value) == action


def test_trials_that_had_learnt_nothing_do_not_count_as_promoted() -> None:
    table = Table()
    for _ in range(5):
        add_trial(table, SETTINGS, values=[0.0] * RUNG + [0.0] * (12 - RUNG))
    for value in (0.2, 0.3, 0.25, 0.1):
        add_trial(table, SETTINGS, values=[value] * RUNG, state="paused")
    chosen = next_promotion(table, SETTINGS)
    assert chosen is not None
    assert chosen.values("ap50")[-1] == 0.3


def late(*gains: float) -> Table:
    """As many completed trials as gains, all 0.5 at the first rung, and enough others to end the ranking."""
    table = Table()
    for gain in gains:
        add_trial(table, SETTINGS, values=[0.5] * RUNG + [0.5 + gain] * (12 - RUNG))
    for _ in range(RANKED * SETTINGS.startup_trials):
        add_trial(table, SETTINGS, values=[0.0] * RUNG, state="stopped")
    return table


@pytest.mark.parametrize(("value", "action"), [(0.6, "continue"), (0.55, "continue"), (0.1, "pause")])
def test_a_late_trial_continues_while_it_may_become_the_best(value: float, action: str) -> None:
    assert decided(late(0.2, 0.3, 0.1), value) == action


def test_a_late_paused_trial_is_promoted_once_others_gained_as_much() -> None:
    table = late(0.1, 0.1, 0.1)
    late_one = add_trial(table, SETTINGS, values=[0.3] * RUNG, state="paused")
    assert next_promotion(table, SETTINGS) is None
    add_trial(table, SETTINGS, values=[0.1] * RUNG + [0.55] * (12 - RUNG))
    assert next_promotion(table, SETTINGS) is late_one


@pytest.mark.parametrize(("completed", "promoted"), [(3, True), (6, False)])
def test_while_few_epochs_are_those_of_completed_trials_the_likeliest_goes_on(completed: int, promoted: bool) -> None:
    """Six completed trials of 12 epochs have more than 35 % of all, three have less."""
    table = late(*[0.1] * completed)
    hopeless = add_trial(table, SETTINGS, values=[0.3] * RUNG, state="paused")
    assert next_promotion(table, search_settings(epochs=12, trials=1000)) is (hopeless if promoted else None)
    assert next_promotion(table, search_settings(epochs=12, trials=30)) is None


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=8), VALUES, VALUES)
def test_a_late_trial_that_continues_would_also_continue_with_more(
    gains: list[float], value: float, more: float
) -> None:
    low, high = sorted((value, more))
    assert decided(late(*gains), high) == "continue" or decided(late(*gains), low) != "continue"


@pytest.mark.parametrize("epoch", [epoch for epoch in range(1, 12) if epoch not in (RUNG, HIGHER)])
def test_no_trial_pauses_between_rungs(epoch: int) -> None:
    table = paused(0.9, 0.9)
    trial = add_trial(table, SETTINGS, values=[0.0] * epoch, state="running")
    assert decide(table, trial, SETTINGS).action == "continue"


def test_an_epoch_without_a_score_stops() -> None:
    table = paused(0.1)
    trial = add_trial(table, SETTINGS, values=[0.5] * RUNG, state="running")
    without_score(trial)
    decision = decide(table, trial, SETTINGS)
    assert (decision.action, decision.reason) == ("stop", f"no AP50 at epoch {RUNG}")


def test_a_paused_trial_has_a_reason() -> None:
    table = paused(0.5)
    trial = add_trial(table, SETTINGS, values=[0.3] * RUNG, state="running")
    assert decide(table, trial, SETTINGS).reason == f"AP50 0.300 at epoch {RUNG}"


@pytest.mark.parametrize("state", ["failed", "infeasible"])
def test_failed_and_infeasible_trials_are_not_counted(state: State) -> None:
    table = paused(0.5, 0.5)
    add_trial(table, SETTINGS, values=[0.9] * RUNG, state=state)
    assert next_promotion(table, SETTINGS) is None


def add_epoch(trial: Trial) -> None:
    trial.reports.append(trial.reports[-1].model_copy(update={"epoch": trial.epochs + 1}))


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


def test_what_is_as_good_as_the_best_completed_trial_was_there_does_not_pause() -> None:
    table = paused(0.1, 0.1, 0.1, 0.1, 0.1)
    add_trial(table, SETTINGS, values=[0.5] * RUNG + [0.9] * (12 - RUNG))
    assert decided(table, 0.5) == "continue"
    for trial in table.trials.values():  # one in nine is promoted already
        trial.state = "completed" if trial.epochs == 12 else "running"
    assert decided(table, 0.5) == "continue"
    assert decided(table, 0.49) == "pause"


def opened(count: int) -> SearchSettings:
    """With so many initial points."""
    points = [{"learning_rate": 1e-3, "batch_size": 4, "image_size": 96} for _ in range(count)]
    return search_settings(epochs=12, initial_points=points)


def trained(table: Table, trial: Trial, settings: SearchSettings, *, value: float) -> None:
    """Train it until it pauses or ends; from the higher rung on it has this value."""
    trial.state = "running"
    while trial.state == "running":
        latest = value if trial.epochs + 1 >= HIGHER else trial.values("ap50")[-1]
        trial.reports.append(epoch_report(trial.epochs + 1, ap50=latest))
        paused = decide(table, trial, settings).action == "pause"
        trial.state = "completed" if trial.epochs == 12 else "paused" if paused else "running"


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


@pytest.mark.parametrize(("count", "action"), [(15, "continue"), (16, "pause"), (29, "pause")])
def test_all_initial_points_pause_at_the_lowest_rung_however_many(count: int, action: str) -> None:
    settings = search_settings(epochs=52, initial_points=opened(count).initial_points)
    table = Table()
    for _ in range(16):
        add_trial(table, settings, values=[0.9] * 5, state="paused")
    last = add_trial(table, settings, values=[0.1] * 5, state="running")
    assert decide(table, last, settings).action == action


@pytest.mark.parametrize(
    ("left_s", "promoted"),
    [(math.inf, 2), (10 * LONG_S, 2), (LONG_S, 3), (0.1, 2)],  # where none ends in time, the best is better than none
)
def test_near_the_end_of_the_hours_what_can_still_be_trained_in_full_comes_first(left_s: float, promoted: int) -> None:
    settings = search_settings(epochs=12, trials=3)
    table = paused(0.3, 0.5, 0.4)
    table.trials[2].reports[:] = [
        report.model_copy(update={"train_s": 10 * report.train_s, "eval_s": 10 * report.eval_s})
        for report in table.trials[2].reports
    ]
    trial = next_promotion(table, settings, left_s=left_s)
    assert trial is not None
    assert trial.number == promoted
    trial.state = "running"
    assert decide(table, trial, settings, left_s=left_s).action == "continue"
    other = table.trials[5 - promoted]
    other.state = "running"
    trial.state = "paused"
    assert decide(table, other, settings, left_s=left_s).action == "pause"


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
