"""Several machines: a Ray cluster of three nodes, one of which is lost in the middle of a search."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import Row
from tests.faults.night import PATIENCE_S, SETTINGS, Night, repeated_epochs
from tests.faults.test_program import alone, differing
from tune.journal import Follower
from vqc.coco import load_data

EPOCHS = 24  # long enough that a node's loss finds trials in their middle
NODES = 3


@dataclass(kw_only=True)
class Cluster:
    """Nodes as ``ray start`` makes them, one CPU each, all on this machine; the first is the head."""

    folder: Path  # short: Ray's sockets lie in it
    port: int
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start all nodes; returns when they are up."""
        self._add(
            "--head", "--port", str(self.port), "--include-dashboard", "false", "--dashboard-port", free_port(),
            "--ray-client-server-port", free_port(),
        )  # fmt: skip
        for _ in range(NODES - 1):  # one after the other: on one machine they would take the same socket
            self._add("--address", self.address)

    def lose(self, node: int) -> None:
        """``kill -9`` of everything that runs on a node, as if the power had gone."""
        for process in processes_of(self.nodes[node].pid):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.nodes[node].wait()

    def close(self) -> None:
        for node, process in enumerate(self.nodes):
            if process.poll() is None:
                self.lose(node)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _add(self, *flags: str) -> None:
        words = [
            str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus", "1", "--num-gpus", "0",
            "--dashboard-agent-listen-port", free_port(), "--temp-dir", str(self.folder), *flags,
        ]  # fmt: skip
        environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
        environment["RAY_raylet_start_wait_time_s"] = "120"  # of a busy machine
        with self._log(len(self.nodes)).open("wb") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)
        self.nodes.append(process)
        self._wait()

    def _wait(self) -> None:
        """Until the newest node is up."""
        deadline_s, log = time.monotonic() + PATIENCE_S, self._log(len(self.nodes) - 1)
        while "Ray runtime started" not in (said := log.read_text(encoding="utf-8")):
            assert self.nodes[-1].poll() is None, said
            assert time.monotonic() < deadline_s, said
            time.sleep(0.2)

    def _log(self, node: int) -> Path:
        return self.folder / f"node-{node}.txt"


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def processes_of(session: int) -> list[psutil.Process]:
    """All processes of a session; those that a node starts stay in it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session:
                found.append(process)
    return found


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    nodes = Cluster(folder=Path(tempfile.mkdtemp(prefix="ray")), port=int(free_port()))
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Ray has no clusters on Windows")
def test_a_lost_machine_costs_its_trial_an_epoch_at_most(
    night: Callable[..., Night], record: Callable[[Row], None], cluster: Cluster, tmp_path: Path
) -> None:
    train = {**SETTINGS["train"], "num_epochs": EPOCHS}
    search = night(settings={"train": train, "trials": 4, "policy": "random", "confirm": 0})
    search.begin("--address", cluster.address, "--concurrent", str(NODES))
    search.wait_for(lambda table: sum(trial.epochs >= 2 for trial in table.trials.values()) == NODES)
    cluster.lose(NODES - 1)
    lost_ms = time.time() * 1000
    assert search.ended() == 0, search.said
    table = search.table
    assert [trial.state for trial in table.trials.values()] == ["completed"] * 4
    moved = {trial.number: trial for trial in table.trials.values() if len(trial.spans_ms) > 1}
    assert len(moved) == 1
    assert repeated_epochs(search.journal) == 0
    assert resumed_after(search.journal) >= 1
    data = load_data(tmp_path / "data")
    lost = sum(differing(trial, alone(trial.config, data)) for trial in table.trials.values())
    missing = 4 * EPOCHS - mlflow_points(tmp_path / "results" / "mlflow.db", "val/ap50")
    noticed = [event.at_ms for event in Follower(search.journal).poll() if event.event == "worker_replaced"]
    record(
        Row(
            fault="cluster: one machine of three is lost",
            injected=1,
            lost=lost + missing,
            again_s=(noticed[0] - lost_ms) / 1000,
        )
    )
    assert lost + missing == 0


def resumed_after(journal: Path) -> int:
    """The epoch that a trial was taken up again after."""
    return max(event.after_epoch for event in Follower(journal).poll() if event.event == "trial_started")


def mlflow_points(database: Path, metric: str) -> int:
    """How many points MLflow has of a metric, over all trials."""
    with sqlite3.connect(database) as connection:
        (count,) = connection.execute("select count(*) from metrics where key = ?", (metric,)).fetchone()
    return int(count)
