"""``kill -9`` of the driver, the training worker and the raylet, wherever a search happens to be."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from tests.faults.conftest import Row
from tests.faults.mirrored import differences
from tests.faults.night import PATIENCE_S, Night, Part, outcome, repeated_epochs, undisturbed
from tune.history.events import EpochMeasured, Event, TrialEnded, TrialProposed, TrialStarted
from tune.history.journal import Follower
from tune.history.table import Table
from tune.paths import journal_of, trial_folder
from vqc.errors import ModelError
from vqc.training.state import read_report

SEED = 6
KILLS: dict[Part, int] = {"driver": 7, "worker": 7, "raylet": 6}
IMAGES = 150  # an epoch takes about a second
EARLY = 0.4  # of the driver's kills come while Ray still starts
LONGEST_START_S = 10.0
LONGEST_WAIT_S = 0.6  # from an event of the journal to the kill: about an epoch
LONG = {
    "train": {
        "model": "fcos_tiny", "weights": "none", "image_size": [64, 64], "batch_size": 4, "num_epochs": 6,
        "learning_rate": 1e-3, "gpu_optimization": {"mixed_precision": "float32"},
    },
    "budget": {"trials": 9},
}  # fmt: skip
GONE_S = 90.0  # two of Ray's processes look for a GCS that is gone for a minute, and hold nothing meanwhile:
AGENT = re.compile("ray::(RuntimeEnv|Dashboard)Agent")
FINISHED = ("completed", "stopped", "infeasible", "failed")


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One instant: once so many proposals and epochs are in the journal, and a while after that.

    ``early``: a while after the session began, while Ray still starts.
    """

    part: Part
    progress: int
    wait_s: float
    early: bool = False


@dataclass(kw_only=True)
class Killed:
    """What was so when a part was killed."""

    part: Part
    at_s: float
    starts: int
    progress: int


@dataclass(kw_only=True)
class Cost:
    """What the kills have done so far."""

    last: Killed | None = None  # the search does not go on again yet
    again_s: dict[Part, float] = field(default_factory=dict)  # the longest until a worker had a trial again
    retrained: int = 0  # epochs that were known and had no checkpoint
    shared_memory: set[Path] = field(default_factory=set)


def events(night: Night) -> list[Event]:
    return list(Follower(night.journal).poll())


def progress(journal: Path) -> list[tuple[int, int]]:
    """Proposals (epoch 0) and epochs, in the order in which they came; a kill adds none to them."""
    found = []
    for event in Follower(journal).poll():
        if isinstance(event, TrialProposed):
            found.append((event.trial, 0))
        elif isinstance(event, EpochMeasured):
            found.append((event.trial, event.report.epoch))
    return found


def drawn(length: int) -> list[Kill]:
    """One kill in each stretch of a search, at an instant drawn in it, of parts in an order drawn too."""
    rng = random.Random(SEED)
    parts = [part for part, count in KILLS.items() for _ in range(count)]
    rng.shuffle(parts)
    kills: list[Kill] = []
    for number, part in enumerate(parts):
        reached = int((number + rng.random()) / len(parts) * (length - 2))
        early = part == "driver" and (not kills or kills[-1].part != "worker") and rng.random() < EARLY
        wait_s = rng.uniform(0, LONGEST_START_S if early else LONGEST_WAIT_S)
        kills.append(Kill(part=part, progress=reached, wait_s=wait_s, early=early))
    return kills


def inject(night: Night, kill: Kill, cost: Cost) -> None:
    """Wait for the instant, kill, and start the next session where that ended this one."""
    if not kill.early:
        wait_until_going_again(night, cost)
        wait_until(night, lambda: len(progress(night.journal)) >= kill.progress)
    time.sleep(kill.wait_s)
    cost.shared_memory |= shared_memory(night)
    night.kill(kill.part)
    cost.last = Killed(
        part=kill.part, at_s=time.monotonic(), starts=starts(night), progress=len(progress(night.journal))
    )
    cost.retrained += without_checkpoint(night)
    if kill.part == "raylet":
        assert night.ended() == 2, night.said[-2000:]
        assert "Ray's raylet ended" in night.said
        assert night.said.endswith(f"python tune/search.py --name {night.name} --resume\n")
    if kill.part == "driver":
        night.ended()
    if not night.running:
        (night.resume if events(night) else night.begin)()


def wait_until_going_again(night: Night, cost: Cost) -> None:
    """Until a worker has a trial again, and after its own end until an epoch is over: killed once more before that,
    the trial would rightly count as failed.
    """
    last, cost.last = cost.last, None
    if last is None:
        return
    wait_until(night, lambda: starts(night) > last.starts)
    cost.again_s[last.part] = max(cost.again_s.get(last.part, 0.0), time.monotonic() - last.at_s)
    if last.part == "worker":
        wait_until(night, lambda: len(progress(night.journal)) > last.progress)


