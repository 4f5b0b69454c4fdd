"""Signals that a search gets from its user, from a terminal that closes, and from a machine that sleeps."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import Row
from tests.faults.night import ROOT, Night, outcome, repeated_epochs, undisturbed
from tests.faults.test_kill import LONG, events
from tests.tables import search_settings
from tests.tune.reporting.test_eta import simulated, table_of
from tune.history.events import EpochMeasured, Event, SearchResumed
from tune.reporting.eta import time_left_s

STOPPED_S = 60.0
LEAP_S = 10.0  # of the wall clock against the awake seconds, at least
INTERRUPTED = 130
LEAPING = Path(__file__).parent / "leaping"


def epochs(night: Night) -> int:
    return sum(isinstance(event, EpochMeasured) for event in events(night))


def wait_for_epochs(night: Night, more: int) -> float:
    known = epochs(night)
    return night.wait_for(lambda _: epochs(night) >= known + more)


def leaps_s(night: Night) -> list[float]:
    """By how much the wall clock leapt against the search's own, in sessions under way: asleep, or set."""
    found: list[float] = []
    offset_s: float | None = None
    for event in events(night):
        if isinstance(event, SearchResumed):
            offset_s = None  # Ray starts, and the time between two sessions is no leap
        elif isinstance(event, EpochMeasured) or offset_s is not None:
            before_s, offset_s = offset_s, event.at_ms / 1000 - event.awake_s
            if before_s is not None and abs(offset_s - before_s) > LEAP_S:
                found.append(offset_s - before_s)
    return found


