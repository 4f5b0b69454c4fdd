"""The conductor: a whole search without Ray, and every way in which it can be cut short."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import epoch_report
from tests.tables import search_settings
from tune.execution import controller as conductor_module
from tune.execution.clock import AwakeClock
from tune.execution.controller import Conductor
from tune.history.journal import Journal, SearchStarted, State, Table, read_table
from tune.history.queries import elapsed_s
from tune.paths import trial_folder
from tune.settings import SearchSettings
from vqc.errors import DataError, SearchError

SETTINGS = search_settings(epochs=4, trials=5, rungs=[])  # every trial in full
RACE = search_settings(epochs=12, trials=9, confirm=2, startup_trials=4)


@pytest.fixture
def sit(tmp_path: Path) -> Iterator[Callable[..., Conductor]]:
    """Open the journal in ``tmp_path``, new or to go on with, and sit down to conduct."""
    journals: list[Journal] = []

    def open_sitting(settings: SearchSettings = SETTINGS, **extra: Any) -> Conductor:
        path = tmp_path / "journal.jsonl"
        table = read_table(path) if path.exists() else Table()
        journal = Journal(path)
        journals.append(journal)
        if table.started is None:
            first = SearchStarted(
                at_ms=1,
                name="t",
                search_id="t",
                settings=settings.model_dump(mode="json"),
                data={},
                versions={},
                command="",
            )
            journal.append(first)
            table.apply(first)
        return Conductor(journal, table, settings=settings, folder=tmp_path, **extra)

    yield open_sitting
    for journal in journals:
        journal.close()


def value_of(number: int, epoch: int) -> float:
    """Made-up scores: each trial is better than the one before, each epoch than the one before."""
    return 0.1 * number + 0.01 * epoch


def work(conductor: Conductor, *, most_epochs: int = 10_000, value: Callable[[int, int], float] = value_of) -> None:
    """Do what workers do until the conductor has finished or so many epochs were run."""
    while most_epochs and (task := conductor.next_task()) is not None:
        number = task.trial.number
        conductor.started(number, worker="test")
        goes_on, epoch = True, task.after_epoch
        while goes_on and most_epochs:
            epoch, most_epochs = epoch + 1, most_epochs - 1
            for name in ("last", "best"):
                file = trial_folder(conductor._folder, number) / f"{name}.safetensors"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
            goes_on = conductor.measured(number, epoch_report(epoch, ap50=value(number, epoch)))


def lines(folder: Path) -> list[dict[str, Any]]:
    """The journal less its clock."""
    return [
        {k: v for k, v in json.loads(row).items() if k != "at_ms"}
        for row in (folder / "journal.jsonl").read_text().splitlines()
    ]


def test_a_search_runs_all_trials_and_ends_with_its_reason(sit: Callable[..., Conductor], tmp_path: Path) -> None:
    conductor = sit()
    work(conductor)
    conductor.close()
    table = read_table(tmp_path / "journal.jsonl")
    assert [trial.state for trial in table.trials.values()] == ["completed"] * 5
    assert table.ended is not None
    assert table.ended.reason == "trials"


def test_weak_trials_wait_at_a_rung_and_are_stopped_there_in_the_end(sit: Callable[..., Conductor]) -> None:
    conductor = sit(RACE)
    work(conductor, value=lambda number, epoch: 1.0 / number)
    conductor.close()
    searched = conductor.table.searched
    assert len(searched) == 9
    assert searched[0].state == "completed"
    assert {trial.state for trial in searched} == {"completed", "stopped"}
    assert all(trial.epochs < 12 for trial in searched if trial.state == "stopped")


def test_a_trial_that_waited_goes_on_from_its_epoch(sit: Callable[..., Conductor], tmp_path: Path) -> None:
    conductor = sit(RACE)
    work(conductor)
    starts = [(line["trial"], line["after_epoch"]) for line in lines(tmp_path) if line["event"] == "trial_started"]
    resumed = [(number, after) for number, after in starts if after]
    paused = {line["trial"] for line in lines(tmp_path) if line["event"] == "trial_paused"}
    assert resumed
    assert {number for number, _ in resumed} <= paused
    epochs = [(line["trial"], line["report"]["epoch"]) for line in lines(tmp_path) if line["event"] == "epoch"]
    assert len(epochs) == len(set(epochs))


def test_the_best_two_are_run_again_in_full_with_new_seeds(sit: Callable[..., Conductor]) -> None:
    conductor = sit(RACE)
    work(conductor)
    conductor.close()
    repeats = [trial for trial in conductor.table.trials.values() if trial.repeats is not None]
    best = [trial.number for trial in conductor.table.leaders() if trial.repeats is None][:2]
    assert [trial.repeats for trial in repeats] == best
    assert all(trial.state == "completed" and trial.epochs == 12 and trial.origin == "confirm" for trial in repeats)
    assert len({trial.config.seed for trial in conductor.table.trials.values()}) == 3


def test_hours_keep_time_for_the_repeats_and_none_is_begun_that_would_not_end(sit: Callable[..., Conductor]) -> None:
    now_s = [0.0]
    conductor = sit(search_settings(epochs=12, trials=99, confirm=2, hours=0.1), clock_s=lambda: now_s[0])

    def value(number: int, epoch: int) -> float:
        now_s[0] += 2.3  # what an epoch takes by its report
        return value_of(number, epoch)

    work(conductor, value=value)
    conductor.close()
    repeats = [trial for trial in conductor.table.trials.values() if trial.repeats is not None]
    assert repeats
    assert {trial.state for trial in repeats} == {"completed"}
    assert now_s[0] <= 360 + 2.3
    assert conductor.table.ended is not None
    assert conductor.table.ended.reason == "hours"


@pytest.mark.parametrize("settings", [SETTINGS, RACE], ids=["in full", "race"])
@pytest.mark.parametrize("killed_after", [1, 3, 4, 6, 11, 19, 29, 40])
def test_a_killed_search_goes_on_as_if_it_had_not_been(
    sit: Callable[..., Conductor], tmp_path: Path, killed_after: int, settings: SearchSettings
) -> None:
    work(sit(settings), most_epochs=killed_after)  # nobody says goodbye
    work(sit(settings))
    resumed = [line for line in lines(tmp_path) if line["event"] in ("epoch", "trial_proposed")]
    (tmp_path / "journal.jsonl").unlink()
    work(sit(settings))
    assert resumed == [line for line in lines(tmp_path) if line["event"] in ("epoch", "trial_proposed")]


@pytest.mark.parametrize("settings", [SETTINGS, RACE], ids=["in full", "race"])
def test_a_search_killed_after_any_line_of_its_journal_ends_as_if_it_had_not_been(
    sit: Callable[..., Conductor], tmp_path: Path, settings: SearchSettings
) -> None:
    def ends() -> list[tuple[int, str, int]]:
        conductor = sit(settings)
        work(conductor)
        conductor.close()
        return [(trial.number, trial.state, trial.epochs) for trial in conductor.table.trials.values()]

    undisturbed, journal = ends(), tmp_path / "journal.jsonl"
    written = journal.read_bytes().splitlines(keepends=True)

    def ends_after(lines: int) -> list[tuple[int, str, int]]:
        journal.write_bytes(b"".join(written[:lines]))
        return ends()

    assert [lines for lines in range(1, len(written) + 1) if ends_after(lines) != undisturbed] == []


def test_a_repeated_epoch_is_not_written_twice(sit: Callable[..., Conductor], tmp_path: Path) -> None:
    conductor = sit()
    work(conductor, most_epochs=2)
    again = sit()
    task = again.next_task()
    assert task is not None
    assert task.after_epoch == 2
    for epoch in (1, 2, 3):  # a worker whose checkpoint was lost begins anew
        assert again.measured(1, epoch_report(epoch, ap50=value_of(1, epoch)))
    assert [line["report"]["epoch"] for line in lines(tmp_path) if line["event"] == "epoch"] == [1, 2, 3]


def test_an_interrupt_ends_the_trial_after_its_epoch_and_gives_out_no_more(sit: Callable[..., Conductor]) -> None:
    conductor = sit()
    task = conductor.next_task()
    assert task is not None
    conductor.interrupted = True
    assert not conductor.measured(1, epoch_report(1, ap50=0.1))
    assert conductor.finished
    assert conductor.next_task() is None
    assert conductor.table.trials[1].state == "interrupted"


def test_pictures_that_changed_end_a_search_and_no_trial_is_to_blame(
    sit: Callable[..., Conductor], tmp_path: Path
) -> None:
    conductor = sit(search_settings(epochs=4, trials=5, rungs=[], concurrent=2))
    for _ in range(2):
        task = conductor.next_task()
        assert task is not None
        conductor.started(task.trial.number, worker="test")
    conductor.data_changed(1, "a.png: cannot be read")
    assert conductor.next_task() is None
    assert not conductor.measured(2, epoch_report(1, ap50=0.5))
    conductor.close()
    table = read_table(tmp_path / "journal.jsonl")
    assert [trial.state for trial in table.trials.values()] == ["interrupted"] * 2
    assert all(trial.reason.startswith("a.png: cannot be read") for trial in table.trials.values())
    assert isinstance(conductor.fault, DataError)
    assert table.ended is not None
    assert table.ended.reason == "interrupted"


def test_hours_end_a_search(sit: Callable[..., Conductor]) -> None:
    now_s = [0.0]
    settings = search_settings(epochs=4, trials=5, hours=1.0, rungs=[])
    conductor = sit(settings, clock_s=lambda: now_s[0])
    work(conductor, most_epochs=1)
    now_s[0] = 3601.0
    assert not conductor.measured(1, epoch_report(2, ap50=0.1))
    conductor.close()
    assert conductor.table.trials[1].state == "interrupted"
    assert conductor.table.ended is not None
    assert conductor.table.ended.reason == "hours"


@pytest.mark.parametrize("lost_s", [3600.0, -3600.0], ids=["asleep", "clock set back"])
def test_time_that_passed_without_the_search_is_told_once(
    sit: Callable[..., Conductor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost_s: float
) -> None:
    wall_s, awake_s = [10_000.0], [0.0]
    monkeypatch.setattr(conductor_module, "now_ms", lambda: round(wall_s[0] * 1000))
    conductor = sit(clock_s=lambda: awake_s[0])
    work(conductor, most_epochs=1)
    for leapt_s in (0.0, lost_s, 0.0):
        wall_s[0] += 2.0 + leapt_s
        awake_s[0] += 2.0
        conductor.tick()
    conductor.measured(1, epoch_report(2, ap50=0.1))
    told = [line for line in lines(tmp_path) if line["event"] == "clock_leapt"]
    assert [line["lost_ms"] for line in told] == [lost_s * 1000]
    assert elapsed_s(conductor.table) == pytest.approx(10_006, abs=0.01)


def test_a_night_s_sleep_is_not_of_the_hours(sit: Callable[..., Conductor]) -> None:
    now_s = [0.0]
    conductor = sit(search_settings(hours=1.0), clock_s=AwakeClock(lambda: now_s[0]))
    for slept_s in (0.0, 8 * 3600.0, 0.0):
        for _ in range(100):
            now_s[0] += 10.0
            conductor.tick()
        now_s[0] += slept_s
        assert not conductor.out_of_time
    for _ in range(61):
        now_s[0] += 10.0
        conductor.tick()
    assert conductor.out_of_time


def test_a_failure_is_tried_once_more_from_where_it_was(sit: Callable[..., Conductor]) -> None:
    conductor = sit()
    work(conductor, most_epochs=2)
    conductor.failed(1, "RuntimeError: boom")
    task = conductor.next_task()
    assert task is not None
    assert (task.trial.number, task.after_epoch) == (1, 2)
    conductor.failed(1, "RuntimeError: boom")
    assert conductor.table.trials[1].state == "failed"
    assert conductor.table.trials[1].reason == "RuntimeError: boom"


def fail(conductor: Conductor, *, times: int = 2) -> int:
    """The next trial fails, and fails again; returns its number."""
    for _ in range(times):
        task = conductor.next_task()
        assert task is not None
        conductor.failed(task.trial.number, "CUDA error: unknown error")
    return task.trial.number


def test_when_one_trial_after_the_other_fails_none_is_lost(sit: Callable[..., Conductor]) -> None:
    conductor = sit()
    conductor.next_task()
    conductor.measured(1, epoch_report(1, ap50=0.1))
    folder = trial_folder(conductor._folder, 1)
    folder.mkdir(parents=True)
    conductor.failed(1, "the worker was lost")
    assert [fail(conductor, times=1), fail(conductor), fail(conductor)] == [1, 2, 3]
    assert conductor.next_task() is None
    with pytest.raises(SearchError, match="3 trials failed one after the other, at last with CUDA error: unknown err"):
        raise conductor.fault or AssertionError
    conductor.close()
    assert [trial.state for trial in conductor.table.trials.values()] == ["interrupted"] * 3
    assert folder.is_dir()
    resumed = sit()
    work(resumed)
    assert [trial.state for trial in resumed.table.trials.values()] == ["completed"] * 5


def test_who_fails_again_although_others_do_not_has_failed(sit: Callable[..., Conductor]) -> None:
    conductor = sit()
    assert [fail(conductor), fail(conductor), fail(conductor)] == [1, 2, 3]
    conductor.close()
    resumed = sit()
    task = resumed.next_task()
    assert task is not None
    assert task.trial.number == 4  # first something that nobody has seen fail
    resumed.measured(4, epoch_report(1, ap50=0.1))
    resumed.interrupted = True
    resumed.measured(4, epoch_report(2, ap50=0.1))
    resumed.interrupted = False
    assert [fail(resumed), fail(resumed), fail(resumed)] == [1, 2, 3]
    assert resumed.fault is None
    work(resumed)
    assert [trial.state for trial in resumed.table.trials.values()][:3] == ["failed"] * 3
    assert resumed.table.trials[5].state == "completed"


def test_a_machine_that_is_still_broken_loses_no_trial_either(sit: Callable[..., Conductor]) -> None:
    settings = search_settings(epochs=4, trials=8, rungs=[])
    conductor = sit(settings)
    assert [fail(conductor), fail(conductor), fail(conductor)] == [1, 2, 3]
    conductor.close()
    resumed = sit(settings)
    assert [fail(resumed), fail(resumed), fail(resumed)] == [4, 5, 6]
    assert resumed.fault is not None
    resumed.close()
    assert {trial.state for trial in resumed.table.trials.values()} == {"interrupted"}


def test_what_failed_is_named_in_one_line(sit: Callable[..., Conductor]) -> None:
    conductor = sit()
    for _ in range(6):
        task = conductor.next_task()
        assert task is not None
        conductor.failed(task.trial.number, "CUDA error: unknown error\nconsider CUDA_LAUNCH_BLOCKING=1")
    assert conductor.fault is not None
    assert "\n" not in conductor.fault.what
    assert "CUDA error: unknown error;" in conductor.fault.what


def test_an_epoch_between_tells_that_trials_failed_by_themselves(sit: Callable[..., Conductor]) -> None:
    conductor = sit()
    fail(conductor), fail(conductor)
    conductor.next_task()
    conductor.measured(3, epoch_report(1, ap50=0.1))
    conductor.failed(3, "RuntimeError: boom")
    conductor.next_task()
    conductor.failed(3, "RuntimeError: boom")
    assert conductor.fault is None
    assert [trial.state for trial in conductor.table.trials.values()] == ["failed"] * 3


def test_failures_after_ever_new_epochs_are_not_the_trial_s_doing(sit: Callable[..., Conductor]) -> None:
    conductor = sit()
    task = conductor.next_task()
    for epoch in (1, 2, 3):
        assert task is not None
        conductor.measured(1, epoch_report(epoch, ap50=0.1))
        conductor.failed(1, "the worker was lost")
        task = conductor.next_task()
    assert task is not None
    assert (task.trial.number, task.after_epoch) == (1, 3)


@pytest.mark.parametrize(("first", "state"), [(True, "infeasible"), (False, "failed")])
def test_only_memory_that_runs_out_again_is_the_configurations(
    sit: Callable[..., Conductor], first: bool, state: State
) -> None:
    conductor = sit()
    work(conductor, most_epochs=2)
    conductor.failed(1, "MemoryError", out_of_memory=first)
    conductor.next_task()
    conductor.failed(1, "MemoryError", out_of_memory=True)
    assert conductor.table.trials[1].state == state


def test_a_spent_worker_costs_a_trial_nothing(sit: Callable[..., Conductor]) -> None:
    conductor = sit()
    for _ in range(5):
        task = conductor.next_task()
        assert task is not None
        assert task.trial.number == 1
        conductor.worker_spent(1, "12 MB of GPU memory stayed behind")
    assert conductor.table.trials[1].state == "proposed"


def test_no_more_trials_run_than_are_wanted_at_a_time(sit: Callable[..., Conductor]) -> None:
    conductor = sit(search_settings(epochs=4, trials=5, concurrent=2, rungs=[]))
    assert conductor.next_task() is not None
    assert conductor.next_task() is not None
    assert conductor.next_task() is None
    assert not conductor.finished


def test_only_leaders_keep_their_best_and_only_the_unfinished_their_last(
    sit: Callable[..., Conductor], tmp_path: Path
) -> None:
    conductor = sit(search_settings(epochs=4, trials=5, keep_leaders=2, rungs=[]))
    work(conductor, most_epochs=18)  # the fifth trial is cut short in its second epoch
    kept = sorted(path.relative_to(tmp_path / "trials").as_posix() for path in tmp_path.glob("trials/*/*"))
    assert kept == ["003/best.safetensors", "004/best.safetensors", "005/best.safetensors", "005/last.safetensors"]


def test_what_still_runs_when_the_search_breaks_can_go_on(sit: Callable[..., Conductor]) -> None:
    conductor = sit()
    conductor.next_task()
    conductor.close(crashed=True)
    assert conductor.table.trials[1].state == "interrupted"
    assert conductor.table.ended is not None
    assert conductor.table.ended.reason == "failed"


def test_a_worker_that_is_lost_after_its_trial_ended_costs_the_trial_nothing(sit: Callable[..., Conductor]) -> None:
    conductor = sit(RACE)
    for _ in range(2):
        task = conductor.next_task()
        assert task is not None
        conductor.started(task.trial.number, worker="test")
        for epoch in (1, 2, 3):
            if not conductor.measured(task.trial.number, epoch_report(epoch, ap50=0.5)):
                break
        assert task.trial.state == "paused"
        conductor.failed(task.trial.number, "the worker was lost")
    assert [trial.state for trial in conductor.table.trials.values()] == ["paused", "paused"]
    assert conductor._waiting == []
