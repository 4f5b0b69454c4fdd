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
import torch

from tests.faults.conftest import Row
from tests.faults.night import PATIENCE_S, SETTINGS, Night, repeated_epochs
from tests.faults.test_program import Fault, alone, differing, write_faults
from tune.execution.gpu_sharing import MOST_TOGETHER
from tune.history.journal import Follower
from vqc.data.dataset import load_data

EPOCHS = 4
NODES = 3
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="Ray has no clusters on Windows")]
FAULTS = tuple(Fault(name="held", trial=k, kind="hold", place="after epoch 2") for k in range(1, NODES + 1))


@dataclass(kw_only=True)
class Cluster:
    """Nodes as ``ray start`` makes them, one CPU each, all on this machine; the first is the head."""

    folder: Path  # short: Ray's sockets lie in it
    injected: Path
    port: int
    gpus: int = 0  # that each node claims to have
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, nodes: int) -> None:
        """Start so many nodes; returns when they are up."""
        self._add(
            "--head", "--port", str(self.port), "--include-dashboard", "false", "--dashboard-port", free_port(),
            "--ray-client-server-port", free_port(),
        )  # fmt: skip
        for _ in range(nodes - 1):  # one after the other: on one machine they would take the same socket
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
            str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus", "1",
            "--num-gpus", str(self.gpus), "--dashboard-agent-listen-port", free_port(),
            "--temp-dir", str(self.folder), *flags,
        ]  # fmt: skip
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.injected),
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
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
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    injected = write_faults(tmp_path / "injected", FAULTS)
    nodes = Cluster(folder=Path(tempfile.mkdtemp(prefix="ray")), injected=injected, port=int(free_port()))
    yield nodes
    nodes.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what a worker without a GPU does")
def test_the_cluster_is_asked_for_gpus_and_its_workers_refuse_one_that_is_not_there(
    night: Callable[..., Night], cluster: Cluster
) -> None:
    cluster.gpus = 1
    cluster.start(1)
    search = night(settings={"budget": {"trials": 1}, "gpus_per_trial": "auto"})
    table = search.run("--address", cluster.address)
    assert table.settings.concurrent == MOST_TOGETHER
    (trial,) = table.trials.values()
    assert (trial.state, trial.epochs) == ("failed", 0)
    assert "NVIDIA driver" in trial.reason or "not compiled with CUDA" in trial.reason


def test_a_lost_machine_costs_its_trial_an_epoch_at_most(
    night: Callable[..., Night], record: Callable[[Row], None], cluster: Cluster, tmp_path: Path
) -> None:
    cluster.start(NODES)
    train = {**SETTINGS["train"], "num_epochs": EPOCHS}
    search = night(settings={"train": train, "budget": {"trials": NODES + 1}, "rungs": [], "confirm": 0})
    search.begin("--address", cluster.address, "--concurrent", str(NODES))
    search.wait_for(lambda table: [trial.epochs for trial in table.trials.values()] == [2] * NODES)
    cluster.lose(NODES - 1)
    lost_ms = time.time() * 1000
    for fault in FAULTS:
        (cluster.injected / f"go-{fault.trial}").touch()
    assert search.ended() == 0, search.said
    table, events = search.table, list(Follower(search.journal).poll())
    assert [trial.state for trial in table.trials.values()] == ["completed"] * (NODES + 1)
    starts = [(event.trial, event.after_epoch) for event in events if event.event == "trial_started"]
    assert sorted(after for _, after in starts) == [0] * (NODES + 1) + [2]  # one moved, with its checkpoint
    (moved,) = (trial for trial, after in starts if after)
    again_ms = next(
        event.at_ms for event in events if event.event == "epoch" and event.trial == moved and event.report.epoch == 3
    )
    data = load_data(tmp_path / "data")
    lost = sum(differing(trial, alone(trial.config, data)) for trial in table.trials.values())
    lost += (NODES + 1) * EPOCHS - mlflow_points(tmp_path / "results" / "mlflow.db", "val/ap50")
    lost += repeated_epochs(search.journal)
    record(
        Row(fault="cluster: one machine of three is lost", injected=1, lost=lost, again_s=(again_ms - lost_ms) / 1000)
    )
    assert lost == 0


def mlflow_points(database: Path, metric: str) -> int:
    """How many points MLflow has of a metric, over all trials."""
    with sqlite3.connect(database) as connection:
        (count,) = connection.execute("select count(*) from metrics where key = ?", (metric,)).fetchone()
    return int(count)