def send(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        process.send_signal(number)


def resume_in_terminal(night: Night) -> int:
    """Start the next session as the leader of a terminal of its own; returns the terminal, to be closed."""
    import pty  # not on Windows

    terminal, side = pty.openpty()
    words = [sys.executable, "tune/search.py", "--name", night.name, "--results", str(night.results), "--resume"]
    take = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    night.process = subprocess.Popen(
        [sys.executable, "-c", take, *words], cwd=ROOT, stdin=side, stdout=side, stderr=side, start_new_session=True,
    )  # fmt: skip
    os.close(side)
    return terminal


def read_all(terminal: int) -> None:
    """Take what the search has shown so far, or it would wait for a reader."""
    os.set_blocking(terminal, False)
    try:
        while os.read(terminal, 65536):
            pass
    except BlockingIOError:
        pass


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_signals_cost_a_search_nothing(night: Callable[..., Night], record: Callable[[Row], None]) -> None:
    one = night(settings=LONG, images=60)
    again_s: dict[str, float] = {}

    def interrupted(how: str, more: int) -> None:
        """The session ends after so many epochs more, at most; the next one begins."""
        before, signalled_s = epochs(one), time.monotonic()
        assert one.ended() == INTERRUPTED, one.said[-2000:]
        assert epochs(one) <= before + more
        assert "Traceback" not in one.said
        assert f"tune/search.py --name {one.name} --resume" in one.said
        again_s[how] = time.monotonic() - signalled_s

    one.begin()
    wait_for_epochs(one, 2)
    assert one.process is not None
    os.killpg(one.process.pid, signal.SIGINT)  # as a terminal does
    interrupted("Ctrl-C once", 2)
    one.resume()
    wait_for_epochs(one, 2)
    send(one.processes("driver"), signal.SIGTERM)
    interrupted("SIGTERM", 2)
    one.resume()
    wait_for_epochs(one, 2)
    os.killpg(one.process.pid, signal.SIGINT)
    time.sleep(0.05)
    os.killpg(one.process.pid, signal.SIGINT)
    interrupted("Ctrl-C twice", 1)

    terminal = resume_in_terminal(one)
    wait_for_epochs(one, 2)
    read_all(terminal)
    os.close(terminal)
    again_s["a closed terminal"] = wait_for_epochs(one, 1)

    before = time_left_s(one.table, one.table.last_ms)
    processes = one.processes()
    send(processes, signal.SIGSTOP)
    time.sleep(STOPPED_S)
    send(processes, signal.SIGCONT)
    again_s["asleep"] = wait_for_epochs(one, 1)
    slept = one.table
    after = time_left_s(slept, slept.last_ms)
    assert one.ended() == 0

    whole = outcome(undisturbed(one))
    found = outcome(one.table)
    lost = sum(found.get(number) != whole.get(number) for number in found.keys() | whole.keys())
    lost += repeated_epochs(one.journal)
    for how, seconds in again_s.items():
        record(Row(fault=how, injected=1, lost=lost, again_s=seconds))
    assert found == whole
    assert one.left_behind() == []
    assert (one.results / one.name / "report.html").is_file()
    assert leaps_s(one) == [pytest.approx(STOPPED_S, abs=2)]
    assert before is not None
    assert after is not None
    assert after < before + 5


@pytest.mark.slow
def test_a_clock_that_is_set_costs_a_search_nothing(
    night: Callable[..., Night], record: Callable[[Row], None], tmp_path: Path
) -> None:
    """An hour ahead in mid-search, and back again, in all of its processes."""
    leaping = Path(shutil.copytree(LEAPING, tmp_path / "leaping"))
    one = night(images=30, environment={"PYTHONPATH": str(leaping)})
    one.begin()
    wait_for_epochs(one, 3)
    before = time_left_s(one.table, one.table.last_ms)
    again_s, took_s = [], []
    for leap_s in (3600, 0):
        (leaping / "leap_s").write_text(str(leap_s), encoding="ascii")
        again_s.append(wait_for_epochs(one, 2))
        leapt = one.table
        after = time_left_s(leapt, leapt.last_ms)
        assert before is not None
        assert after is not None
        assert after < before + 5
        took_s.append(leapt.awake_s)
    assert one.ended() == 0, one.said
    found, whole = outcome(one.table), outcome(undisturbed(one))
    lost = sum(found.get(number) != whole.get(number) for number in found.keys() | whole.keys())
    record(Row(fault="clock set an hour ahead, and back", injected=2, lost=lost, again_s=max(again_s)))
    assert found == whole
    assert leaps_s(one) == [pytest.approx(3600, abs=2), pytest.approx(-3600, abs=2)]
    assert 0 < took_s[0] < took_s[1] < 600


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """The journal of a search that nothing disturbed, on a made-up clock."""
    with pytest.MonkeyPatch.context() as patch:
        return simulated(search_settings(confirm=2), 0, patch, tmp_path_factory.mktemp("plain"))


def leapt(some: Sequence[Event], at: int, lost_s: float, *, epoch_s: float) -> list[Event]:
    """The same journal with a leap of the wall clock in the epoch of event ``at``, which took so much longer by its
    worker's clock.
    """
    lost_ms = round(lost_s * 1000)
    later: list[Event] = []
    for event in some[at:]:
        shifted = event.model_copy(update={"at_ms": event.at_ms + lost_ms})
        if isinstance(shifted, EpochMeasured) and not later:
            report = shifted.report.model_copy(update={"train_s": shifted.report.train_s + epoch_s})
            shifted = shifted.model_copy(update={"report": report})
        later.append(shifted)
    return [*some[:at], *later]


LEAPS = {
    "asleep for eight hours": (8 * 3600.0, 0.0),
    "asleep, and the worker's clock went on": (8 * 3600.0, 8 * 3600.0),
    "clock set an hour ahead": (3600.0, 0.0),
    "clock set back by an hour": (-3600.0, 0.0),
}


@pytest.mark.parametrize(("lost_s", "epoch_s"), LEAPS.values(), ids=LEAPS)
@pytest.mark.parametrize("trial", [3, 8, 20])
def test_a_leap_of_the_clock_does_not_distort_the_time_left_s(
    plain: list[Event], trial: int, lost_s: float, epoch_s: float
) -> None:
    at = next(i for i, event in enumerate(plain) if isinstance(event, EpochMeasured) and event.trial == trial)
    disturbed = leapt(plain, at, lost_s, epoch_s=epoch_s)
    for cut in range(at + 1, len(plain), 9):
        true, found = table_of(plain[:cut]), table_of(disturbed[:cut])
        left, distorted = time_left_s(true, true.last_ms), time_left_s(found, found.last_ms)
        assert left is not None
        assert distorted is not None
        assert found.awake_s == true.awake_s
        assert distorted == pytest.approx(left, rel=0.6 if epoch_s else 0.01, abs=1.0)