def wait_until(night: Night, reached: Callable[[], bool]) -> None:
    """As ``Night.wait_for``, but awake enough to notice each epoch."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not reached():
        assert night.running, f"the search ended before: {night.said[-2000:]}"
        assert time.monotonic() < deadline_s, night.said[-2000:]
        time.sleep(0.02)


def starts(night: Night) -> int:
    """How often a worker took a trial."""
    return sum(isinstance(event, TrialStarted) for event in events(night))


def without_checkpoint(night: Night) -> int:
    """Epochs of unfinished trials that are in the journal, and not in the checkpoint that they would go on from."""
    missing = 0
    for trial in night.table.trials.values():
        if trial.state in ("running", "paused") and trial.epochs:
            saved = saved_epochs(night, trial.number)
            assert saved <= trial.epochs + 1
            missing += max(0, trial.epochs - saved)
    return missing


def saved_epochs(night: Night, number: int) -> int:
    """Epochs in the checkpoint that a trial would go on from."""
    with suppress(ModelError):
        return read_report(trial_folder(night.results / night.name, number) / "last.safetensors").epoch
    return 0


def shared_memory(night: Night) -> set[Path]:
    """Files in shared memory that the search's processes have mapped."""
    found = set()
    for process in night.processes():
        try:
            found |= {Path(one.path) for one in process.memory_maps() if one.path.startswith("/dev/shm/")}
        except psutil.Error:
            continue
    return found


def started_again(night: Night) -> list[int]:
    """Finished trials that a worker took once more."""
    finished: set[int] = set()
    again = []
    for event in events(night):
        if isinstance(event, TrialEnded) and event.state in FINISHED:
            finished.add(event.trial)
        elif isinstance(event, TrialStarted) and event.trial in finished:
            again.append(event.trial)
    return again


def trials_lost(night: Night, whole: Table) -> int:
    """Trials that differ from the undisturbed ones in any value, missing ones included, and epochs recorded twice."""
    found, expected = outcome(night.table), outcome(whole)
    differing = [number for number in found.keys() | expected.keys() if found.get(number) != expected.get(number)]
    return len(differing) + repeated_epochs(night.journal)


@pytest.mark.slow
def test_twenty_kills_cost_a_search_nothing_but_time(
    night: Callable[..., Night], record: Callable[[Row], None]
) -> None:
    disturbed, cost = night(settings=LONG, images=IMAGES), Cost()
    whole = undisturbed(disturbed)
    order = progress(journal_of(disturbed.folder / "undisturbed" / "plain"))
    disturbed.begin()
    for kill in drawn(len(order)):
        inject(disturbed, kill, cost)
    wait_until_going_again(disturbed, cost)
    assert disturbed.ended() == 0, disturbed.said[-2000:]
    wrong = differences(disturbed.results / "mlflow.db", disturbed.journal)
    left = disturbed.left_behind(timeout_s=GONE_S)
    for part, count in KILLS.items():
        gone = trials_lost(disturbed, whole) + cost.retrained + len(wrong) + len(left)
        record(Row(fault=f"kill -9 of the {part}", injected=count, lost=gone, again_s=cost.again_s[part]))
    assert outcome(disturbed.table) == outcome(whole)
    assert progress(disturbed.journal) == order  # nothing twice, and nothing out of its turn
    assert cost.retrained == 0
    assert started_again(disturbed) == []
    assert wrong == []
    assert left == []
    assert list((disturbed.results / disturbed.name).rglob("*.tmp")) == []
    assert [path for path in cost.shared_memory if path.exists()] == []
    with FileLock(disturbed.results / disturbed.name / "lock", timeout=0):
        pass


def test_a_killed_search_comes_to_the_same_end(night: Callable[..., Night]) -> None:
    disturbed = night(settings={"budget": {"trials": 4}})
    disturbed.begin()
    disturbed.wait_for(lambda table: sum(trial.epochs for trial in table.trials.values()) >= 3)
    disturbed.kill("driver")
    disturbed.ended()
    disturbed.resume()
    expected = outcome(undisturbed(disturbed))  # while Ray starts
    assert disturbed.ended() == 0, disturbed.said[-2000:]
    assert outcome(disturbed.table) == expected
    assert repeated_epochs(disturbed.journal) == 0
    assert started_again(disturbed) == []
    assert [name for name in disturbed.left_behind(timeout_s=5) if not AGENT.match(name)] == []
