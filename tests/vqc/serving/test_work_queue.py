"""The queue: its places, its order, what idle moments are used for, and its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from vqc.serving.work_queue import DrainingError, QueueFullError, WorkQueue


@pytest.fixture
def queue() -> WorkQueue:
    return WorkQueue(length=2)


def test_there_are_as_many_places_as_wait_and_one_more(queue: WorkQueue) -> None:
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(queue.place())
        with pytest.raises(QueueFullError) as error, queue.place():
            pass
        assert error.value.retry_after_s >= 1
    assert queue.taken == 0
    with queue.place():
        assert queue.taken == 1


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def busy(queue: WorkQueue, pool: ThreadPoolExecutor) -> threading.Event:
    """Something runs until the event is set."""
    running, until = threading.Event(), threading.Event()
    pool.submit(queue.run, lambda: (running.set(), until.wait()))
    assert running.wait(10)
    return until


def waiting(queue: WorkQueue, pool: ThreadPoolExecutor, function: Callable[[], Any]) -> Future[Any]:
    """The function, when it has its place behind the others."""
    before = len(queue._waiting)
    future = pool.submit(queue.run, function)
    while len(queue._waiting) == before:
        time.sleep(0.001)
    return future


def test_photographs_go_in_order_before_other_work_and_errors_to_whoever_waits(
    queue: WorkQueue, pool: ThreadPoolExecutor
) -> None:
    begin, done = busy(queue, pool), []
    idle = [queue.submit_idle(lambda n=n: done.append(f"idle {n}")) for n in range(2)]
    photographs = [waiting(queue, pool, lambda n=n: done.append(f"photograph {n}")) for n in range(3)]
    failing = waiting(queue, pool, lambda: 1 / 0)
    begin.set()
    for future in (*photographs, *idle):
        future.result(10)
    with pytest.raises(ZeroDivisionError):
        failing.result(10)
    assert done == ["photograph 0", "photograph 1", "photograph 2", "idle 0", "idle 1"]


def test_never_two_at_once(queue: WorkQueue, pool: ThreadPoolExecutor) -> None:
    running, most = [], []

    def function() -> None:
        running.append(1)
        most.append(len(running))
        time.sleep(0.001)
        running.pop()

    futures = [pool.submit(queue.run, function) for _ in range(40)]
    futures += [queue.submit_idle(function) for _ in range(20)]
    for future in futures:
        future.result(10)
    assert most == [1] * 60


def test_a_draining_queue_finishes_photographs_and_nothing_else(queue: WorkQueue, pool: ThreadPoolExecutor) -> None:
    begin = busy(queue, pool)
    idle, photograph = queue.submit_idle(lambda: 1), waiting(queue, pool, lambda: 2)
    queue.drain()
    with pytest.raises(DrainingError), queue.place():
        pass
    with pytest.raises(CancelledError):
        queue.submit_idle(lambda: 1)
    begin.set()
    queue.close()
    assert photograph.result(10) == 2
    assert idle.cancelled()
    with pytest.raises(CancelledError):
        queue.run(lambda: 3)
