"""A disk that fills up, that may not be written to, that takes the results with it: the search waits and goes on."""

from __future__ import annotations

import errno
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.builders import epoch_report, events
from tests.faults.conftest import Row
from tests.faults.mirrored import differences
from tests.faults.night import PATIENCE_S, Night, outcome, repeated_epochs, undisturbed
from tests.faults.small_disk import SmallDisk, small_disk
from tests.tables import search_settings, search_started
from tune.execution.controller import Controller
from tune.execution.outcomes import Measured, Unwritable
from tune.execution.worker import Assignment, UnwritableError, Worker
from tune.history.journal import Follower, Journal, read_table, table_of
from tune.history.table import Table
from tune.search import main
from vqc.config import TrainConfig
from vqc.data.dataset import Data
from vqc.training.state import read_report

Record = Callable[[Row], None]
SOME = events(trials=12)
LARGE = epoch_report(1, ap50=0.5).model_copy(update={"losses": {f"term {number}": 0.5 for number in range(400)}})
REFUSED = Unwritable(reason="checkpoints cannot be written", needed_bytes=10**6)
WAITS = "The search waits until it can write there"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """One of 4 MB."""
    with small_disk(tmp_path / "disk", size_mb=4) as mounted:
        yield mounted


# The journal


@pytest.mark.parametrize("left_bytes", [0, 4096, 8192])
def test_no_line_is_left_half_written(disk: SmallDisk, record: Record, left_bytes: int) -> None:
    journal = Journal(disk.folder / "journal.jsonl")
    disk.fill(leave_bytes=left_bytes)
    written = written_until_full(journal)
    assert list(Follower(journal.path).poll()) == SOME[:written]
    disk.empty()
    for event in SOME[written:]:
        journal.append(event)
    journal.close()
    kept = list(Follower(journal.path).poll())
    assert kept == SOME
    record(Row(fault="disk full while the journal is written", injected=1,
               lost=len(SOME) - len(kept)))  # fmt: skip


def written_until_full(journal: Journal) -> int:
    """How many of the events could be written; one cannot."""
    for written, event in enumerate(SOME):
        try:
            journal.append(event)
        except OSError:
            return written
    raise AssertionError("there was room for all")


def test_a_journal_that_is_deleted_is_written_again(tmp_path: Path, record: Record) -> None:
    journal = Journal(tmp_path / "search" / "journal.jsonl")
    for at, event in enumerate(SOME):
        if at % 5 == 3:
            shutil.rmtree(tmp_path / "search")
        journal.append(event)
    journal.close()
    kept = list(Follower(journal.path).poll())
    assert kept == SOME
    record(Row(fault="folder of the search deleted between two events", injected=len(range(3, len(SOME), 5)),
               lost=len(SOME) - len(kept)))  # fmt: skip


# The controller


