"""Seconds in which this process could run: time asleep does not count.

A laptop that sleeps does not search, so sleep counts neither as time of the search nor against its hours. Linux and
macOS stop ``time.monotonic`` while a machine sleeps, Windows does not, and nothing stops it for a process that is only
suspended. This clock is read several times a second, so sleep is a gap between two readings.
"""

from __future__ import annotations

import time
from collections.abc import Callable

GAP_S = 15.0  # between two readings that follow each other in a tenth of a second; no load explains so much


class AwakeClock:
    """Called, it gives seconds since it was made, less all gaps.

    Args:
        monotonic_s: what it reads; replaced in tests.
    """

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._read_s, self._awake_s = monotonic_s(), 0.0

    def __call__(self) -> float:
        before_s, self._read_s = self._read_s, self._monotonic_s()
        passed_s = self._read_s - before_s
        self._awake_s += passed_s if passed_s < GAP_S else 0.0
        return self._awake_s
