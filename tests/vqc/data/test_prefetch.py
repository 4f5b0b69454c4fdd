"""Work ahead of its consumer: in order, no more than needed, nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqc.data.prefetch import prefetched

Workers = Literal["auto"] | int


@given(st.lists(st.integers()), st.sampled_from(["auto", 0, 1, 2, 5]))
def test_results_come_in_order_whoever_works(items: list[int], workers: Workers) -> None:
    assert list(prefetched(lambda item: item + 1, items, workers=workers)) == [item + 1 for item in items]


def test_0_prepares_when_asked() -> None:
    prepared: list[int] = []
    results = prefetched(prepared.append, range(3), workers=0)
    assert prepared == []
    next(results)
    assert prepared == [0]


class Kitchen:
    """Prepares at once or when it is let, and notes what was begun."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.change = threading.Condition()
        self.open = True

    def prepare(self, item: int) -> int:
        with self.change:
            self.begun.append(item)
            self.change.notify_all()
            assert self.change.wait_for(lambda: self.open, timeout=10)
        return item

    def wait_for(self, count: int) -> None:
        with self.change:
            assert self.change.wait_for(lambda: len(self.begun) >= count, timeout=10)

    def let(self, *, open: bool) -> None:
        with self.change:
            self.open = open
            self.change.notify_all()


def consumed_while_closed(kitchen: Kitchen, results: Iterator[int]) -> int:
    """The next result, asked for before it is ready."""
    kitchen.let(open=False)
    opener = threading.Timer(0.05, kitchen.let, kwargs={"open": True})
    opener.start()
    found = next(results)
    opener.join()
    return found


def test_the_next_one_is_begun_before_it_is_asked_for() -> None:
    kitchen = Kitchen()
    results = prefetched(kitchen.prepare, range(9), workers=1)
    assert next(results) == 0
    kitchen.wait_for(2)
    assert kitchen.begun == [0, 1]


@pytest.mark.parametrize(("workers", "begun"), [(1, 2), (2, 3), (8, 3)])
def test_a_wait_lets_one_more_be_prepared_ahead(workers: int, begun: int) -> None:
    kitchen = Kitchen()
    results = prefetched(kitchen.prepare, range(20), workers=workers)
    assert consumed_while_closed(kitchen, results) == 0
    kitchen.wait_for(begun)
    assert sorted(kitchen.begun) == list(range(begun))


def test_an_error_comes_in_its_turn() -> None:
    results = prefetched(lambda item: 1 // item, [1, 1, 0, 1], workers=3)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize("workers", [1, 3])
def test_leaving_early_leaves_no_thread(workers: int) -> None:
    before = threading.active_count()
    results = prefetched(str, range(100), workers=workers)
    next(results)
    assert threading.active_count() > before
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
