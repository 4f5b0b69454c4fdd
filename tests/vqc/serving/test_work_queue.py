"""The queue: its places, its order, what idle moments are used for, and its end."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from contextlib import ExitStack

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


def test_photographs_go_before_other_work_and_errors_to_whoever_waits(queue: WorkQueue) -> None:
    begin, done = threading.Event(), []
    first = queue.submit(begin.wait)
    idle = [queue.submit_idle(lambda n=n: done.append(f"idle {n}")) for n in range(2)]
    photograph = queue.submit(lambda: done.append("photograph"))
    failing = queue.submit(lambda: 1 / 0)
    begin.set()
    for future in (first, photograph, *idle):
        future.result(10)
    with pytest.raises(ZeroDivisionError):
        failing.result(10)
    assert done == ["photograph", "idle 0", "idle 1"]


def test_a_draining_queue_finishes_photographs_and_nothing_else(queue: WorkQueue) -> None:
    begin = threading.Event()
    queue.submit(begin.wait)
    idle, photograph = queue.submit_idle(lambda: 1), queue.submit(lambda: 2)
    queue.drain()
    with pytest.raises(DrainingError), queue.place():
        pass
    with pytest.raises(CancelledError):
        queue.submit_idle(lambda: 1)
    begin.set()
    queue.close()
    assert photograph.result(0) == 2
    assert idle.cancelled()
