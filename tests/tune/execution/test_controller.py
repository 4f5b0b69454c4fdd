"""The controller: a whole search without Ray, and every way in which it can be cut short."""

from __future__ import annotations

import heapq
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.builders import epoch_report
from tests.tables import search_settings, search_started
from tune.execution.clock import AwakeClock
from tune.execution.controller import Controller
from tune.execution.outcomes import DataChanged, Failed, Measured, WorkerLost
from tune.history.events import SearchResumed, SearchStarted, State
from tune.history.journal import Journal, read_table
from tune.history.table import Table
from tune.paths import trial_folder
from tune.policy.propose import Proposal, propose
from tune.settings import SearchSettings
from vqc.epoch import EpochReport
from vqc.errors import DataError, SearchError

SETTINGS = search_settings(epochs=4, trials=5, rungs=())  # every trial in full
RACE = search_settings(epochs=12, trials=9, confirm=2, startup_trials=4)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Callable[..., Controller]]:
    """Begin a session on the journal in ``tmp_path``: of a new search, or of the one that is there."""
    journals: list[Journal] = []

    def open_session(settings: SearchSettings = SETTINGS, **extra: Any) -> Controller:
        path = tmp_path / "journal.jsonl"
        table = read_table(path) if path.exists() else Table()
        journal = Journal(path)
        journals.append(journal)
        first = session_event(table, settings)
        journal.append(first)
        table.apply(first)
        return Controller(journal, table, folder=tmp_path, **extra)

    yield open_session
    for journal in journals:
        journal.close()


def session_event(table: Table, settings: SearchSettings) -> SearchStarted | SearchResumed:
    if table.started is not None:
        return SearchResumed(at_ms=2, awake_s=table.awake_s, command="", budget=settings.budget)
    return search_started(settings)


def went_on(controller: Controller, number: int, report: EpochReport) -> bool:
    """An epoch of the trial is measured."""
    return controller.record(number, Measured(report=report)) == "continue"


def value_of(number: int, epoch: int) -> float:
    """Made-up scores: each trial is better than the one before, each epoch than the one before."""
    return 0.1 * number + 0.01 * epoch


def work(
    controller: Controller,
    *,
    most_epochs: int = 10_000,
    value: Callable[[int, int], float] = value_of,
    keeps_checkpoints: bool = True,
) -> None:
    """Do what workers do until the controller has finished or so many epochs were run."""
    while most_epochs and (task := controller.next_task()) is not None:
        number = task.trial.number
        controller.started(number, worker="test")
        goes_on, epoch = True, task.after_epoch if keeps_checkpoints else 0
        while goes_on and most_epochs:
            epoch, most_epochs = epoch + 1, most_epochs - 1
            for name in ("last", "best"):
                file = trial_folder(controller._folder, number) / f"{name}.safetensors"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
            goes_on = went_on(controller, number, epoch_report(epoch, ap50=value(number, epoch)))


def lines(folder: Path) -> list[dict[str, Any]]:
    """The journal less its clock."""
    return [
        {k: v for k, v in json.loads(row).items() if k not in ("at_ms", "awake_s")}
        for row in (folder / "journal.jsonl").read_text().splitlines()
    ]


def test_a_search_runs_all_trials_and_ends_with_its_reason(session: Callable[..., Controller], tmp_path: Path) -> None:
    controller = session()
    work(controller)
    controller.close()
    table = read_table(tmp_path / "journal.jsonl")
    assert [trial.state for trial in table.trials.values()] == ["completed"] * 5
    assert table.ended is not None
    assert table.ended.reason == "trials"


def test_weak_trials_wait_at_a_rung_and_are_stopped_there_in_the_end(session: Callable[..., Controller]) -> None:
    controller = session(RACE)
    work(controller, value=lambda number, epoch: 1.0 / number)
    controller.close()
    searched = controller.table.searched
    assert len(searched) == 9
    assert searched[0].state == "completed"
    assert {trial.state for trial in searched} == {"completed", "stopped"}
    assert all(trial.epochs < 12 for trial in searched if trial.state == "stopped")


