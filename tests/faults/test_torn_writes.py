"""What a crash or a power cut leaves of a file, a disk that rots, a database that somebody else holds."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.builders import START_MS, at, epoch_report, events
from tests.faults.conftest import Row
from tests.faults.mirrored import differences
from tests.faults.night import Night, outcome, undisturbed
from tune.execution.worker import Assignment, Worker
from tune.history.events import (
    EpochMeasured,
    Event,
    SearchEnded,
    SearchResumed,
    TrialEnded,
    TrialPaused,
    TrialProposed,
    TrialShortened,
    TrialStarted,
)
from tune.history.journal import Follower, Journal, read_table, table_of
from tune.search import main
from tune.settings import Budget
from vqc.config import TrainConfig
from vqc.data.dataset import Data
from vqc.epoch import EpochReport
from vqc.errors import ModelError, SearchError
from vqc.models.checkpoint import ModelInfo, load_model, read_info, save_model
from vqc.training.state import LoopState, read_report, snapshot_of

Record = Callable[[Row], None]
SOME = events(trials=2, epochs=2)
LAST: list[Event] = [
    SearchResumed(**at(START_MS + 9), command="again", budget=Budget(trials=40)),
    TrialProposed(**at(START_MS + 9), trial=3, params={"learning_rate": 0.1}, config=TrainConfig(), origin="sampler"),
    TrialStarted(**at(START_MS + 9), trial=1, after_epoch=2, worker="1@here"),
    EpochMeasured(**at(START_MS + 9), trial=1, report=epoch_report(3, ap50=0.9)),
    TrialPaused(**at(START_MS + 9), trial=1, reason="waits"),
    TrialShortened(**at(START_MS + 9), trial=1, num_epochs=3),
    TrialEnded(**at(START_MS + 9), trial=1, state="completed", reason="all epochs"),
    SearchEnded(**at(START_MS + 9), reason="trials"),
]


def line(event: Event) -> bytes:
    return event.model_dump_json().encode() + b"\n"


WHOLE = b"".join(map(line, SOME))
BEFORE = table_of(SOME, Path("journal.jsonl"))


# The journal


@pytest.mark.parametrize("last", LAST, ids=lambda event: event.event)
def test_a_journal_cut_at_every_byte_of_its_last_record(tmp_path: Path, record: Record, last: Event) -> None:
    path, torn = tmp_path / "journal.jsonl", line(last)
    differ = 0
    for kept in range(len(torn)):
        path.write_bytes(WHOLE + torn[:kept])
        found = read_table(path)
        Journal(path).close()
        differ += found != BEFORE or path.read_bytes() != WHOLE
    assert differ == 0
    record(Row(fault="journal cut at every byte of its last record", injected=len(torn), lost=differ))


POWER_CUT = {
    "zeros": b"\0" * 4096,
    "zeros and a line end": b"\0" * 4096 + b"\n",
    "half a line, then zeros": line(LAST[3])[:50] + b"\0" * 200 + b"\n",
    "zeros, then half a line": b"\0" * 200 + line(LAST[3])[50:],
    "another file's content": bytes(range(256)).replace(b"\n", b"") + b"\n",
    "a line without its start": line(LAST[3])[17:],
    "an empty line": b"\n",
    "a line in two": b'{"event": "ep\noch", "at',
}


@pytest.mark.parametrize("left", POWER_CUT.values(), ids=POWER_CUT.keys())
def test_what_a_power_cut_leaves_is_taken_back(tmp_path: Path, record: Record, left: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(WHOLE + left)
    follower = Follower(path)  # one that was there before the journal is opened again
    assert [*follower.poll()] == SOME
    journal = Journal(path)
    assert journal.torn_bytes == len(left)
    journal.append(LAST[-1])
    journal.close()
    assert path.read_bytes() == WHOLE + line(LAST[-1])
    again = [*follower.poll()]
    assert again == [LAST[-1]]
    record(Row(fault="journal's last line is zeros or foreign bytes", injected=1, lost=1 - len(again)))


@pytest.mark.parametrize("at", range(len(SOME) - 1))
@pytest.mark.parametrize("broken", [b"\0" * 64, b"half a li"], ids=["zeros", "half"])
def test_a_broken_line_in_the_middle_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], at: int, broken: bytes
) -> None:
    path = tmp_path / "night" / "journal.jsonl"
    path.parent.mkdir()
    lines = [*map(line, SOME)]
    lines[at] = broken + b"\n"
    path.write_bytes(b"".join(lines))
    assert main(["--resume", "--name", "night", "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{path}, line {at + 1}: not an event of this journal")
    assert said.count("\n") == 1
    assert path.read_bytes() == b"".join(lines)


def test_a_last_line_that_another_version_wrote_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(WHOLE + b'{"event": "coffee", "at_ms": 1}\n')
    with pytest.raises(SearchError, match="not an event of this journal"):
        read_table(path)


# Checkpoints


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A state and a model, both small enough to damage each of their bytes."""
    folder = tmp_path_factory.mktemp("whole")
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    info = ModelInfo(config=TrainConfig(), categories=((1, "scratch"),), fingerprint="ab", epoch=1)
    state = LoopState(info=info, step=1, model=model, optimizer=optimizer, scaler=torch.amp.GradScaler(enabled=False))
    snapshot_of(state, epoch_report(1, ap50=0.5)).write_state(folder / "last")
    save_model(folder / "best", model, info)
    return {name: (folder / name).read_bytes() for name in ("last", "best")}


