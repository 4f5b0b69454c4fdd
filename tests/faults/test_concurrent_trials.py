"""Two trials at a time under ``kill -9``: of one worker, of both, and of the driver.

Each pair of trials is held after its second epoch, so that both are under way when something is killed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pytest

from tests.faults.conftest import Row
from tests.faults.mirrored import differences
from tests.faults.night import Night, outcome, undisturbed
from tests.faults.test_kill import GONE_S, events, progress, saved_epochs, started_again, trials_lost, wait_until
from tests.faults.test_program import Fault, write_faults
from tune.history.events import AttemptFailed, TrialStarted
from tune.paths import journal_of

Victim: TypeAlias = Literal["a worker", "the driver", "both workers"]
HELD_AFTER = 2  # epochs, of four
RATES = (3e-4, 2e-3, 5e-4, 4e-3, 8e-4)
SIDE_BY_SIDE: Mapping[str, Any] = {
    "budget": {"trials": 1 + len(RATES)},
    "initial_points": [{"learning_rate": rate, "batch_size": 4} for rate in RATES],  # none depends on who is ahead
    "rungs": [],
    "confirm": 0,
    "concurrent": 2,
}
PAIRS: Mapping[Victim, tuple[int, int]] = {"a worker": (1, 2), "the driver": (3, 4), "both workers": (5, 6)}
HOLDS = [Fault(name="held", trial=trial, kind="hold", place=f"after epoch {HELD_AFTER}") for trial in range(1, 7)]


@pytest.mark.slow
def test_two_trials_at_a_time_both_go_on_after_each_kill(
    night: Callable[..., Night], record: Callable[[Row], None], tmp_path: Path
) -> None:
    injected = write_faults(tmp_path / "injected", HOLDS)
    search = night(settings=SIDE_BY_SIDE, environment={"PYTHONPATH": str(injected)})
    whole = undisturbed(search)
    search.begin()
    costs = {victim: disturbed(search, victim, pair, injected) for victim, pair in PAIRS.items()}
    assert search.ended() == 0, search.said[-2000:]
    wrong = differences(search.results / "mlflow.db", search.journal)
    left = search.left_behind(timeout_s=GONE_S)
    lost = trials_lost(search, whole) + sum(missing for missing, _ in costs.values()) + len(wrong) + len(left)
    for victim, (_, again_s) in costs.items():
        record(Row(fault=f"two trials at a time: kill -9 of {victim}", injected=1, lost=lost, again_s=again_s))
    assert outcome(search.table) == outcome(whole)
    assert sorted(progress(search.journal)) == sorted(progress(journal_of(search.folder / "undisturbed" / "plain")))
    assert [missing for missing, _ in costs.values()] == [0] * len(PAIRS)
    assert started_again(search) == []
    assert wrong == []
    assert left == []
    assert list((search.results / search.name).rglob("*.tmp")) == []


def disturbed(search: Night, victim: Victim, pair: tuple[int, int], injected: Path) -> tuple[int, float]:
    """Kill while a pair of trials is held, and wait until both have gone on.

    Returns:
        The epochs that were known and had no checkpoint, and the seconds until both trials had one epoch more.
    """
    wait_until(search, lambda: epochs_of(search, pair) == [HELD_AFTER] * 2)
    before = starts_of(search)
    killed_s = time.monotonic()
    stopped = kill_driver(search, pair) if victim == "the driver" else kill_workers(search, victim)
    missing = sum(HELD_AFTER - min(HELD_AFTER, saved_epochs(search, number)) for number in stopped)
    if victim == "the driver":
        search.resume()
    for number in pair:
        (injected / f"go-{number}").touch()
    wait_until(search, lambda: min(epochs_of(search, pair)) > HELD_AFTER)
    again_s = time.monotonic() - killed_s
    started = starts_of(search) - before
    assert {number: started[number] for number in pair} == {number: int(number in stopped) for number in pair}
    return missing, again_s


def epochs_of(search: Night, pair: tuple[int, int]) -> list[int]:
    trials = search.table.trials
    return [trials[number].epochs if number in trials else 0 for number in pair]


def starts_of(search: Night) -> Counter[int]:
    """How often workers took each trial."""
    return Counter(event.trial for event in events(search) if isinstance(event, TrialStarted))


def kill_driver(search: Night, pair: tuple[int, int]) -> set[int]:
    """Returns the trials that it stopped, once the session has ended."""
    search.kill("driver")
    search.ended()
    return set(pair)


def kill_workers(search: Night, victim: Victim) -> set[int]:
    """Returns the trials that it stopped, once the search knows: as many as workers were killed."""
    count, before = (1 if victim == "a worker" else 2), len(failed_attempts(search))
    workers = search.processes("worker")
    assert len(workers) == 2
    for worker in workers[:count]:
        worker.kill()
    wait_until(search, lambda: len(failed_attempts(search)) >= before + count)
    stopped = failed_attempts(search)[before:]
    assert len(set(stopped)) == len(stopped) == count
    return set(stopped)


def failed_attempts(search: Night) -> list[int]:
    """The trial of each attempt that failed."""
    return [event.trial for event in events(search) if isinstance(event, AttemptFailed)]
