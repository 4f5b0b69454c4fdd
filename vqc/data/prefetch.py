"""Work done ahead of its consumer by a few threads, in order.

Threads, not processes: decoding, resizing and copying pixels release the interpreter's lock, and to start a process on
Windows takes seconds.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Literal, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(
    prepare: Callable[[Item], Result], items: Iterable[Item], *, workers: int | Literal["auto"]
) -> Iterator[Result]:
    """``prepare`` of each item, in order, while the consumer is busy with those before.

    One item is prepared ahead at first, and one more each time that the consumer had to wait. So there are no more
    threads at work, and no more results in memory, than are needed.

    Args:
        workers: threads at most; 'auto': one less than there are cores, for the consumer; 0: prepare on demand.
    """
    most = max(1, (os.cpu_count() or 1) - 1) if workers == "auto" else workers
    if most == 0:
        yield from map(prepare, items)
        return
    remaining, ahead = iter(items), 1
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(max_workers=most, thread_name_prefix="prefetch") as pool:

        def fill() -> None:
            waiting.extend(pool.submit(prepare, item) for item in islice(remaining, ahead - len(waiting)))

        try:
            fill()
            while waiting:
                had_to_wait = not waiting[0].done()
                result = waiting.popleft().result()
                ahead = min(ahead + had_to_wait, most)
                fill()  # before the consumer works on the result, not after
                yield result
        finally:
            for future in waiting:
                future.cancel()
