"""How well the time left is foretold, in searches by the real controller over made-up curves on a made-up clock."""

from __future__ import annotations

import math
import random
from pathlib import Path
from statistics import median

import pytest

from tests.builders import START_MS, epoch_report
from tests.tables import search_settings, search_started
from tune.execution import controller as controller_module
from tune.execution.controller import Controller
from tune.execution.outcomes import Measured
from tune.history.events import EpochMeasured, Event, SearchResumed, SearchStarted, TrialProposed
from tune.history.journal import Journal
from tune.history.table import Table, Trial
from tune.reporting.eta import EpochCost, time_left_s, whole_search
from tune.settings import Budget, SearchSettings

SEEDS = range(6)
BETWEEN_S = 0.4


class Recorder(Journal):
    """Keeps the events in memory."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def append(self, event: Event) -> None:
        self.events.append(event)


def simulated(settings: SearchSettings, seed: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[Event]:
    """The events of a whole search; epochs take what pixels take, give or take a tenth."""
    rng, now_s = random.Random(seed), [START_MS / 1000]
    monkeypatch.setattr(controller_module, "now_ms", lambda: int(now_s[0] * 1000))
    journal, table = Recorder(), Table()
    first = search_started(settings)
    journal.append(first)
    table.apply(first)
    controller = Controller(journal, table, folder=folder, clock_s=lambda: now_s[0])
    best_rate = 10 ** rng.uniform(-3.7, -2.3)
    while (task := controller.next_task()) is not None:
        now_s[0] += BETWEEN_S
        controller.started(task.trial.number, worker="none")
        epoch, goes_on = task.after_epoch, True
        while goes_on:
            epoch += 1
            report = epoch_report(
                epoch, ap50=value(task.trial, epoch, best_rate, rng), image_size=task.trial.config.image_size[0]
            )
            report = report.model_copy(update={"train_s": report.train_s * rng.uniform(0.9, 1.1)})
            now_s[0] += report.train_s + report.eval_s
            goes_on = controller.record(task.trial.number, Measured(report=report)) == "continue"
    controller.close()
    return journal.events


def value(trial: Trial, epoch: int, best_rate: float, rng: random.Random) -> float:
    off = math.log10(float(trial.params["learning_rate"]) / best_rate)
    top = 0.75 * math.exp(-(off**2)) + float(trial.params["image_size"]) / 1600
    return max(0.0, top * (1 - math.exp(-epoch / 5)) + rng.gauss(0, 0.02))


def errors_of(some: list[Event]) -> list[float]:
    """Error of the time left, as a share of the whole search's, at each end of a stretch from the fifth trial on."""
    table, found = Table(), []
    whole_s = (some[-1].at_ms - some[0].at_ms) / 1000
    for event in some[:-1]:
        table.apply(event)
        if len(table.trials) >= 5 and event.event in ("trial_paused", "trial_ended"):
            left = time_left_s(table, event.at_ms)
            assert left is not None
            found.append((left - (some[-1].at_ms - event.at_ms) / 1000) / whole_s)
    return found


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> list[list[Event]]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("searches")
        return [simulated(search_settings(confirm=2, seed=seed), seed, patch, folder) for seed in SEEDS]


def test_the_time_left_is_foretold_within_a_quarter_from_the_fifth_trial_on(searches: list[list[Event]]) -> None:
    errors = [abs(error) for some in searches for error in errors_of(some)]
    assert sum(error < 0.25 for error in errors) / len(errors) > 0.95


def test_once_the_repeats_have_begun_nothing_else_is_expected(searches: list[list[Event]]) -> None:
    for some in searches:
        repeats = [event.trial for event in some if isinstance(event, TrialProposed) and event.repeats is not None]
        began = next(at for at, event in enumerate(some) if isinstance(event, EpochMeasured) and event.trial in repeats)
        table = table_of(some[: began + 1])
        left, true_s = time_left_s(table, table.last_ms), (some[-1].at_ms - table.last_ms) / 1000
        assert left is not None
        assert left < 1.2 * true_s  # less where the best are so close that more of them are run again
        settings = table.header.budget
        table.started = table.header.model_copy(update={"budget": Budget(trials=2 * (settings.trials or 0))})
        more = time_left_s(table, table.last_ms)
        assert more is not None
        assert more > left + 30 * 2  # at least two seconds for each