def test_a_trial_that_waited_goes_on_from_its_epoch(session: Callable[..., Controller], tmp_path: Path) -> None:
    controller = session(RACE)
    work(controller)
    starts = [(line["trial"], line["after_epoch"]) for line in lines(tmp_path) if line["event"] == "trial_started"]
    resumed = [(number, after) for number, after in starts if after]
    paused = {line["trial"] for line in lines(tmp_path) if line["event"] == "trial_paused"}
    assert resumed
    assert {number for number, _ in resumed} <= paused
    epochs = [(line["trial"], line["report"]["epoch"]) for line in lines(tmp_path) if line["event"] == "epoch"]
    assert len(epochs) == len(set(epochs))


def test_the_best_two_are_run_again_in_full_with_new_seeds(session: Callable[..., Controller]) -> None:
    controller = session(RACE)
    work(controller)
    controller.close()
    repeats = [trial for trial in controller.table.trials.values() if trial.repeats is not None]
    best = [trial.number for trial in controller.table.leaders() if trial.repeats is None][:2]
    assert [trial.repeats for trial in repeats] == best
    assert all(trial.state == "completed" and trial.epochs == 12 and trial.origin == "repeat" for trial in repeats)
    assert len({trial.config.seed for trial in controller.table.trials.values()}) == 3


def test_hours_keep_time_for_the_repeats_and_none_is_begun_that_cannot_end(
    session: Callable[..., Controller],
) -> None:
    now_s = [0.0]
    controller = session(search_settings(epochs=12, trials=99, confirm=2, hours=0.1), clock_s=lambda: now_s[0])

    def value(number: int, epoch: int) -> float:
        now_s[0] += 2.3  # what an epoch takes by its report
        return value_of(number, epoch)

    work(controller, value=value)
    controller.close()
    repeats = [trial for trial in controller.table.trials.values() if trial.repeats is not None]
    assert repeats
    assert {trial.state for trial in repeats} == {"completed"}
    assert now_s[0] <= 360 + 2.3
    assert controller.table.ended is not None
    assert controller.table.ended.reason == "hours"


