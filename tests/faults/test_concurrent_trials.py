"""Two trials at a time under ``kill -9``: of one worker, of both, and of the driver."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import pytest

from tests.faults.conftest import Row
from tests.faults.mirrored import differences
from tests.faults.night import SETTINGS, Night, outcome, undisturbed
from tests.faults.test_kill import GONE_S, events, progress, saved_epochs, started_again, trials_lost, wait_until
from tune.history.events import AttemptFailed, TrialStarted
from tune.history.table import Trial
from tune.paths import journal_of

Victim: TypeAlias = Literal["a worker", "both workers", "the driver"]
VICTIMS: tuple[Victim, ...] = ("a worker", "the driver", "both workers", "the driver")
EPOCHS = 8
LATEST = EPOCHS - 3  # epochs of a trial when it is disturbed: it must not end by itself just then
IMAGES = 150
RATES = (3e-4, 2e-3, 5e-4, 4e-3)
SIDE_BY_SIDE: Mapping[str, Any] = {
    "train": {**SETTINGS["train"], "num_epochs": EPOCHS},
    "budget": {"trials": 1 + len(RATES)},
    "initial_points": [{"learning_rate": rate, "batch_size": 4} for rate in RATES],  # none depends on who is ahead
    "rungs": [],
    "confirm": 0,
    "concurrent": 2,
}


@pytest.mark.slow
def test_two_trials_at_a_time_both_go_on_after_each_kill(
    night: Callable[..., Night], record: Callable[[Row], None]
) -> None:
    search = night(settings=SIDE_BY_SIDE, images=IMAGES)
    whole = undisturbed(search)
    search.begin()
    missing, again_s = 0, dict.fromkeys(VICTIMS, 0.0)
    for victim in VICTIMS:
        lacking, seconds = disturbed(search, victim)
        missing, again_s[victim] = missing + lacking, max(again_s[victim], seconds)
    assert search.ended() == 0, search.said[-2000:]
    wrong = differences(search.results / "mlflow.db", search.journal)
    left = search.left_behind(timeout_s=GONE_S)
    lost = trials_lost(search, whole) + missing + len(wrong) + len(left)
    for victim, count in Counter(VICTIMS).items():
        fault = f"two trials at a time: kill -9 of {victim}"
        record(Row(fault=fault, injected=count, lost=lost, again_s=again_s[victim]))
    assert outcome(search.table) == outcome(whole)
    assert sorted(progress(search.journal)) == sorted(progress(journal_of(search.folder / "undisturbed" / "plain")))
    assert missing == 0
    assert started_again(search) == []
    assert wrong == []
    assert left == []
    assert list((search.results / search.name).rglob("*.tmp")) == []


def disturbed(search: Night, victim: Victim) -> tuple[int, float]:
    """Kill while two trials run, and wait until both have gone on.

    Returns:
        The epochs that were known and had no checkpoint, and the seconds until both trials had one epoch more.
    """
    wait_until(search, lambda: len(halfway(search)) == 2)
    pair, starts = {trial.number: trial.epochs for trial in halfway(search)}, starts_of(search)
    killed_s = time.monotonic()
    stopped = driver_killed(search, pair) if victim == "the driver" else workers_killed(search, victim)
    missing = sum(max(0, epochs - saved_epochs(search, number)) for number, epochs in stopped.items())
    if victim == "the driver":
        search.resume()
    known = {**pair, **stopped}
    wait_until(search, lambda: all(search.table.trials[number].epochs > known[number] for number in pair))
    again_s = time.monotonic() - killed_s
    started = starts_of(search) - starts
    assert {number: started[number] for number in pair} == {number: int(number in stopped) for number in pair}
    return missing, again_s


def halfway(search: Night) -> list[Trial]:
    """The trials that run, if each has an epoch since it last failed and enough of them to come."""
    running = [trial for trial in search.table.trials.values() if trial.state == "running"]
    ready = [trial for trial in running if 1 <= trial.epochs <= LATEST and not trial.failures_here()]
    return ready if len(ready) == len(running) else []


def starts_of(search: Night) -> Counter[int]:
    """How often workers took each trial."""
    return Counter(event.trial for event in events(search) if isinstance(event, TrialStarted))


def driver_killed(search: Night, pair: Iterable[int]) -> dict[int, int]:
    """Both trials and their epochs, once the session has ended."""
    search.kill("driver")
    search.ended()
    return {number: search.table.trials[number].epochs for number in pair}


def workers_killed(search: Night, victim: Victim) -> dict[int, int]:
    """The trials whose worker was killed and their epochs, once the search knows."""
    count, before = 1 if victim == "a worker" else 2, len(failures(search))
    workers = search.processes("worker")
    assert len(workers) == 2
    for worker in workers[:count]:
        worker.kill()
    wait_until(search, lambda: len(failures(search)) >= before + count)
    stopped = dict(failures(search)[before:])
    assert len(stopped) == count
    return stopped


def failures(search: Night) -> list[tuple[int, int]]:
    """Trial, and its epochs, of each attempt that failed."""
    return [(event.trial, event.after_epoch) for event in events(search) if isinstance(event, AttemptFailed)]