def test_the_forecast_does_not_lean_to_one_side(searches: list[list[Event]]) -> None:
    assert abs(median(error for some in searches for error in errors_of(some))) < 0.08


def test_a_dry_run_foretells_the_search_between_its_cheapest_and_its_dearest_size(
    searches: list[list[Event]],
) -> None:
    costs = [EpochCost(image_size=size, epoch_s=2.0 * (size / 128) ** 2 + 0.3) for size in (96, 128, 160)]
    expected = whole_search(search_settings(confirm=2), costs)
    took = [(some[-1].at_ms - some[0].at_ms) / 1000 for some in searches]
    assert all(expected.low_s <= seconds <= expected.high_s for seconds in took)
    assert expected.low_s < expected.mean_s < expected.high_s


@pytest.mark.parametrize("trials", [30, None])
@pytest.mark.parametrize("hours", [0.2, 1.0, 8.0])
def test_a_dry_run_counts_the_trials_that_the_hours_have_room_for(trials: int | None, hours: float) -> None:
    costs = [EpochCost(image_size=size, epoch_s=seconds) for size, seconds in ((320, 20.0), (640, 60.0))]
    room = whole_search(search_settings(trials=trials, hours=hours, confirm=2), costs).trials
    assert room is not None
    fits, does_not = (whole_search(search_settings(trials=n, confirm=2), costs).mean_s for n in (room, room + 1))
    assert room == 1 or fits <= hours * 3600
    assert does_not > hours * 3600


def table_of(some: list[Event]) -> Table:
    table = Table()
    for event in some:
        table.apply(event)
    return table


def test_before_the_first_epoch_the_time_left_is_unknown_and_after_the_end_it_is_none(
    searches: list[list[Event]],
) -> None:
    assert time_left_s(table_of(searches[0][:3]), START_MS) is None
    assert time_left_s(table_of(searches[0]), START_MS) == 0.0


def test_the_time_left_falls_within_an_epoch_but_never_below_nothing(searches: list[list[Event]]) -> None:
    some = searches[0]
    cut = next(i for i, event in enumerate(some) if event.event == "epoch" and i > 8)
    found = [time_left_s(table_of(some[: cut + 1]), some[cut].at_ms + wait) for wait in (0, 1000, 3_600_000)]
    now, later, much_later = (left for left in found if left is not None)
    assert now > later > much_later >= 0


def test_the_hours_bound_the_time_left_s(searches: list[list[Event]]) -> None:
    some = list(searches[0][:40])
    free = time_left_s(table_of(some), some[-1].at_ms)
    first = some[0]
    assert isinstance(first, SearchStarted)
    some[0] = first.model_copy(update={"budget": Budget(trials=30, hours=0.04)})
    bound = time_left_s(table_of(some), some[-1].at_ms)
    assert free is not None
    assert bound is not None
    assert bound < free
    assert bound <= 0.04 * 3600


def test_hours_alone_are_the_time_left_before_and_after_the_first_epoch(searches: list[list[Event]]) -> None:
    first = searches[0][0]
    assert isinstance(first, SearchStarted)
    hourly = [first.model_copy(update={"budget": Budget(hours=2.0)}), *searches[0][1:]]
    for count in (2, 30):
        table = table_of(hourly[:count])
        assert time_left_s(table, table.last_ms) == pytest.approx(7200 - table.awake_s)


def test_a_resumed_search_has_the_hours_of_its_resumption(searches: list[list[Event]]) -> None:
    table = table_of(searches[0][:30])
    budget = Budget(trials=10_000, hours=0.5)
    table.apply(SearchResumed(at_ms=table.last_ms, awake_s=table.awake_s, command="", budget=budget))
    assert time_left_s(table, table.last_ms) == pytest.approx(1800)
    assert time_left_s(table, table.last_ms + 10_000) == pytest.approx(1790)


def test_trials_side_by_side_share_the_time() -> None:
    costs = [EpochCost(image_size=128, epoch_s=10.0)]
    alone = whole_search(search_settings(), costs)
    paired = whole_search(search_settings(concurrent=2), costs)
    assert paired.mean_s == pytest.approx(alone.mean_s / 2)
