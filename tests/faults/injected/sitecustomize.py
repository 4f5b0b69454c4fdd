"""Breaks the processes of a search from outside: Python imports this first where its folder is on ``PYTHONPATH``.

What to break is in ``plan.json`` beside it; what was broken is noted there too, one file each. See
``tests.faults.test_program``.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
PLAN: dict[str, Any] = json.loads((HERE / "plan.json").read_text(encoding="utf-8"))
CHUNK_BYTES = 2**26
JOURNAL: list[Path] = []  # of the search whose trial this worker has


class UnpicklableError(Exception):
    """Cannot leave its process, and cannot even say what it is."""

    def __init__(self, what: str, lock: object) -> None:
        super().__init__(what, lock)

    def __str__(self) -> str:
        return str(self.args[0])


def strike(trial: int, place: str, state: Any = None) -> None:
    """Do what is due at this place of a trial, if it was not done as often as planned; note it first."""
    for k, fault in enumerate(PLAN["faults"]):
        before = len(list(HERE.glob(f"struck-{k}-*")))
        if (fault["trial"], fault["place"]) == (trial, place) and before < fault["times"]:
            (HERE / f"struck-{k}-{before}").touch()
            KINDS[fault["kind"]](state, trial)


def broken(state: Any, trial: int) -> None:
    raise UnpicklableError("broken on purpose", threading.Lock())


def poisoned(state: Any, trial: int) -> None:
    for parameter in state.model.parameters():
        parameter.data.fill_(float("nan"))


def out_of_memory(state: Any, trial: int) -> None:
    import resource

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 4 * CHUNK_BYTES, -1))
    hogged(state, trial)


def hogged(state: Any, trial: int) -> None:
    """Take memory until something stops it, but no more than planned: others work on this machine."""
    kept = []
    for _ in range(PLAN["hog_bytes"] // CHUNK_BYTES):
        kept.append(b"x" * CHUNK_BYTES)
    time.sleep(10)


def held(state: Any, trial: int) -> None:
    """Wait for the file that lets the trial go on."""
    while not (HERE / f"go-{trial}").exists():
        time.sleep(0.05)


def stopped(state: Any, trial: int) -> None:
    """Stop the process for good, once the journal has the epoch: it is written while training goes on."""
    while f'"event":"epoch","trial":{trial},' not in JOURNAL[0].read_text(encoding="utf-8"):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGSTOP)


KINDS: dict[str, Callable[[Any, int], None]] = {
    "raise": broken,
    "hold": held,
    "stop": stopped,
    "abort": lambda state, trial: os.abort(),
    "nan": poisoned,
    "MemoryError": out_of_memory,
    "hog": hogged,
}


def break_worker(worker: ModuleType) -> None:
    taken: list[int] = []
    begin, fit = worker.Worker.begin, worker.fit

    def begun(self: Any, assignment: Any) -> None:
        taken[:] = [int(assignment.folder.name)]
        JOURNAL[:] = [assignment.folder.parents[1] / "journal.jsonl"]
        begin(self, assignment)

    def fitted(*arguments: Any, **named: Any) -> Iterator[Any]:
        trial = taken[0]
        strike(trial, "start")
        for epoch in fit(*arguments, **named):
            yield epoch
            strike(trial, f"after epoch {epoch.report.epoch}", epoch.state)

    worker.Worker.begin, worker.fit = begun, fitted  # type: ignore[attr-defined]


def break_trainable(trainable: ModuleType) -> None:
    actor = trainable.TrialTrainable
    setup, reset = actor.setup, actor.reset_config

    def broken_setup(self: Any, config: Any, **named: Any) -> None:
        strike(config["trial"], "setup")
        setup(self, config, **named)

    def broken_reset(self: Any, config: Any) -> Any:
        strike(config["trial"], "reset")
        return reset(self, config)

    actor.setup, actor.reset_config = broken_setup, broken_reset


def lose_patience(watchdog: ModuleType) -> None:
    """Wait only shortly after an epoch of the trial that will hang, as long as ever for workers that start."""
    epoch_limit_s = watchdog.epoch_limit_s

    def short_s(table: Any, trial: Any) -> float:
        hurried = trial.number == PLAN["hurried"] and trial.epochs == 1 and len(trial.spans_s) == 1
        return float(epoch_limit_s(table, trial)) - (watchdog.MARGIN_S - PLAN["margin_s"] if hurried else 0.0)

    watchdog.epoch_limit_s = short_s  # type: ignore[attr-defined]


CHANGES: dict[str, Callable[[ModuleType], None]] = {
    "tune.execution.worker": break_worker,
    "tune.execution.trainable": break_trainable,
    "tune.execution.watchdog": lose_patience,
}


class Finder(importlib.abc.MetaPathFinder):
    """Changes a module right after it was imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        change = CHANGES.pop(name, None)
        spec = importlib.util.find_spec(name) if change is not None else None
        if change is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def executed(module: ModuleType) -> None:
            execute(module)
            change(module)

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Finder())
