"""The thermal guard: a warning when a GPU runs hot, and a wait between epochs until it is cooler.

Called by ``vqc train``. A laptop's GPU that gets too hot slows itself down, and a slow night tries less.
Both are functions of temperatures that the caller reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["HOT_C", "cool_down", "heat_warning"]

HOT_C = 80.0  # where the guide says an RTX 4050 should stay below
HYSTERESIS_C = 8.0  # go on only this much below the limit, or the next epoch would wait again at once
POLL_S = 2.0
LONGEST_S = 1800.0

Thermometer: TypeAlias = Callable[[], float | None]  # the temperature now in °C; None: cannot be told


def heat_warning(temperature_c: float | None, *, warned: bool) -> str | None:
    """A sentence when the temperature is above ``HOT_C`` and the last epoch did not warn already."""
    if temperature_c is None or temperature_c <= HOT_C or warned:
        return None
    return (
        f"The GPU reached {temperature_c:.0f} °C, expected at most {HOT_C:.0f} °C: it may slow itself down. "
        f"Better air, or --max-temperature {HOT_C:.0f} to wait between epochs."
    )


def cool_down(
    read: Thermometer,
    *,
    limit_c: float,
    pause: Callable[[float], bool],
    on_wait: Callable[[float], None] = lambda temperature_c: None,
    clock: Callable[[], float] = time.monotonic,
    longest_s: float = LONGEST_S,
) -> float:
    """Wait while the GPU is too hot: from ``limit_c`` on until ``HYSTERESIS_C`` below it.

    Goes on where the temperature cannot be told, and after ``longest_s``: a warm room must not end a night's work.

    Args:
        read: the thermometer.
        pause: waits for so many seconds; True: the user wants to stop, so the wait ends.
        on_wait: told the temperature once, when the wait begins.

    Returns:
        Seconds waited; 0 where it was cool enough.
    """
    temperature_c = read()
    if temperature_c is None or temperature_c < limit_c:
        return 0.0
    on_wait(temperature_c)
    started_s = clock()
    while temperature_c is not None and temperature_c > limit_c - HYSTERESIS_C:
        if clock() - started_s >= longest_s or pause(POLL_S):
            break
        temperature_c = read()
    return clock() - started_s