def flipped(content: bytes, at: int) -> bytes:
    damaged = bytearray(content)
    damaged[at] ^= 1 << at % 8
    return bytes(damaged)


def whole_info(path: Path) -> ModelInfo:
    return read_info(path, whole=True)


@pytest.mark.parametrize("name", ["last", "best"])
@pytest.mark.parametrize("damage", [lambda content, at: content[:at], flipped], ids=["cut", "flipped"])
def test_a_checkpoint_damaged_at_every_byte_is_refused(
    tmp_path: Path, files: dict[str, bytes], record: Record, name: str, damage: Callable[[bytes, int], bytes],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    path, content = tmp_path / name, files[name]
    read = {"last": read_report, "best": whole_info}[name]
    taken = 0
    for place in range(len(content)):
        path.write_bytes(damage(content, place))
        taken += not _refuses(read, path)
    assert taken == 0
    how = request.node.callspec.id.split("-")[0]
    record(Row(fault=f"checkpoint {how} at every byte", injected=len(content), lost=taken))


def _refuses(read: Callable[[Path], object], path: Path) -> bool:
    try:
        read(path)
    except ModelError:
        return True
    return False


@pytest.fixture(scope="module")
def quiet(tiny: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[EpochReport], Path]:
    """The reports and the folder of a trial that nobody disturbed."""
    folder = tmp_path_factory.mktemp("quiet")
    return reports_of(tiny, folder, after_epoch=0, epochs=3), folder


def reports_of(data: Data, folder: Path, *, after_epoch: int, epochs: int) -> list[EpochReport]:
    config = TrainConfig(model="fcos_tiny", weights="none", image_size=(64, 64), num_epochs=3, batch_size=4)
    worker = Worker(data, threads=1)
    worker.begin(
        Assignment(config=config, metric="ap50", after_epoch=after_epoch, folder=folder / "t", cache=folder / "c")
    )
    reports = [worker.epoch() for _ in range(epochs)]
    worker.release()
    return reports


@pytest.mark.parametrize("name", ["last", "best"])
@pytest.mark.parametrize("place", [0.0, 0.9], ids=["header", "weights"])
def test_a_trial_with_a_damaged_checkpoint_comes_to_the_same_end(
    tiny: Data, tmp_path: Path, quiet: tuple[list[EpochReport], Path], record: Record, name: str, place: float
) -> None:
    """It starts anew: what the journal holds is measured once more, and is the same."""
    reports_of(tiny, tmp_path, after_epoch=0, epochs=2)
    path = tmp_path / "t" / f"{name}.safetensors"
    content = path.read_bytes()
    path.write_bytes(flipped(content, int(place * len(content))))
    again = reports_of(tiny, tmp_path, after_epoch=2, epochs=3)
    reports, folder = quiet
    wrong = sum(
        (a.epoch, a.scores, a.losses) != (b.epoch, b.scores, b.losses) for a, b in zip(again, reports, strict=True)
    )
    weights = [load_model(where / "t" / "best.safetensors")[0].state_dict() for where in (tmp_path, folder)]
    wrong += sum(not torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())
    assert wrong == 0
    record(Row(fault="checkpoint of a trial damaged, journal ahead of it", injected=1, lost=wrong))


# MLflow's database

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(database: Path) -> Iterator[None]:
    """Another process has the database for itself."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"held"
        yield
    finally:
        holder.communicate(timeout=30)


@pytest.mark.slow
def test_a_locked_database_and_a_folder_that_vanishes_cost_the_search_nothing(
    night: Callable[..., Night], record: Record
) -> None:
    """The database is held until the search has ended; meanwhile somebody deletes the search's folder."""
    search = night()
    search.begin()
    search.wait_for(lambda table: sum(trial.epochs for trial in table.trials.values()) >= 1)
    with held(search.results / "mlflow.db"):
        search.wait_for(lambda table: sum(trial.epochs for trial in table.trials.values()) >= 3)
        shutil.rmtree(search.results / search.name, ignore_errors=True)
        search.wait_for(lambda table: table.ended is not None)
        assert search.running  # it waits for MLflow, at the end alone
    freed_s = time.monotonic()
    assert search.ended() == 0, search.said
    again_s = time.monotonic() - freed_s
    wrong = differences(search.results / "mlflow.db", search.journal)
    assert wrong == []
    quiet = outcome(undisturbed(search))
    disturbed = outcome(search.table)
    assert disturbed == quiet
    lost = sum(disturbed.get(number) != row for number, row in quiet.items())
    record(Row(fault="MLflow's database locked by another process", injected=1, lost=len(wrong), again_s=again_s))
    record(Row(fault="folder of the search deleted in mid-search", injected=1, lost=lost))
