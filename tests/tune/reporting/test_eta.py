"""How well the time left is foretold, in searches by the real conductor over made-up curves on a made-up clock."""

from __future__ import annotations

import math
import random
from pathlib import Path
from statistics import median

import pytest

from tests.builders import START_MS, epoch_report
from tests.tables import search_settings
from tune.execution import controller as conductor_module
from tune.execution.controller import Conductor
from tune.history.journal import EpochMeasured, Event, Journal, SearchStarted, Table, Trial, TrialProposed
from tune.reporting.eta import EpochCost, Estimate, time_left, whole_search
from tune.settings import SearchSettings

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
    monkeypatch.setattr(conductor_module, "now_ms", lambda: int(now_s[0] * 1000))
    journal, table = Recorder(), Table()
    first = SearchStarted(
        at_ms=START_MS, name="s", search_id="s", settings=settings.model_dump(mode="json"), data={}, versions={},
        command="",
    )  # fmt: skip
    journal.append(first)
    table.apply(first)
    conductor = Conductor(journal, table, settings=settings, folder=folder, clock_s=lambda: now_s[0])
    best_rate = 10 ** rng.uniform(-3.7, -2.3)
    while (task := conductor.next_task()) is not None:
        now_s[0] += BETWEEN_S
        conductor.started(task.trial.number, worker="none")
        epoch, goes_on = task.after_epoch, True
        while goes_on:
            epoch += 1
            report = epoch_report(
                epoch, ap50=value(task.trial, epoch, best_rate, rng), image_size=task.trial.config.image_size[0]
            )
            report = report.model_copy(update={"train_s": report.train_s * rng.uniform(0.9, 1.1)})
            now_s[0] += report.train_s + report.eval_s
            goes_on = conductor.measured(task.trial.number, report)
    conductor.close()
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
            left = time_left(table, event.at_ms)
            assert left is not None
            found.append((left.mean_s - (some[-1].at_ms - event.at_ms) / 1000) / whole_s)
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
        left, true_s = time_left(table, table.last_ms), (some[-1].at_ms - table.last_ms) / 1000
        assert left is not None
        assert left.mean_s < 1.2 * true_s  # less where the best are so close that more of them are run again
        table.trials_asked *= 2  # as a resumption may
        more = time_left(table, table.last_ms)
        assert more is not None
        assert more.mean_s > left.mean_s + 30 * 2  # at least two seconds for each


def test_the_forecast_does_not_lean_to_one_side(searches: list[list[Event]]) -> None:
    assert abs(median(error for some in searches for error in errors_of(some))) < 0.08


def test_the_interval_of_a_rehearsal_holds_most_searches(searches: list[list[Event]]) -> None:
    """Costs are those of the made-up clock; the interval is meant to hold eight of ten."""
    costs = [
        EpochCost(
            image_size=size, epoch_s=(cost := 2.0 * (size / 128) ** 2 + 0.3), low_s=0.95 * cost, high_s=1.05 * cost
        )
        for size in (96, 128, 160)
    ]
    low_s, high_s = whole_search(search_settings(confirm=2), costs).interval_s
    took = [(some[-1].at_ms - some[0].at_ms) / 1000 for some in searches]
    assert sum(low_s <= seconds <= high_s for seconds in took) >= len(took) // 2


def table_of(some: list[Event]) -> Table:
    table = Table()
    for event in some:
        table.apply(event)
    return table


def test_before_the_first_epoch_the_time_left_is_unknown_and_after_the_end_it_is_none(
    searches: list[list[Event]],
) -> None:
    assert time_left(table_of(searches[0][:3]), START_MS) is None
    assert time_left(table_of(searches[0]), START_MS) == Estimate(mean_s=0.0, deviation_s=0.0)


def test_the_time_left_falls_within_an_epoch_but_never_below_nothing(searches: list[list[Event]]) -> None:
    some = searches[0]
    cut = next(i for i, event in enumerate(some) if event.event == "epoch" and i > 8)
    found = [time_left(table_of(some[: cut + 1]), some[cut].at_ms + wait) for wait in (0, 1000, 3_600_000)]
    now, later, much_later = (left.mean_s for left in found if left is not None)
    assert now > later > much_later >= 0


def test_the_hours_bound_the_time_left(searches: list[list[Event]]) -> None:
    some = list(searches[0][:40])
    free = time_left(table_of(some), some[-1].at_ms)
    first = some[0]
    assert isinstance(first, SearchStarted)
    some[0] = first.model_copy(update={"settings": {**first.settings, "hours": 0.04}})
    bound = time_left(table_of(some), some[-1].at_ms)
    assert free is not None
    assert bound is not None
    assert bound.mean_s < free.mean_s
    assert bound.mean_s <= 0.04 * 3600


def test_trials_side_by_side_share_the_time() -> None:
    costs = [EpochCost(image_size=128, epoch_s=10.0, low_s=9.0, high_s=11.0)]
    alone = whole_search(search_settings(), costs)
    paired = whole_search(search_settings(concurrent=2), costs)
    assert paired.mean_s == pytest.approx(alone.mean_s / 2)
