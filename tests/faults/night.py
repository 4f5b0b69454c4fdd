"""A real search in processes of its own, there to be disturbed: started, watched through its journal, killed, resumed.

Small enough for a test: fcos_tiny on pictures of 64 px, six trials of four epochs, every value of which is a function
of the seed. ``Night`` starts ``tune/search.py`` as a user does; nothing of the search runs in the test's process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from tests.images import write_data
from tune.execution.controller import Controller
from tune.execution.outcomes import Measured
from tune.execution.session import new_session
from tune.execution.worker import Assignment, Worker, train
from tune.history.journal import Follower
from tune.history.table import Table
from tune.paths import journal_of, trial_folder

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 600.0  # a shared machine needs a while for Ray's processes
TOO_BUSY = "the same command will do when it has\n"  # said where Ray's processes took more than Ray's half minute
SETTINGS: Mapping[str, Any] = {
    "train": {
        "model": "fcos_tiny", "weights": "none", "image_size": [64, 64], "batch_size": 4, "num_epochs": 4,
        "learning_rate": 1e-3, "gpu_optimization": {"mixed_precision": "float32"},
    },
    "space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "batch_size": {"choices": [2, 4]}},
    "budget": {"trials": 6},
    "startup_trials": 2,
    "confirm": 1,
    "threads_per_trial": 1,
}  # fmt: skip

Part = Literal["driver", "worker", "raylet", "gcs"]
COMMANDS: Mapping[Part, str] = {"worker": "ray::ResourceTrainable", "raylet": "raylet/raylet", "gcs": "gcs/gcs_server"}


@dataclass(kw_only=True)
class Night:
    """One search, in as many sessions as it takes.

    Args:
        folder: everything lies here: the data, the settings, the results.
        settings: put over ``SETTINGS``.
        environment: put over the surroundings of the search.
        images: pictures in the training split.
    """

    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    name: str = "night"
    images: int = 9
    process: subprocess.Popen[bytes] | None = None
    flags: tuple[str, ...] = ()  # of the latest session
    seen: set[psutil.Process] = field(default_factory=set)  # every process of every session

    def __post_init__(self) -> None:
        if not (self.folder / "data").exists():
            write_data(self.folder / "data", train=self.images, val=4, test=3)
        self.config.write_text(json.dumps({**SETTINGS, **self.settings}), encoding="utf-8")

    @property
    def config(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def journal(self) -> Path:
        return journal_of(self.results / self.name)

    @property
    def output(self) -> Path:
        """What the terminal showed, over all sessions."""
        return self.folder / f"{self.name}.txt"

    @property
    def table(self) -> Table:
        """What the journal holds now; an empty one before its first line."""
        table = Table()
        for event in Follower(self.journal).poll():
            table.apply(event)
        return table

    def begin(self, *flags: str) -> None:
        """Start the search; returns at once."""
        self._start("--data", str(self.folder / "data"), "--config", str(self.config), *flags)

    def resume(self, *flags: str) -> None:
        """Start its next session; returns at once."""
        self._start("--resume", *flags)

    def run(self, *flags: str) -> Table:
        """Start the search and wait for its good end."""
        self.begin(*flags)
        assert self.ended() == 0, self.said
        return self.table

    @property
    def said(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, condition: Callable[[Table], bool], *, timeout_s: float = PATIENCE_S) -> float:
        """Wait until the journal fulfils a condition; returns the seconds that took."""
        started_s = time.monotonic()
        while not condition(self.table):
            self.processes()
            assert self.running, f"the search ended before: {self.said[-2000:]}"
            assert time.monotonic() - started_s < timeout_s, f"not within {timeout_s} s: {self.said[-2000:]}"
            time.sleep(0.05)
        return time.monotonic() - started_s

    @property
    def running(self) -> bool:
        """Whether the session has not ended; where the machine was too busy for its start, it is started again."""
        if self.process is not None and self.process.poll() == 2 and self.said.endswith(TOO_BUSY):
            self._start(*self.flags)
        return self.process is not None and self.process.poll() is None

    def ended(self, *, timeout_s: float = PATIENCE_S) -> int:
        """Wait for the session's end; returns its exit status, negative for a signal."""
        assert self.process is not None
        started_s = time.monotonic()
        while self.running:
            self.processes()
            assert time.monotonic() - started_s < timeout_s, f"still running: {self.said[-2000:]}"
            time.sleep(0.1)
        return self.process.wait()

    def processes(self, part: Part | None = None) -> list[psutil.Process]:
        """The living processes of the session, or those of one kind."""
        assert self.process is not None
        try:
            driver = psutil.Process(self.process.pid)
            found = [driver, *driver.children(recursive=True)]
        except psutil.NoSuchProcess:
            found = []
        self.seen.update(found)
        if part is None:
            return found
        if part == "driver":
            return found[:1]
        return [one for one in found if COMMANDS[part] in _command(one)]

    def kill(self, part: Part) -> None:
        """``kill -9`` of the session's driver, training worker, raylet or GCS; waits until there is one."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not (victims := self.processes(part)):
            assert self.running, f"the search ended before there was a {part} to kill: {self.said[-2000:]}"
            assert time.monotonic() < deadline_s, f"no {part} to kill: {self.said[-2000:]}"
            time.sleep(0.05)
        for victim in victims:
            victim.kill()

    def left_behind(self, *, timeout_s: float = 30.0) -> list[str]:
        """Command lines of the processes that outlive the driver for longer than so many seconds; best none."""
        _, alive = psutil.wait_procs(list(self.seen), timeout=timeout_s)
        return [_command(one) for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    def close(self) -> None:
        """End whatever still runs; for the end of a test that failed."""
        for one in self.seen:
            if one.is_running():
                one.kill()

    def _start(self, *flags: str) -> None:
        assert self.process is None or self.process.poll() is not None
        self.flags = flags
        words = [sys.executable, "tune/search.py", "--name", self.name, "--results", str(self.results), *flags]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env={**os.environ, **self.environment}, start_new_session=True,
            )  # fmt: skip


def outcome(table: Table) -> dict[int, dict[str, Any]]:
    """What must not depend on disturbances, per trial: what was proposed, how it ended, and every value.

    Times and the machine's load are left out; they differ from run to run.
    """
    return {
        number: {
            "params": dict(trial.params),
            "seed": trial.config.seed,
            "origin": trial.origin,
            "state": trial.state,
            "scores": [report.scores.model_dump() for report in trial.reports],
            "losses": [dict(report.losses) for report in trial.reports],
        }
        for number, trial in table.trials.items()
    }


def undisturbed(night: Night) -> Table:
    """What the search must come to: the same one in this process, without Ray, one call after the other."""
    results = night.folder / "undisturbed"
    session = new_session(
        name="plain", results=results, data_folder=night.folder / "data", config=night.config, flags={}, command="",
        gpus=False,
    )  # fmt: skip
    journal = session.open_journal()
    controller = Controller(journal, session.table, folder=session.folder)
    worker = Worker(session.data, threads=1, reports=train)
    while (task := controller.next_task()) is not None:
        number = task.trial.number
        controller.started(number, worker="this process")
        worker.begin(
            Assignment(
                config=task.trial.config, metric=session.settings.metric, after_epoch=task.after_epoch,
                folder=trial_folder(session.folder, number), cache=results / "cache",
            )
        )  # fmt: skip
        while controller.record(number, Measured(report=worker.epoch())) == "continue":
            pass
        worker.release()
    controller.close()
    journal.close()
    return controller.table


def repeated_epochs(journal: Path) -> int:
    """How many epochs stand in the journal more than once."""
    epochs = [(event.trial, event.report.epoch) for event in Follower(journal).poll() if event.event == "epoch"]
    return len(epochs) - len(set(epochs))


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