@pytest.fixture
def new_controller(disk: SmallDisk, tmp_path: Path) -> Iterator[Callable[..., Controller]]:
    """A search with its first trial started; its journal lies on the small disk, or only its checkpoints do."""
    journals: list[Journal] = []

    def make(*, journal_on_disk: bool = True) -> Controller:
        journals.append(Journal((disk.folder if journal_on_disk else tmp_path) / "journal.jsonl"))
        first = search_started(search_settings(epochs=4, trials=3, rungs=()))
        journals[-1].append(first)
        search = Controller(journals[-1], table_of([first]), folder=disk.folder)
        search._disk._pause_s = 0.1
        assert search.next_task() is not None
        search.started(1, worker="test")
        return search

    yield make
    for journal in journals:
        journal.close()


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def wait_for(condition: Callable[[], bool], *, timeout_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s"
        time.sleep(0.02)


def test_an_epoch_is_kept_until_it_can_be_written(
    new_controller: Callable[..., Controller], disk: SmallDisk, record: Record
) -> None:
    search = new_controller()
    disk.fill()
    records = in_thread(
        lambda: search.record(1, Measured(report=LARGE))
    )  # more than what is left of the journal's last block
    wait_for(lambda: "No space left on device" in search.trouble)
    assert WAITS in search.trouble
    disk.empty()
    freed_s = time.monotonic()
    records.join(PATIENCE_S)
    kept = read_table(search._journal.path).trials[1].epochs
    assert (kept, search.trouble) == (1, "")
    record(Row(fault="disk full when an epoch is recorded", injected=1, lost=1 - kept,
               again_s=time.monotonic() - freed_s))  # fmt: skip


@pytest.mark.parametrize(("break_", "mend", "reason"), [
    (lambda disk: disk.fill(leave_bytes=64 * 1024), SmallDisk.empty, "No space left on device"),
    (lambda disk: disk.set_read_only(True), lambda disk: disk.set_read_only(False), "Read-only file system"),
], ids=["full", "read-only"])  # fmt: skip
def test_checkpoints_wait_and_are_no_failure(
    new_controller: Callable[..., Controller],
    disk: SmallDisk,
    record: Record,
    break_: Callable[[SmallDisk], None],
    mend: Callable[[SmallDisk], None],
    reason: str,
) -> None:
    search = new_controller(journal_on_disk=False)
    break_(disk)
    waits = in_thread(lambda: search.record(1, REFUSED))
    wait_for(lambda: reason in search.trouble)
    assert search.next_task() is None
    mend(disk)
    mended_s = time.monotonic()
    waits.join(PATIENCE_S)
    task = search.next_task()
    assert task is not None
    assert (task.trial.number, task.after_epoch, task.trial.failures) == (1, 0, [])
    record(Row(fault=f"checkpoints refused: {reason.lower()}", injected=1, lost=len(task.trial.failures),
               again_s=time.monotonic() - mended_s))  # fmt: skip


def test_checkpoints_that_are_refused_where_there_is_room_are_a_failure(
    new_controller: Callable[..., Controller],
) -> None:
    search = new_controller()
    for _ in range(2):
        search.record(1, REFUSED)
        search.next_task()
    assert search.table.trials[1].state == "failed"


def test_ctrl_c_ends_the_waiting_and_leaves_what_a_resumption_needs(
    new_controller: Callable[..., Controller], disk: SmallDisk
) -> None:
    search = new_controller()
    disk.fill()
    search.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        search.record(1, Measured(report=LARGE))
    search.close(crashed=True)
    trial = read_table(search._journal.path).trials[1]
    assert trial.epochs == 0
    assert trial.state in ("running", "interrupted")  # by what the journal's last block still holds


# A worker


def test_a_worker_without_room_keeps_its_last_checkpoints(tiny: Data, tmp_path: Path, record: Record) -> None:
    with small_disk(tmp_path / "disk", size_mb=40) as disk:
        first = worker_of(tiny, disk.folder / "t", after_epoch=0)
        disturbed = [first.epoch()]
        last = disk.folder / "t" / "last.safetensors"
        disk.fill(leave_bytes=100_000)
        with pytest.raises(UnwritableError, match="No space left on device") as caught:
            first.epoch()
        first.release()
        assert caught.value.needed_bytes > last.stat().st_size
        assert read_report(last).epoch == 1
        assert not list(last.parent.glob("*.tmp"))
        disk.empty()
        second = worker_of(tiny, disk.folder / "t", after_epoch=1)
        disturbed += [second.epoch(), second.epoch()]
        second.release()
    whole = worker_of(tiny, tmp_path / "t", after_epoch=0)
    quiet = [whole.epoch() for _ in range(3)]
    whole.release()
    wrong = sum(one.scores != other.scores for one, other in zip(disturbed, quiet, strict=True))
    assert wrong == 0
    record(Row(fault="disk full while checkpoints are written", injected=1, lost=wrong))


def worker_of(data: Data, folder: Path, *, after_epoch: int) -> Worker:
    config = TrainConfig(model="fcos_tiny", weights="none", image_size=(64, 64), num_epochs=3, batch_size=4)
    worker = Worker(data, threads=1)
    worker.begin(
        Assignment(config=config, metric="ap50", after_epoch=after_epoch, folder=folder, cache=folder.parent / "c")
    )
    return worker


# The whole


@pytest.mark.parametrize("wrong", [errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get)
def test_a_search_does_not_begin_where_it_cannot_write(
    night: Callable[..., Night], disk: SmallDisk, capfd: pytest.CaptureFixture[str], wrong: int
) -> None:
    made = night()
    if wrong == errno.ENOSPC:
        disk.fill()
    else:
        disk.set_read_only(True)
    flags = ["--data", str(made.folder / "data"), "--config", str(made.config), "--results", str(disk.folder)]
    assert main([*flags, "--name", "night"]) == 2
    said = capfd.readouterr().err.strip()
    assert said.startswith(str(disk.folder))
    assert "cannot be written: " in said
    assert "\n" not in said


@pytest.mark.slow
def test_a_search_on_a_full_disk_goes_on_when_there_is_room(
    night: Callable[..., Night], tmp_path: Path, record: Record
) -> None:
    """Full to the last byte, where no event can be written; and with some room, enough for events, not for weights."""
    full_s, again_s = 6.0, 0.0
    with small_disk(tmp_path / "results", size_mb=200) as disk:
        search = night(images=40)  # an epoch takes long enough to be met
        search.begin()
        for epochs, left_bytes in ((2, 0), (6, 500_000)):
            search.wait_for(lambda table, epochs=epochs: epochs_of(table) >= epochs)
            disk.fill(leave_bytes=left_bytes)
            waits = search.said.count(WAITS)
            wait_for(lambda waits=waits: search.said.count(WAITS) > waits)
            time.sleep(full_s)
            assert search.running
            before = epochs_of(search.table)
            disk.empty()
            again_s = max(again_s, search.wait_for(lambda table, before=before: epochs_of(table) > before))
        assert search.ended() == 0, search.said
        assert search.said.count("The search goes on.") == 2
        disturbed, wrong = outcome(search.table), differences(search.results / "mlflow.db", search.journal)
        repeated = repeated_epochs(search.journal)
        assert (search.results / "night" / "report.html").is_file()
    quiet = outcome(undisturbed(search))
    assert disturbed == quiet
    assert wrong == []
    assert repeated == 0
    record(Row(fault="disk of the results full in mid-search", injected=2, again_s=again_s,
               lost=sum(disturbed.get(number) != row for number, row in quiet.items()) + len(wrong)))  # fmt: skip


def epochs_of(table: Table) -> int:
    return sum(trial.epochs for trial in table.trials.values())
