"""How long an epoch may take before its trial counts as hung, who counts the seconds, and why a worker was lost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.builders import epoch_report, events
from tune.execution.clock import AwakeClock
from tune.execution.outcomes import WorkerLost
from tune.execution.watchdog import FACTOR, MARGIN_S, SLOWEST_S, Watchdog, epoch_limit_s, usual_epoch_s
from tune.history.events import SearchResumed, WorkerReplaced
from tune.history.table import Table, Trial


def table_of(*trials: tuple[int, list[float]], resumed: bool = False) -> Table:
    """A search's first line and trials, given as their image size and the seconds of their epochs."""
    first, proposed = events()[:2]
    table = Table()
    table.apply(first)
    for number, (side, seconds) in enumerate(trials, start=1):
        config = proposed.config.model_copy(update={"image_size": (side, side)})
        table.apply(proposed.model_copy(update={"trial": number, "config": config}))
        table.trials[number].reports = [
            epoch_report(epoch, ap50=0.1).model_copy(update={"train_s": taken, "eval_s": 0.0})
            for epoch, taken in enumerate(seconds, start=1)
        ]
        table.trials[number].epoch_ends_s = list(map(float, range(1, len(seconds) + 1)))
    if resumed:
        table.apply(SearchResumed(at_ms=first.at_ms, awake_s=100.0, command="", budget=table.budget))
    return table


def newest(table: Table) -> Trial:
    return table.trials[len(table.trials)]


def test_before_anything_was_measured_even_a_slow_machine_has_time() -> None:
    table = table_of((128, []))
    assert epoch_limit_s(table, newest(table)) == MARGIN_S + SLOWEST_S * (128 + 48)


def test_the_limit_is_ten_times_the_slowest_trial_of_its_kind_and_a_margin() -> None:
    table = table_of((128, [20.0, 20.0]), (128, [50.0, 50.0]), (128, []))
    assert epoch_limit_s(table, newest(table)) == pytest.approx(MARGIN_S + FACTOR * 50.0)


def test_larger_images_are_waited_for_in_proportion_to_their_pixels() -> None:
    table = table_of((128, [20.0]), (256, []))
    assert usual_epoch_s(table, newest(table).config) == pytest.approx(80.0)


def test_an_epoch_during_which_the_laptop_slept_does_not_lengthen_the_limit() -> None:
    table = table_of((128, [20.0, 30_000.0, 21.0]))
    assert usual_epoch_s(table, newest(table).config) == pytest.approx(21.0)


def test_another_detector_tells_nothing() -> None:
    table = table_of((128, [20.0]))
    assert usual_epoch_s(table, newest(table).config.model_copy(update={"model": "another"})) is None


def test_what_an_earlier_session_measured_does_not_count_because_it_may_have_had_another_gpu() -> None:
    table = table_of((128, [20.0]), resumed=True)
    assert usual_epoch_s(table, newest(table).config) is None


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Waiting:
    """A trial of Ray's with a limit of 20 seconds, and the watchdog that waits for it."""

    def __init__(self, error_file: Path | None = None) -> None:
        self.clock, self.killed_s = Clock(), list[float]()
        worker = SimpleNamespace(ray_actor="an actor")
        self.trial = SimpleNamespace(trial_id="a", error_file=error_file and str(error_file), temporary_state=worker)
        self.watchdog = Watchdog(
            lambda trial: 20.0,
            lambda actor: self.killed_s.append(self.clock.now_s),
            refused="WorkerRefusedError",
            clock_s=AwakeClock(self.clock),
        )

    def turns(self, times: int, *, each_s: float = 0.5) -> None:
        """So many turns of Ray's loop."""
        for _ in range(times):
            self.clock.now_s += each_s
            self.watchdog.check([self.trial])


def test_who_was_waited_for_too_long_is_ended_and_has_as_long_again() -> None:
    waiting = Waiting()
    waiting.turns(90)
    assert waiting.killed_s == [21.0, 42.0]
    assert waiting.watchdog.lost(waiting.trial).reason == "no epoch within 20 s: the worker hung"


def test_a_sign_of_life_begins_the_wait_anew() -> None:
    waiting = Waiting()
    for _ in range(5):
        waiting.turns(30)
        waiting.watchdog.reported(waiting.trial)
    assert waiting.killed_s == []


@pytest.mark.parametrize("slept_s", [60.0, 8 * 3600.0])
def test_sleep_is_no_waiting(slept_s: float) -> None:
    waiting = Waiting()
    waiting.turns(36)
    waiting.clock.now_s += slept_s
    waiting.turns(3)
    assert waiting.killed_s == []


def test_sleep_does_not_lengthen_the_limit() -> None:
    """The limit comes from what this session measured; sleep does not begin another one."""
    table = table_of((128, [20.0, 20.0]), (128, []))
    before_s = epoch_limit_s(table, newest(table))
    night_ms = 8 * 3_600_000
    table.apply(WorkerReplaced(at_ms=events()[0].at_ms + night_ms, awake_s=50.0, worker="1@here", reason="died"))
    assert epoch_limit_s(table, newest(table)) == before_s


def test_whoever_has_no_worker_is_not_waited_for() -> None:
    waiting = Waiting()
    waiting.turns(30)
    waiting.watchdog.check([])
    waiting.turns(30)
    assert waiting.killed_s == []


MONITOR = """Failure # 1 (occurred at 2026-11-24_05-40-41)
1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: a9a7f70f) was \
2.89GB used / 23.54GB limit (0.122968)
OOM kill reason: Memory usage 3108212736B exceeded threshold of 3040763136B (12.0% of 25276502016B limit)
Refer to the documentation on how to address the out of memory issue.
"""
REFUSED = """Failure # 1 (occurred at 2026-11-24_05-40-41)
ray::ResourceTrainable.reset() (pid=1, ip=192.0.2.2)
tune.execution.trainable.WorkerRefusedError: 12 MB of GPU memory stayed behind
"""
RAN_OUT = "the machine's memory ran out: 2.89GB of 23.54GB were in use"
DIED = "The actor is dead because its worker process has died."
CRASHED = f"Failure # 1 (occurred at 2026-11-24_05-40-41)\n{DIED}\n"


@pytest.mark.parametrize(
    ("message", "started", "expected"),
    [
        (MONITOR, True, WorkerLost(reason=RAN_OUT, out_of_memory=True)),
        (REFUSED, False, WorkerLost(reason="12 MB of GPU memory stayed behind", before_trial=True)),
        (CRASHED, True, WorkerLost(reason=DIED)),
        (CRASHED, False, WorkerLost(reason=DIED, before_trial=True)),
        ("", True, WorkerLost(reason="the worker was lost")),
    ],
)
def test_a_lost_worker_has_a_reason_and_counts_against_a_trial_that_it_had_taken(
    message: str, started: bool, expected: WorkerLost, tmp_path: Path
) -> None:
    (tmp_path / "error.txt").write_text(message, encoding="utf-8")
    waiting = Waiting(tmp_path / "error.txt")
    if started:
        waiting.watchdog.started(waiting.trial)
    assert waiting.watchdog.lost(waiting.trial) == expected
