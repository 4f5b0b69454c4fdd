"""Sets the wall clock of a search's processes: Python imports this first where its folder is on ``PYTHONPATH``.

A machine's own clock only its administrator may set, and all its programs would see it. Here the seconds by which it is
to be wrong stand in the file ``leap_s`` beside the copy of this one. See ``tests.faults.test_signals``.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

FILE = Path(__file__).with_name("leap_s")
true_time_ns = time.time_ns


def wrong_time_ns() -> int:
    leap_s = 0
    with suppress(OSError, ValueError):  # not there yet, or just being written
        leap_s = int(FILE.read_text(encoding="ascii"))
    return true_time_ns() + leap_s * 10**9


time.time_ns = wrong_time_ns
time.time = lambda: wrong_time_ns() / 1e9