def work_side_by_side(controller: Controller, now_s: list[float], *, seed: int) -> None:
    """Do what several workers do, at paces that differ from trial to trial and a little from epoch to epoch.

    A full training takes a quarter of a minute to one. The values rise to the trial's own limit; the default's is low.
    """
    chance, running = random.Random(seed), list[tuple[float, int, int]]()  # when it ends, trial, epoch
    traits = defaultdict[int, tuple[float, float]](lambda: (chance.uniform(0.3, 0.9), chance.choice([1.2, 2.3, 5.0])))
    traits[1] = 0.2, 2.3

    def begin(number: int, epoch: int) -> None:
        _, epoch_s = traits[controller.table.trials[number].repeats or number]
        heapq.heappush(running, (now_s[0] + epoch_s * chance.uniform(0.95, 1.05), number, epoch))

    while True:
        while (task := controller.next_task()) is not None:
            controller.started(task.trial.number, worker="test")
            begin(task.trial.number, task.after_epoch + 1)
        if not running:
            return
        now_s[0], number, epoch = heapq.heappop(running)
        limit, epoch_s = traits[controller.table.trials[number].repeats or number]
        report = epoch_report(epoch, ap50=limit * (1 - 0.7**epoch))
        if went_on(controller, number, report.model_copy(update={"train_s": epoch_s, "eval_s": 0.0})):
            begin(number, epoch + 1)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("hours", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("confirm", [0, 1, 2])
@pytest.mark.parametrize("concurrent", [1, 2])
def test_however_short_the_hours_the_best_is_trained_to_its_last_epoch_and_little_time_is_left_over(
    session: Callable[..., Controller],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    concurrent: int,
    confirm: int,
    hours: float,
    seed: int,
) -> None:
    """Where the hours are too short for that, the journal says how many epochs the trial has."""
    monkeypatch.setattr("tune.execution.controller.propose", partial(spread_evenly, seed=seed))
    now_s = [0.0]
    settings = search_settings(epochs=12, trials=None, confirm=confirm, hours=hours, concurrent=concurrent)
    controller = session(settings, clock_s=lambda: now_s[0])
    work_side_by_side(controller, now_s, seed=seed)
    controller.close()
    table = read_table(tmp_path / "journal.jsonl")
    best = next(trial for trial in table.leaders() if trial.repeats is None)
    assert (best.state, best.epochs) == ("completed", best.config.num_epochs)
    shortened = {line["trial"]: line["num_epochs"] for line in lines(tmp_path) if line["event"] == "trial_shortened"}
    assert {number: trial.epochs for number, trial in table.trials.items() if trial.shortened} == shortened
    assert 0.8 * 3600 * hours <= now_s[0] <= 3600 * hours + 5.0  # an epoch under way


def spread_evenly(table: Table, settings: SearchSettings, *, seed: int) -> Proposal:
    """Proposals without a process, which takes a tenth of a second for each."""
    return propose(table, settings.model_copy(update={"startup_trials": 1000, "seed": seed}))


@pytest.mark.parametrize("settings", [SETTINGS, RACE], ids=["in full", "race"])
@pytest.mark.parametrize("killed_after", [1, 3, 4, 6, 11, 19, 29, 40])
def test_a_killed_search_goes_on_as_if_it_had_not_been(
    session: Callable[..., Controller], tmp_path: Path, killed_after: int, settings: SearchSettings
) -> None:
    work(session(settings), most_epochs=killed_after)  # nobody says goodbye
    work(session(settings))
    resumed = [line for line in lines(tmp_path) if line["event"] in ("epoch", "trial_proposed")]
    (tmp_path / "journal.jsonl").unlink()
    work(session(settings))
    assert resumed == [line for line in lines(tmp_path) if line["event"] in ("epoch", "trial_proposed")]


@pytest.mark.parametrize("settings", [SETTINGS, RACE], ids=["in full", "race"])
def test_a_search_killed_after_any_line_of_its_journal_ends_as_if_it_had_not_been(
    session: Callable[..., Controller], tmp_path: Path, settings: SearchSettings
) -> None:
    def ends() -> list[tuple[int, str, int]]:
        controller = session(settings)
        work(controller)
        controller.close()
        return [(trial.number, trial.state, trial.epochs) for trial in controller.table.trials.values()]

    undisturbed, journal = ends(), tmp_path / "journal.jsonl"
    written = journal.read_bytes().splitlines(keepends=True)

    def ends_after(lines: int) -> list[tuple[int, str, int]]:
        journal.write_bytes(b"".join(written[:lines]))
        return ends()

    assert [lines for lines in range(1, len(written) + 1) if ends_after(lines) != undisturbed] == []


def test_a_repeated_epoch_is_not_written_twice(session: Callable[..., Controller], tmp_path: Path) -> None:
    controller = session()
    work(controller, most_epochs=2)
    again = session()
    task = again.next_task()
    assert task is not None
    assert task.after_epoch == 2
    for epoch in (1, 2, 3):  # a worker whose checkpoint was lost begins anew
        assert went_on(again, 1, epoch_report(epoch, ap50=value_of(1, epoch)))
    assert [line["report"]["epoch"] for line in lines(tmp_path) if line["event"] == "epoch"] == [1, 2, 3]


def test_trials_that_lost_their_checkpoints_are_not_paused_again_at_the_same_rung(
    session: Callable[..., Controller], tmp_path: Path
) -> None:
    controller = session(RACE)
    work(controller, most_epochs=1000, keeps_checkpoints=False)
    controller.close()
    assert controller.table.ended is not None
    assert controller.table.ended.reason == "trials"
    paused = [(line["trial"], line["reason"]) for line in lines(tmp_path) if line["event"] == "trial_paused"]
    assert paused
    assert len(paused) == len(set(paused))


def test_an_interrupt_ends_the_trial_after_its_epoch_and_gives_out_no_more(session: Callable[..., Controller]) -> None:
    controller = session()
    task = controller.next_task()
    assert task is not None
    controller.interrupted = True
    assert not went_on(controller, 1, epoch_report(1, ap50=0.1))
    assert controller.finished
    assert controller.next_task() is None
    assert controller.table.trials[1].state == "interrupted"


def test_pictures_that_changed_end_a_search_and_no_trial_is_to_blame(
    session: Callable[..., Controller], tmp_path: Path
) -> None:
    controller = session(search_settings(epochs=4, trials=5, rungs=(), concurrent=2))
    for _ in range(2):
        task = controller.next_task()
        assert task is not None
        controller.started(task.trial.number, worker="test")
    controller.record(1, DataChanged(reason="a.png: cannot be read"))
    assert controller.next_task() is None
    assert not went_on(controller, 2, epoch_report(1, ap50=0.5))
    controller.close()
    table = read_table(tmp_path / "journal.jsonl")
    assert [trial.state for trial in table.trials.values()] == ["interrupted"] * 2
    assert all(trial.reason.startswith("a.png: cannot be read") for trial in table.trials.values())
    assert isinstance(controller.fault, DataError)
    assert table.ended is not None
    assert table.ended.reason == "interrupted"


def test_hours_end_a_search(session: Callable[..., Controller]) -> None:
    now_s = [0.0]
    settings = search_settings(epochs=4, trials=5, hours=1.0, rungs=())
    controller = session(settings, clock_s=lambda: now_s[0])
    work(controller, most_epochs=1)
    now_s[0] = 3601.0
    assert not went_on(controller, 1, epoch_report(2, ap50=0.1))
    controller.close()
    assert controller.table.trials[1].state == "interrupted"
    assert controller.table.ended is not None
    assert controller.table.ended.reason == "hours"


def test_every_event_has_the_seconds_that_the_search_was_awake(session: Callable[..., Controller]) -> None:
    now_s = [0.0]
    controller = session(clock_s=AwakeClock(lambda: now_s[0]))
    work(controller, most_epochs=1)
    for passed_s in (5.0, 8 * 3600.0, 5.0):  # at work, asleep, at work
        now_s[0] += passed_s
        controller.clock_s()
    went_on(controller, 1, epoch_report(2, ap50=0.1))
    assert controller.table.trials[1].epoch_ends_s == [0.0, 10.0]
    controller.close()
    resumed = session(clock_s=lambda: now_s[0] - 100.0)
    now_s[0] += 7.0
    went_on(resumed, 1, epoch_report(3, ap50=0.1))
    assert resumed.table.trials[1].epoch_ends_s == [0.0, 10.0, 17.0]
    assert resumed.table.awake_s == 17.0


def test_a_night_s_sleep_is_not_of_the_hours(session: Callable[..., Controller]) -> None:
    now_s = [0.0]
    controller = session(search_settings(hours=1.0), clock_s=AwakeClock(lambda: now_s[0]))
    for slept_s in (0.0, 8 * 3600.0, 0.0):
        for _ in range(100):
            now_s[0] += 10.0
            controller.clock_s()
        now_s[0] += slept_s
        assert controller.left_s > 0
    for _ in range(61):
        now_s[0] += 10.0
        controller.clock_s()
    assert controller.left_s <= 0


def test_a_failure_is_tried_once_more_from_where_it_was(session: Callable[..., Controller]) -> None:
    controller = session()
    work(controller, most_epochs=2)
    controller.record(1, Failed(reason="RuntimeError: boom"))
    task = controller.next_task()
    assert task is not None
    assert (task.trial.number, task.after_epoch) == (1, 2)
    controller.record(1, Failed(reason="RuntimeError: boom"))
    assert controller.table.trials[1].state == "failed"
    assert controller.table.trials[1].reason == "RuntimeError: boom"


def fail(controller: Controller, *, times: int = 2) -> int:
    """The next trial fails, and fails again; returns its number."""
    for _ in range(times):
        task = controller.next_task()
        assert task is not None
        controller.record(task.trial.number, Failed(reason="CUDA error: unknown error"))
    return task.trial.number


def test_when_one_trial_after_the_other_fails_none_is_lost(session: Callable[..., Controller]) -> None:
    controller = session()
    controller.next_task()
    went_on(controller, 1, epoch_report(1, ap50=0.1))
    folder = trial_folder(controller._folder, 1)
    folder.mkdir(parents=True)
    controller.record(1, Failed(reason="the worker was lost"))
    assert [fail(controller, times=1), fail(controller), fail(controller)] == [1, 2, 3]
    assert controller.next_task() is None
    with pytest.raises(SearchError, match="3 trials failed one after the other, the last with: CUDA error"):
        raise controller.fault or AssertionError
    controller.close()
    assert [trial.state for trial in controller.table.trials.values()] == ["interrupted"] * 3
    assert folder.is_dir()
    resumed = session()
    work(resumed)
    assert [trial.state for trial in resumed.table.trials.values()] == ["completed"] * 5


def test_who_fails_again_although_others_do_not_has_failed(session: Callable[..., Controller]) -> None:
    controller = session()
    assert [fail(controller), fail(controller), fail(controller)] == [1, 2, 3]
    controller.close()
    resumed = session()
    work(resumed, most_epochs=4)
    assert resumed.table.trials[4].state == "completed"  # first something that nobody has seen fail
    assert [fail(resumed), fail(resumed), fail(resumed)] == [1, 2, 3]
    assert resumed.fault is None
    work(resumed)
    assert [trial.state for trial in resumed.table.trials.values()][:3] == ["failed"] * 3
    assert resumed.table.trials[5].state == "completed"


def test_a_machine_that_is_still_broken_loses_no_trial_either(session: Callable[..., Controller]) -> None:
    settings = search_settings(epochs=4, trials=8, rungs=())
    controller = session(settings)
    assert [fail(controller), fail(controller), fail(controller)] == [1, 2, 3]
    controller.close()
    resumed = session(settings)
    assert [fail(resumed), fail(resumed), fail(resumed)] == [4, 5, 6]
    assert resumed.fault is not None
    resumed.close()
    assert {trial.state for trial in resumed.table.trials.values()} == {"interrupted"}


def test_what_failed_is_named_in_one_line(session: Callable[..., Controller]) -> None:
    controller = session()
    for _ in range(6):
        task = controller.next_task()
        assert task is not None
        controller.record(
            task.trial.number, Failed(reason="CUDA error: unknown error\nconsider CUDA_LAUNCH_BLOCKING=1")
        )
    assert controller.fault is not None
    assert "\n" not in controller.fault.what
    assert "CUDA error: unknown error;" in controller.fault.what


def test_an_epoch_between_tells_that_trials_failed_by_themselves(session: Callable[..., Controller]) -> None:
    controller = session()
    fail(controller), fail(controller)
    controller.next_task()
    went_on(controller, 3, epoch_report(1, ap50=0.1))
    controller.record(3, Failed(reason="RuntimeError: boom"))
    controller.next_task()
    controller.record(3, Failed(reason="RuntimeError: boom"))
    assert controller.fault is None
    assert [trial.state for trial in controller.table.trials.values()] == ["failed"] * 3


def test_failures_after_ever_new_epochs_are_not_the_trial_s_doing(session: Callable[..., Controller]) -> None:
    controller = session()
    task = controller.next_task()
    for epoch in (1, 2, 3):
        assert task is not None
        went_on(controller, 1, epoch_report(epoch, ap50=0.1))
        controller.record(1, Failed(reason="the worker was lost"))
        task = controller.next_task()
    assert task is not None
    assert (task.trial.number, task.after_epoch) == (1, 3)


@pytest.mark.parametrize(("first", "state"), [(True, "infeasible"), (False, "failed")])
def test_only_memory_that_runs_out_again_is_the_configurations(
    session: Callable[..., Controller], first: bool, state: State
) -> None:
    controller = session()
    work(controller, most_epochs=2)
    controller.record(1, Failed(reason="MemoryError", out_of_memory=first))
    controller.next_task()
    controller.record(1, Failed(reason="MemoryError", out_of_memory=True))
    assert controller.table.trials[1].state == state


def test_a_spent_worker_costs_a_trial_nothing(session: Callable[..., Controller]) -> None:
    controller = session()
    for _ in range(5):
        task = controller.next_task()
        assert task is not None
        assert task.trial.number == 1
        controller.record(1, WorkerLost(reason="12 MB of GPU memory stayed behind", before_trial=True))
    assert controller.table.trials[1].state == "proposed"


def test_no_more_trials_run_than_are_wanted_at_a_time(session: Callable[..., Controller]) -> None:
    controller = session(search_settings(epochs=4, trials=5, concurrent=2, rungs=()))
    assert controller.next_task() is not None
    assert controller.next_task() is not None
    assert controller.next_task() is None
    assert not controller.finished


def test_only_leaders_keep_their_best_and_only_the_unfinished_their_last(
    session: Callable[..., Controller], tmp_path: Path
) -> None:
    controller = session(search_settings(epochs=4, trials=5, keep_leaders=2, rungs=()))
    work(controller, most_epochs=18)  # the fifth trial is cut short in its second epoch
    kept = sorted(path.relative_to(tmp_path / "trials").as_posix() for path in tmp_path.glob("trials/*/*"))
    assert kept == [*(f"00{number}/best.safetensors" for number in (1, 3, 4, 5)), "005/last.safetensors"]


def test_what_still_runs_when_the_search_breaks_can_go_on(session: Callable[..., Controller]) -> None:
    controller = session()
    controller.next_task()
    controller.close(crashed=True)
    assert controller.table.trials[1].state == "interrupted"
    assert controller.table.ended is not None
    assert controller.table.ended.reason == "failed"


def test_a_worker_lost_after_its_trial_ended_costs_the_trial_nothing(
    session: Callable[..., Controller],
) -> None:
    controller = session(RACE)
    for _ in range(2):
        task = controller.next_task()
        assert task is not None
        controller.started(task.trial.number, worker="test")
        for epoch in (1, 2, 3):
            if not went_on(controller, task.trial.number, epoch_report(epoch, ap50=0.5)):
                break
        assert task.trial.state == "paused"
        controller.record(task.trial.number, Failed(reason="the worker was lost"))
    assert [trial.state for trial in controller.table.trials.values()] == ["paused", "paused"]
    assert controller.table.trials[1].failures == []


def at_pace(now_s: list[float], epoch_s: float = 2.3) -> Callable[[int, int], float]:
    """Made-up scores at which later trials are worse than the first, from epochs that take so long."""

    def value(number: int, epoch: int) -> float:
        now_s[0] += epoch_s
        return 0.5 / number + 0.01 * epoch

    return value


def test_hours_train_the_default_in_full(session: Callable[..., Controller]) -> None:
    now_s = [0.0]
    settings = search_settings(epochs=12, trials=None, confirm=1, hours=0.1, startup_trials=4)
    controller = session(settings, clock_s=lambda: now_s[0])
    work(controller, value=lambda number, epoch: at_pace(now_s)(number, epoch) * (0.1 if number == 1 else 1.0))
    controller.close()
    default = controller.table.trials[1]
    assert (default.state, default.epochs) == ("completed", 12)
    assert [trial.state for trial in controller.table.trials.values() if trial.repeats] == ["completed"]
    assert len(controller.table.searched) > 10


def test_hours_that_end_during_the_last_trial_are_the_reason(session: Callable[..., Controller]) -> None:
    now_s = [0.0]
    controller = session(search_settings(epochs=4, trials=4, hours=0.0095, rungs=()), clock_s=lambda: now_s[0])
    work(controller, value=at_pace(now_s))
    controller.close()
    table = controller.table
    assert [trial.state for trial in table.trials.values()] == ["completed"] * 3 + ["interrupted"]
    assert table.ended is not None
    assert table.ended.reason == "hours"


def test_a_resumed_search_knows_the_failures_before_it(session: Callable[..., Controller]) -> None:
    controller = session()
    controller.next_task()
    controller.record(1, Failed(reason="RuntimeError: boom"))
    controller.close()
    assert [failure.reason for failure in controller.table.trials[1].failures] == ["RuntimeError: boom"]
    resumed = session()
    resumed.next_task()
    resumed.record(1, Failed(reason="RuntimeError: boom"))
    assert resumed.table.trials[1].state == "failed"


def test_the_default_keeps_its_best_checkpoint(session: Callable[..., Controller], tmp_path: Path) -> None:
    controller = session(search_settings(epochs=4, trials=5, keep_leaders=1, rungs=()))
    work(controller)
    controller.close()
    kept = sorted(path.relative_to(tmp_path / "trials").as_posix() for path in tmp_path.glob("trials/*/*"))
    assert kept == ["001/best.safetensors", "005/best.safetensors"]
