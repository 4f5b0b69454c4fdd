"""One detector, one worker thread: photographs wait for it in a bounded queue, other work for idle moments.

A *place* in the queue is taken before a photograph is handed in, and kept until its answer is on the disk, so that a
slow disk fills the queue as a slow detector does. Work for idle moments (heat maps, a challenger) is cut by its
callers into parts of about one photograph each; one is begun only while no photograph waits.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeVar

from vqc.errors import VqcError

T = TypeVar("T")
FIRST_GUESS_S = 0.1  # of one photograph, before one was measured
SHARE_OF_NEWEST = 0.1  # in the running mean of the time of one photograph
MOST_IDLE = 64  # parts of work that may wait for an idle moment


class QueueFullError(VqcError):
    """All places are taken; one is expected to be free after ``retry_after_s``."""

    def __init__(self, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"all places in the queue are taken; try again in {retry_after_s} s")


class DrainingError(VqcError):
    """The server finishes what it has and takes nothing more."""


class WorkQueue:
    """Runs functions one at a time in a thread of its own; may be called from any thread."""

    def __init__(self, *, length: int) -> None:
        self._places = length + 1  # one is being looked at
        self._taken = 0
        self._mean_s = FIRST_GUESS_S
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._idle: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._draining = self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="detector", daemon=True)
        self._thread.start()

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return self._taken

    @property
    def draining(self) -> bool:
        """Whether nothing more is taken."""
        return self._draining

    def check(self) -> None:
        """Raise what ``place`` would raise."""
        with self._changed:
            if self._draining:
                raise DrainingError("the server is stopping")
            if self._taken >= self._places:
                raise QueueFullError(max(1, math.ceil(self._mean_s * self._places)))

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue for the time of the block.

        Raises:
            QueueFullError: all are taken.
            DrainingError: the server is stopping.
        """
        with self._changed:
            self.check()
            self._taken += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Run the function as soon as those before it are done; its caller holds a place."""
        return self._append(self._waiting, function)

    def submit_idle(self, function: Callable[[], T]) -> Future[T]:
        """Run the function when no photograph waits; it should take no longer than one photograph.

        Raises:
            QueueFullError: too many wait already.
        """
        if len(self._idle) >= MOST_IDLE:
            raise QueueFullError(1)
        return self._append(self._idle, function)

    def drain(self) -> None:
        """Take no more photographs and no more work for idle moments; what is in the queue is finished."""
        with self._changed:
            self._draining = True
            while self._idle:
                self._idle.popleft()[0].cancel()

    def close(self) -> None:
        """Drain, and end the thread when the queue is empty."""
        self.drain()
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _append(self, to: deque[tuple[Future[Any], Callable[[], Any]]], function: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._changed:
            if self._closed or (self._draining and to is self._idle):
                raise CancelledError
            to.append((future, function))
            self._changed.notify()
        return future

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._idle or self._closed):
                    self._changed.wait()
                if not (self._waiting or self._idle):
                    return
                is_photograph = bool(self._waiting)
                future, function = (self._waiting or self._idle).popleft()
            if not future.set_running_or_notify_cancel():
                continue
            started_s = perf_counter()
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 (whoever waits for the future raises it)
                future.set_exception(error)
            if is_photograph:
                self._mean_s += SHARE_OF_NEWEST * (perf_counter() - started_s - self._mean_s)
