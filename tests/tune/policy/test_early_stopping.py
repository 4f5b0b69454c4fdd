"""The race: trials wait at the rungs, the best of nine goes on, and nothing depends on the order of equals."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import epoch_report
from tests.tables import add_trial, search_settings
from tune.history.events import State
from tune.history.table import Table, Trial
from tune.policy.early_stopping import EXPLORED, FACTOR, KEPT, asha, hopeless, rung_epochs, to_resume, verdict

SETTINGS = search_settings(epochs=12)
RUNG, HIGHER = rung_epochs(SETTINGS)
VALUES = st.floats(0.01, 1)  # what a detector that has found something may have


def waiting(*values: float, epochs: int = RUNG) -> Table:
    """Trials that wait at a rung, with these values there."""
    table = Table()
    for value in values:
        add_trial(table, SETTINGS, values=[value] * epochs, state="paused")
    return table


def judged(table: Table, value: float) -> str:
    """The verdict on one more trial that has just reached the first rung."""
    trial = add_trial(table, SETTINGS, values=[value] * RUNG, state="running")
    action = verdict(table, trial, SETTINGS).action
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
def test_what_goes_on_would_also_go_on_with_more(others: list[float], value: float, more: float) -> None:
    low, high = sorted((value, more))
    assert judged(waiting(*others), high) == "go on" or judged(waiting(*others), low) != "go on"


@given(st.lists(VALUES, max_size=7), st.randoms(use_true_random=False), VALUES)
def test_the_order_of_the_others_does_not_matter(others: list[float], chance: random.Random, value: float) -> None:
    shuffled = list(others)
    chance.shuffle(shuffled)
    assert judged(waiting(*others), value) == judged(waiting(*shuffled), value)


@given(VALUES, st.integers(0, 10))
def test_equal_values_are_resumed_in_the_order_of_proposal(value: float, more: int) -> None:
    table = waiting(*[value] * (FACTOR + more))
    first = to_resume(table, SETTINGS)
    assert first is not None
    assert first.number == 1


@given(st.lists(VALUES, max_size=KEPT), VALUES)
def test_while_there_are_too_few_to_compare_a_trial_waits_and_none_is_given_up(
    others: list[float], value: float
) -> None:
    table = waiting(*others)
    assert judged(table, value) == "pause"
    assert to_resume(table, SETTINGS) is None
    assert hopeless(table, SETTINGS) == []


@given(st.lists(VALUES, min_size=FACTOR, max_size=FACTOR + 5))
def test_the_best_that_waits_is_resumed(values: list[float]) -> None:
    chosen = to_resume(waiting(*values), SETTINGS)
    assert chosen is not None
    assert chosen.values("ap50")[-1] == max(values)


@given(st.lists(VALUES, max_size=20))
def test_one_in_nine_goes_on_and_never_more(values: list[float]) -> None:
    table = waiting(*values)
    resumed = 0
    while (trial := to_resume(table, SETTINGS)) is not None:
        trial.state, resumed = "running", resumed + 1
    assert resumed == len(values) // FACTOR


@given(st.lists(VALUES, max_size=20))
def test_whoever_would_be_resumed_is_not_given_up(values: list[float]) -> None:
    table = waiting(*values)
    assert to_resume(table, SETTINGS) not in hopeless(table, SETTINGS)
    assert len(values) - len(hopeless(table, SETTINGS)) <= KEPT + 1  # and the default


def test_the_higher_rung_comes_first() -> None:
    table = waiting(*[0.9] * FACTOR)
    for number in range(FACTOR):
        add_trial(table, SETTINGS, values=[0.3 if number == 1 else 0.2] * HIGHER, state="paused")
    chosen = to_resume(table, SETTINGS)
    assert chosen is not None
    assert chosen.number == FACTOR + 2


def test_at_the_end_the_best_three_go_on_to_their_last_epoch_and_nobody_without_a_chance() -> None:
    settings = search_settings(epochs=12, trials=7)
    table = waiting(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    assert to_resume(table, settings) is None
    add_trial(table, settings, values=[0.35] * RUNG, state="paused")
    order = []
    while (trial := to_resume(table, settings)) is not None:
        order.append(trial.number)
        while trial.epochs < 12:
            add_epoch(trial)
            trial.state = "running"
            if verdict(table, trial, settings).action == "pause":
                trial.state = "paused"
                break
        else:
            trial.state = "completed"
    assert order == [6, 5, 4, 1, 1]  # flat curves: nobody else can gain on the best; the default waits twice
    assert table.trials[6].state == "completed"
    assert table.trials[1].state == "completed"


@pytest.mark.parametrize(("others", "value", "action"), [
    ([], 0.0, "pause"), ([0.0, 0.001, 0.004], 0.002, "go on"), ([0.001], 0.3, "go on"),
    ([0.0, 0.3], 0.002, "pause"), ([0.3], 0.2, "pause"),
])  # fmt: skip
def test_nobody_waits_where_the_others_have_found_nothing(others: list[float], value: float, action: str) -> None:
    assert judged(waiting(*others), value) == action


def test_those_that_went_on_for_want_of_anything_found_take_nobody_s_place() -> None:
    table = Table()
    for _ in range(5):
        add_trial(table, SETTINGS, values=[0.0] * RUNG + [0.0] * (12 - RUNG))
    for value in (0.2, 0.3, 0.25, 0.1):
        add_trial(table, SETTINGS, values=[value] * RUNG, state="paused")
    chosen = to_resume(table, SETTINGS)
    assert chosen is not None
    assert chosen.values("ap50")[-1] == 0.3


def late(*gains: float) -> Table:
    """As many completed trials as gains, all 0.5 at the first rung, and so many others that exploring is over."""
    table = Table()
    for gain in gains:
        add_trial(table, SETTINGS, values=[0.5] * RUNG + [0.5 + gain] * (12 - RUNG))
    for _ in range(EXPLORED * SETTINGS.startup_trials):
        add_trial(table, SETTINGS, values=[0.0] * RUNG, state="stopped")
    return table


@pytest.mark.parametrize(("value", "action"), [(0.6, "go on"), (0.55, "go on"), (0.1, "pause")])
def test_a_late_one_goes_on_while_it_may_become_the_best(value: float, action: str) -> None:
    assert judged(late(0.2, 0.3, 0.1), value) == action


def test_a_late_one_that_waits_is_resumed_once_others_were_seen_to_gain_as_much() -> None:
    table = late(0.1, 0.1, 0.1)
    waits = add_trial(table, SETTINGS, values=[0.3] * RUNG, state="paused")
    assert to_resume(table, SETTINGS) is None
    add_trial(table, SETTINGS, values=[0.1] * RUNG + [0.55] * (12 - RUNG))
    assert to_resume(table, SETTINGS) is waits


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=8), VALUES, VALUES)
def test_a_late_one_that_goes_on_would_also_go_on_with_more(gains: list[float], value: float, more: float) -> None:
    low, high = sorted((value, more))
    assert judged(late(*gains), high) == "go on" or judged(late(*gains), low) != "go on"


@pytest.mark.parametrize("epoch", [epoch for epoch in range(1, 12) if epoch not in (RUNG, HIGHER)])
def test_nothing_waits_between_rungs(epoch: int) -> None:
    table = waiting(0.9, 0.9)
    trial = add_trial(table, SETTINGS, values=[0.0] * epoch, state="running")
    assert verdict(table, trial, SETTINGS).action == "go on"


def test_an_epoch_without_a_score_stops() -> None:
    table = waiting(0.1)
    trial = add_trial(table, SETTINGS, values=[0.5] * RUNG, state="running")
    without_score(trial)
    said = verdict(table, trial, SETTINGS)
    assert (said.action, said.reason) == ("stop", f"no AP50 at epoch {RUNG}")


def test_a_trial_that_waits_is_told_why() -> None:
    table = waiting(0.5)
    trial = add_trial(table, SETTINGS, values=[0.3] * RUNG, state="running")
    assert verdict(table, trial, SETTINGS).reason == f"AP50 0.300 at epoch {RUNG}"


@pytest.mark.parametrize("state", ["failed", "infeasible"])
def test_trials_that_broke_are_not_counted(state: State) -> None:
    table = waiting(0.5, 0.5)
    add_trial(table, SETTINGS, values=[0.9] * RUNG, state=state)
    assert to_resume(table, SETTINGS) is None


@pytest.mark.parametrize("policy", ["random", "stock"])
def test_rivals_never_wait(policy: str) -> None:
    settings = search_settings(epochs=12, policy=policy)
    table = waiting(0.1, 0.2, 0.3)
    trial = add_trial(table, settings, values=[0.2] * RUNG, state="running")
    assert verdict(table, trial, settings).action != "pause"
    assert to_resume(table, settings) is None


def test_i_epoch_trains_its_best_once_all_were_tried() -> None:
    settings = search_settings(epochs=12, policy="i-epoch", trials=4, keep_leaders=2)
    table = waiting(0.1, 0.4, 0.3)
    assert to_resume(table, settings) is None
    add_trial(table, settings, values=[0.2] * RUNG, state="paused")
    order = []
    while (trial := to_resume(table, settings)) is not None:
        order.append(trial.number)
        add_epoch(trial)
        trial.state = "completed"
    assert order == [2, 3]


def add_epoch(trial: Trial) -> None:
    trial.reports.append(trial.reports[-1].model_copy(update={"epoch": trial.epochs + 1}))


@pytest.mark.parametrize("values", [[0.5, 0.4, 0.45, 0.6, 0.1, 0.59], [0.1] * 5, [0.3, 0.2, 0.1, 0.4, 0.35, 0.5]])
def test_asha_is_rays(values: Sequence[float]) -> None:
    from ray.tune.schedulers.async_hyperband import _Bracket

    bracket = _Bracket(3, 12, 3, 0)
    table, found, expected = Table(), [], []
    for number, value in enumerate(values):
        trial = add_trial(table, SETTINGS, values=[value] * 3, state="running")
        found.append(asha(table, trial, SETTINGS, grace=3, factor=3).action)
        trial.state = "stopped"
        said = bracket.on_result(FakeTrial(f"{number}"), 3, value)
        expected.append({"CONTINUE": "go on", "STOP": "stop"}[said])
    assert found == expected


class FakeTrial:
    """All of a Ray trial that its bracket looks at."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def test_the_default_is_never_given_up_and_is_trained_in_full_at_the_end() -> None:
    settings = search_settings(epochs=12, trials=FACTOR)
    table = waiting(*(0.1 * number for number in range(1, FACTOR)))
    assert table.trials[1] not in hopeless(table, settings)
    assert to_resume(table, settings) is None
    add_trial(table, settings, values=[0.15] * RUNG, state="paused")
    resumed = []
    while (trial := to_resume(table, settings)) is not None:
        resumed.append(trial.number)
        trial.state = "running"
    assert resumed[-1] == 1


