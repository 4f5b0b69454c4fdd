"""A trial's epochs, trained in a thread that may be one epoch ahead of what is reported.

While an epoch's checkpoint is written and its report travels to the journal and the decision back, the next epoch is
already trained. A report is returned only when its checkpoint is on the disk, so the journal never knows more than the
disk. A checkpoint is written only when its report is asked for, so the disk is never more than one epoch ahead of the
journal, whichever process is killed. Where the decision may be to stop, training waits for it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeAlias

from vqc.epoch import EpochReport

Measured: TypeAlias = tuple[EpochReport, Callable[[], None]]  # the second writes the checkpoints of the first
Training: TypeAlias = Callable[[Callable[[int, int], None]], Generator[Measured, None, None]]  # takes fit()'s on_step


class _ClosedError(BaseException):
    """Ends the training between two steps; a ``BaseException``, so that nothing in the training catches it."""


class TrainingThread:
    """One thread for all trials of a worker: torch keeps cuDNN's chosen algorithms by thread (its Conv_v8.cpp)."""

    def __init__(self) -> None:
        self._given: SimpleQueue[tuple[Callable[[], None], threading.Event]] = SimpleQueue()
        threading.Thread(target=self._run, name="training", daemon=True).start()  # a killed worker does not wait for it

    def begin(self, work: Callable[[], None]) -> threading.Event:
        """Run ``work``, which raises nothing, after all that was given before; the event is set at its end."""
        ended = threading.Event()
        self._given.put((work, ended))
        return ended

    def _run(self) -> None:
        while True:
            work, ended = self._given.get()
            work()
            del work  # it holds the trial, and with it tensors
            ended.set()


class BackgroundTraining(Iterator[EpochReport]):
    """The reports in their order; errors of training and writing come where the report would have come.

    Nothing is trained before the first report is asked for. ``close()`` ends the training after its present step.

    Args:
        training: makes the epochs; runs in ``thread``.
        waits_after: says of an epoch whether the next one begins only when its report is asked for.
    """

    def __init__(self, training: Training, *, thread: TrainingThread, waits_after: Callable[[int], bool]) -> None:
        self._training, self._thread, self._waits_after = training, thread, waits_after
        self._reports: SimpleQueue[Future[EpochReport] | None] = SimpleQueue()
        self._changed = threading.Condition()
        self._asked = self._begun = 0  # reports asked for, epochs whose training was begun
        self._closed = False
        self._ended: threading.Event | None = None

    def __next__(self) -> EpochReport:
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
        if self._ended is None and not self._closed:
            self._ended = self._thread.begin(self._train)
        coming = None if self._closed else self._reports.get()
        if coming is None:
            self._reports.put(None)  # for whoever asks again
            raise StopIteration
        return coming.result()

    def close(self) -> None:
        """End the training; a checkpoint that is being written is written to its end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._ended is not None:
            self._ended.wait()
        self._reports = SimpleQueue()  # what is in it may hold tensors

    def _train(self) -> None:
        """Runs in the thread; the queue ends with an error or with None."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint") as writer:
            try:
                self._train_with(writer)
            except _ClosedError:
                pass
            except BaseException as error:  # noqa: BLE001  (handed on to whoever asks for the report)
                failed: Future[EpochReport] = Future()
                failed.set_exception(error)
                self._reports.put(failed)
            self._reports.put(None)

    def _train_with(self, writer: ThreadPoolExecutor) -> None:
        reached = 0
        with contextlib.closing(self._training(self._on_step)) as epochs:
            while self._may_begin(reached):
                measured = next(epochs, None)
                if measured is None:
                    return
                report, write = measured
                reached = report.epoch
                if not self._asked_for():
                    return
                self._reports.put(writer.submit(_written, report, write))
                del measured, write  # what they hold, a copy of the whole state, goes when it is written

    def _may_begin(self, reached: int) -> bool:
        """Wait until the next epoch may be trained; False if it never may."""

        def may() -> bool:
            ahead = self._begun - self._asked  # 0: the report of the latest epoch has been asked for
            return self._closed or ahead < 0 or (ahead == 0 and not self._waits_after(reached))

        with self._changed:
            self._changed.wait_for(may)
            self._begun += 1
            return not self._closed

    def _asked_for(self) -> bool:
        """Wait until the latest report is asked for, which says that the one before it is in the journal."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._begun <= self._asked)
            return self._begun <= self._asked

    def _on_step(self, step: int, steps: int) -> None:
        if self._closed:
            raise _ClosedError


def _written(report: EpochReport, write: Callable[[], None]) -> EpochReport:
    write()
    return report
