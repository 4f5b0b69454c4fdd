"""What a worker process does for a trial, epoch by epoch. Knows nothing of Ray.

A worker is reused from trial to trial, because a new process and its imports cost seconds. Between trials it frees
memory, and reports what could not be freed.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch

from tune.execution.background_training import BackgroundTraining, Measured, TrainingThread
from vqc.config import TrainConfig
from vqc.data.dataset import Data
from vqc.epoch import EpochReport
from vqc.errors import ModelError, VqcError
from vqc.hardware.gpu import gpu_uuid
from vqc.hardware.memory import cap_vram, free_memory
from vqc.hardware.thermal import cool_down, thermometer
from vqc.models.checkpoint import read_info
from vqc.training.loop import Epoch, OnStep, fit
from vqc.training.state import Snapshot, read_report, snapshot_of

LONGEST_COOLING_S = 300.0  # before one epoch; far below what the watchdog takes for a hanging one
KEPT_LIMIT_MB = 8.0  # of tensors on the GPU that may stay allocated after a trial, with all workspaces freed


class UnwritableError(VqcError):
    """The checkpoints of an epoch cannot be written; ``needed_bytes`` is more than they take."""

    def __init__(self, error: OSError, needed_bytes: int) -> None:
        self.needed_bytes = needed_bytes
        super().__init__(f"checkpoints cannot be written: {error.strerror or error}")


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One trial for a worker.

    ``after_epoch``: epochs that the journal holds; ``folder``: for ``last`` and ``best`` checkpoints;
    ``decided_after``: the epochs after which the trial may be stopped or paused, None: after each;
    ``checkpoint_every_s``: seconds after which ``last`` is written again, but for those epochs;
    ``max_temperature_c``: of the GPU, at which an epoch waits before it begins, None: it never waits.
    """

    config: TrainConfig
    metric: str
    after_epoch: int
    folder: Path
    cache: Path
    decided_after: frozenset[int] | None = None
    checkpoint_every_s: float = 0.0
    max_temperature_c: float | None = None

    @property
    def last(self) -> Path:
        return self.folder / "last.safetensors"

    @property
    def best(self) -> Path:
        return self.folder / "best.safetensors"


Reports: TypeAlias = Callable[[Assignment, Data], Iterator[EpochReport]]


