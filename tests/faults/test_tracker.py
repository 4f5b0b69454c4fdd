"""The tracking server killed and started again, stopped so that it never answers, away to the end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.builders import events, write_journal
from tests.faults.conftest import Row
from tests.faults.mirrored import differences, rows
from tests.faults.night import PATIENCE_S, ROOT, SETTINGS, Night
from tune.history.events import EpochMeasured
from tune.history.journal import Follower
from tune.history.table import Table
from tune.reporting.mlflow_sync import Mirror
from tune.search import DRAIN_TIMEOUT_S
from vqc.tracking.mlflow_client import default_uri

Record = Callable[[Row], None]
REQUEST_S = 10.0  # what vqc.tracking.mlflow_client gives a server to answer


class Server:
    """``mlflow server`` on one port and one database, as often as it is started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def database(self) -> Path:
        return self._folder / "mlflow.db"

    def start(self) -> None:
        """Begin to start; ``is_up`` some seconds later."""
        place = ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        files = ["--artifacts-destination", (self._folder / "files").as_uri()]
        store = ["--backend-store-uri", default_uri(self._folder)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *place, *store, *files],
            cwd=self._folder, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def wait(self) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not self.is_up():
            assert time.monotonic() < deadline_s, "the server did not start"
            time.sleep(0.2)

    def is_up(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def send(self, number: signal.Signals) -> None:
        """A signal to the server and its workers; waits for the end where that is one."""
        assert self._process is not None
        os.killpg(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.wait(timeout=20)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.send(signal.SIGKILL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that is up; starting it takes long, so the tests here share it."""
    made = Server(tmp_path_factory.mktemp("server"))
    made.start()
    made.wait()
    yield made
    made.close()


def epochs_of(table: Table) -> int:
    return sum(trial.epochs for trial in table.trials.values())


def longest_idle_s(journal: Path) -> float:
    """The longest time between two events from the first epoch on, less what the epoch itself took."""
    found = list(Follower(journal).poll())
    first = next(at for at, event in enumerate(found) if isinstance(event, EpochMeasured))
    idle_s = [0.0]
    for before, event in zip(found[first:], found[first + 1 :], strict=False):
        worked_s = event.report.train_s + event.report.eval_s if isinstance(event, EpochMeasured) else 0.0
        idle_s.append((event.at_ms - before.at_ms) / 1000 - worked_s)
    return max(idle_s)


needs_process_groups = pytest.mark.skipif(sys.platform == "win32", reason="signals a process group")


@pytest.mark.slow
@needs_process_groups
def test_a_server_killed_and_started_again_holds_everything(
    night: Callable[..., Night], server: Server, record: Record
) -> None:
    """Killed in the first third of the search's epochs; begins to start in the last, which takes a while."""
    search = night(images=900, settings={"rungs": [], "confirm": 0})
    whole = SETTINGS["budget"]["trials"] * SETTINGS["train"]["num_epochs"]
    search.begin("--mlflow", server.uri)
    search.wait_for(lambda table: epochs_of(table) >= 2)
    server.send(signal.SIGKILL)
    assert epochs_of(search.table) < whole / 3
    search.wait_for(lambda table: epochs_of(table) >= whole * 2 / 3)
    server.start()
    server.wait()
    back, back_s = epochs_of(search.table), time.monotonic()
    assert search.table.ended is None, f"the search ended before the server was back, after {back} epochs"
    assert search.ended() == 0, search.said
    caught_up_s = time.monotonic() - back_s
    wrong = differences(server.database, search.journal)
    assert wrong == []
    assert longest_idle_s(search.journal) < REQUEST_S
    record(Row(fault="MLflow server killed and started again in mid-search", injected=1, lost=len(wrong),
               again_s=caught_up_s))  # fmt: skip


@pytest.mark.slow
@needs_process_groups
def test_a_server_that_hangs_to_the_end_holds_up_nothing_and_catches_up_later(
    night: Callable[..., Night], server: Server, record: Record
) -> None:
    """Stopped, it accepts connections and never answers."""
    search = night()
    search.begin("--mlflow", server.uri)
    search.wait_for(lambda table: epochs_of(table) >= 2)
    server.send(signal.SIGSTOP)
    try:
        search.wait_for(lambda table: table.ended is not None)
        ended_s = time.monotonic()
        assert search.ended() == 0, search.said
        held_up_s = time.monotonic() - ended_s
    finally:
        server.send(signal.SIGCONT)
    assert longest_idle_s(search.journal) < REQUEST_S
    assert held_up_s < DRAIN_TIMEOUT_S + 20  # and Ray's own end
    assert "events behind: " in search.said
    assert "python -m tune.reporting.mlflow_sync night" in search.said
    before = differences(server.database, search.journal)
    assert before != []

    caught_up(search, server)
    once, wrong = rows(server.database), differences(server.database, search.journal)
    assert wrong == []
    assert "nothing was missing" in caught_up(search, server)
    assert rows(server.database) == once
    record(Row(fault="MLflow server hangs to the end of the search, caught up later", injected=1, lost=len(wrong)))


def caught_up(search: Night, server: Server) -> str:
    """What ``python -m tune.reporting.mlflow_sync`` says."""
    words = ["-m", "tune.reporting.mlflow_sync", search.name, "--results", str(search.results), "--mlflow", server.uri]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def mute() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_mirror_in_a_call_that_never_returns_is_left(tmp_path: Path, mute: str, record: Record) -> None:
    path = write_journal(tmp_path / "journal.jsonl", events())
    mirror = Mirror(path, mute)
    mirror.start()
    started_s = time.monotonic()
    state = mirror.stop(timeout_s=1.0)
    stopped_s = time.monotonic() - started_s
    assert stopped_s < 30  # the call itself would wait for minutes
    assert state.behind == len(events())
    record(Row(fault="MLflow server accepts and never answers", injected=1, lost=state.behind - len(events())))


STUCK = """
import sys
from pathlib import Path
from tune.reporting.mlflow_sync import Mirror
mirror = Mirror(Path(sys.argv[1]), sys.argv[2])
mirror.start()
while mirror.state.behind == 0:
    pass
mirror.stop(20)
print("stopped", flush=True)
"""


@pytest.mark.slow
def test_a_call_that_never_returns_does_not_keep_the_program(tmp_path: Path, mute: str) -> None:
    path = write_journal(tmp_path / "journal.jsonl", events())
    program = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(path), mute], cwd=ROOT, stdout=subprocess.PIPE,
        env={**os.environ, "MLFLOW_HTTP_REQUEST_TIMEOUT": "3600"},
    )  # fmt: skip
    assert program.stdout is not None
    assert program.stdout.readline().strip() == b"stopped"
    stopped_s = time.monotonic()
    assert program.wait(timeout=60) == 0
    program.stdout.close()
    assert time.monotonic() - stopped_s < 10
