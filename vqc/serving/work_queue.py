"""One detector: photographs wait for their turn at it in a bounded queue, other work for idle moments.

A *place* in the queue is taken before a photograph is handed in, and kept until its answer is on the disk, so that a
slow disk fills the queue as a slow detector does. A photograph is looked at in the thread that brought it, because to
wake another one and to be woken by it costs a millisecond. Work for idle moments (heat maps, a challenger) has a thread
of its own and is cut by its callers into parts of about one photograph each; one is begun only while no photograph
waits.
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
    """Lets functions run one at a time; may be used from any thread."""

    def __init__(self, *, length: int) -> None:
        self._places = length + 1  # one is being looked at
        self._taken = 0
        self._mean_s = FIRST_GUESS_S
        self._busy = False  # something runs, or was told that it may
        self._waiting: deque[threading.Lock] = deque()  # each is released when its turn has come
        self._idle: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._draining = self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="idle work", daemon=True)
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

    def run(self, function: Callable[[], T]) -> T:
        """Run the function in this thread as soon as those before it are done; the caller holds a place."""
        self._wait_for_turn()
        started_s = perf_counter()
        try:
            return function()
        finally:
            self._mean_s += SHARE_OF_NEWEST * (perf_counter() - started_s - self._mean_s)
            self._end_turn()

    def submit_idle(self, function: Callable[[], T]) -> Future[T]:
        """Run the function when no photograph waits; it should take no longer than one photograph.

        Raises:
            QueueFullError: too many wait already.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._draining:
                raise CancelledError
            if len(self._idle) >= MOST_IDLE:
                raise QueueFullError(1)
            self._idle.append((future, function))
            self._changed.notify_all()
        return future

    def drain(self) -> None:
        """Take no more photographs and no more work for idle moments; what is in the queue is finished."""
        with self._changed:
            self._draining = True
            while self._idle:
                self._idle.popleft()[0].cancel()

    def close(self) -> None:
        """Drain, wait until the queue is empty, and end the thread."""
        self.drain()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while self._busy:
                self._changed.wait()
        self._thread.join()

    def _wait_for_turn(self) -> None:
        turn = threading.Lock()
        with self._changed:
            if self._closed:
                raise CancelledError
            if not self._busy:
                self._busy = True
                return
            turn.acquire()
            self._waiting.append(turn)
        turn.acquire()

    def _end_turn(self) -> None:
        """The longest wait ends, or else other work may begin."""
        with self._changed:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._busy = False
                self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._busy or not (self._idle or self._closed):
                    self._changed.wait()
                if not self._idle:
                    return
                future, function = self._idle.popleft()
                self._busy = True
            try:
                if future.set_running_or_notify_cancel():
                    future.set_result(function())
            except BaseException as error:  # noqa: BLE001 (whoever waits for the future raises it)
                future.set_exception(error)
            finally:
                self._end_turn()