class Worker:
    """Runs one trial at a time: ``begin``, then ``epoch`` as often as asked, then ``release``.

    Args:
        threads: of torch.
        vram_gb: the budget of all workers on the GPU, of which this one may take its ``share``; 0: it has no GPU.
        reports: where a trial's reports come from, by default from training; benchmarks give their own.

    Training goes on in the background where a core is left for writing: threads that share one wait for each other.
    """

    def __init__(
        self,
        data: Data,
        *,
        threads: int,
        vram_gb: float | None = None,
        share: float = 0.0,
        reports: Reports | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        if share and reports is None:
            # Raises where this machine's torch cannot use its GPU; the trial would go on on the CPU.
            torch.cuda.init()  # type: ignore[no-untyped-call]
            cap_vram(vram_gb, share=share, device=torch.device("cuda", 0))
        spare_core = torch.cuda.is_available() or (os.cpu_count() or 1) > threads
        in_background = partial(train_in_background, thread=TrainingThread()) if spare_core else train
        self._data, self._reports = data, reports or in_background
        self._epochs: Iterator[EpochReport] = iter(())
        gc.collect()
        gc.freeze()  # what the imports made stays for good: each collection between trials would walk through it
        self._base_mb = _allocated_mb()

    def begin(self, assignment: Assignment) -> None:
        """Take a trial; nothing is computed yet."""
        self._epochs = self._reports(assignment, self._data)

    def epoch(self) -> EpochReport:
        """Train one epoch; when this returns, what is written of it is on the disk.

        Raises:
            InfeasibleError: the configuration cannot work.
            UnwritableError: there is no room for the checkpoints.
        """
        return next(self._epochs)

    def release(self) -> float:
        """Drop the trial; returns the MB of GPU memory that stayed allocated (0 without a GPU)."""
        close = getattr(self._epochs, "close", None)
        if close is not None:
            close()
        self._epochs = iter(())
        free_memory()
        return _allocated_mb() - self._base_mb


def train(assignment: Assignment, data: Data) -> Iterator[EpochReport]:
    """Train a trial; before a report is yielded, what is written of it is on the disk.

    The weights of each epoch that is the best so far are written. The state to go on from is written after
    ``checkpoint_every_s`` and where the trial may pause: a resumed trial repeats what came after it.
    """
    for report, write in _measured(assignment, data, None):
        write()
        yield report


def train_in_background(assignment: Assignment, data: Data, *, thread: TrainingThread) -> BackgroundTraining:
    """The same, the next epoch in training while one is written and decided on."""
    decided = assignment.decided_after
    return BackgroundTraining(
        lambda on_step: _measured(assignment, data, on_step),
        thread=thread,
        waits_after=lambda epoch: decided is None or epoch in decided,
    )


def _measured(assignment: Assignment, data: Data, on_step: OnStep | None) -> Generator[Measured, None, None]:
    resume_from, best_value = _resumable(assignment)
    if resume_from is not None:
        report = read_report(resume_from)
        if report.epoch > assignment.after_epoch:  # saved, but not yet in the journal
            yield report, _nothing
    checkpoints = _Checkpoints(assignment, best_value)
    cool = partial(_cool, assignment.max_temperature_c, on_step)
    for epoch in fit(
        assignment.config, data, resume_from=resume_from, cache=assignment.cache, on_step=on_step, cool=cool
    ):
        # No name is bound to what is yielded: it holds a copy of the whole state.
        yield epoch.report, checkpoints.of(epoch)


def _cool(limit_c: float | None, on_step: OnStep | None) -> float:
    """Wait while this worker's GPU is too hot; returns the seconds."""
    if limit_c is None:
        return 0.0

    def pause(seconds: float) -> bool:
        time.sleep(seconds)
        if on_step is not None:
            on_step(0, 0)  # raises where the trial was dropped meanwhile
        return False

    uuid = gpu_uuid(torch.device("cuda", 0)) if torch.cuda.is_available() else None
    return cool_down(thermometer(uuid), limit_c=limit_c, pause=pause, longest_s=LONGEST_COOLING_S)


class _Checkpoints:
    """Says what of each epoch is written: to ``best`` where none was better, to ``last`` where it is due."""

    def __init__(self, assignment: Assignment, best_value: float) -> None:
        self._assignment, self._best_value = assignment, best_value
        self._saved_s = time.monotonic()

    def of(self, epoch: Epoch) -> Callable[[], None]:
        """Writes what must be kept of the epoch, as it is now."""
        assignment, report = self._assignment, epoch.report
        value = getattr(report.scores, assignment.metric) or 0.0
        better, self._best_value = value > self._best_value, max(value, self._best_value)
        decided = assignment.decided_after is None or report.epoch in assignment.decided_after
        due = decided or time.monotonic() - self._saved_s >= assignment.checkpoint_every_s
        if due:
            self._saved_s = time.monotonic()
        last, best = assignment.last if due else None, assignment.best if better else None
        return partial(_write, snapshot_of(epoch.state, report), last=last, best=best) if due or better else _nothing


def _nothing() -> None:
    """What is to be written of an epoch that was saved before, or need not be saved."""


def _write(snapshot: Snapshot, *, last: Path | None, best: Path | None) -> None:
    try:
        if best is not None:
            snapshot.write_model(best)
        if last is not None:
            snapshot.write_state(last)
    except OSError as error:
        needed_bytes = 2 * sum(tensor.nbytes for tensor in snapshot.tensors.values())  # the state, and a model
        raise UnwritableError(error, needed_bytes) from error


def _resumable(assignment: Assignment) -> tuple[Path | None, float]:
    """The checkpoint to go on from, and the best value so far; a fresh start unless both files are whole.

    So too where the journal has lost epochs that are before it. A fresh start measures the same epochs again, and with
    them the weights of the best one.
    """
    for draft in assignment.folder.glob(".*.tmp"):  # of a worker that was killed while it wrote
        draft.unlink(missing_ok=True)
    with contextlib.suppress(ModelError):
        best = read_info(assignment.best, whole=True)
        if max(best.epoch, read_report(assignment.last).epoch) <= assignment.after_epoch + 1:
            return assignment.last, getattr(best.scores, assignment.metric, None) or 0.0
    shutil.rmtree(assignment.folder, ignore_errors=True)
    return None, float("-inf")


def _allocated_mb() -> float:
    return torch.cuda.memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