def test_what_is_as_good_as_the_best_completed_trial_was_there_does_not_wait() -> None:
    table = waiting(0.1, 0.1, 0.1, 0.1, 0.1)
    add_trial(table, SETTINGS, values=[0.5] * RUNG + [0.9] * (12 - RUNG))
    assert judged(table, 0.5) == "go on"
    for trial in table.trials.values():  # all places are taken
        trial.state = "completed" if trial.epochs == 12 else "running"
    assert judged(table, 0.5) == "go on"
    assert judged(table, 0.49) == "pause"


@pytest.mark.parametrize(("number", "action"), [(16, "pause"), (17, "go on")])
def test_only_early_trials_wait_at_half_the_first_rung(number: int, action: str) -> None:
    settings = search_settings(epochs=52)
    table = Table()
    for _ in range(number - 1):
        add_trial(table, settings, values=[0.9] * 5, state="stopped")
    for trial in table.trials.values():
        trial.state = "running"  # every place is taken
    trial = add_trial(table, settings, values=[0.1] * 5, state="running")
    assert verdict(table, trial, settings).action == action


def test_i_epoch_waits_once_and_then_goes_on_to_the_end() -> None:
    settings = search_settings(epochs=52, policy="i-epoch")
    trial = add_trial(Table(), settings, values=[], state="running")
    table, waits = Table(trials={1: trial}), []
    for epoch in range(1, 52):
        trial.reports.append(epoch_report(epoch, ap50=0.5))
        waits += [epoch] if verdict(table, trial, settings).action == "pause" else []
    assert waits == [9]
