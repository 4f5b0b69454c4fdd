"""The thermal guard: a warning when a GPU runs hot, and a wait between epochs until it is cooler.

``vqc train`` warns, and waits where the user set a limit; the trials of a search wait at a limit of the settings. A
laptop's GPU that gets too hot slows itself down, and a search then tries less in a night.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from vqc.hardware.gpu import read_gpu

HOT_C = 80.0  # where the guide says an RTX 4050 should stay below
HYSTERESIS_C = 8.0  # go on only this much below the limit, or the next epoch would wait again at once
POLL_S = 2.0
LONGEST_S = 1800.0

Thermometer: TypeAlias = Callable[[], float | None]  # the temperature now in °C; None: unknown


class ThermalGuard:
    """Warns when the GPU runs hot, and waits between epochs where the user set a limit.

    Args:
        uuid: of the GPU; None: there is none, so nothing is waited for.
        limit_c: temperature at which it waits; None: never.
        pause: waits for so many seconds; True: the user wants to stop, so the wait ends.
        say: gets each sentence for the user.
    """

    def __init__(
        self, *, uuid: str | None, limit_c: float | None, pause: Callable[[float], bool], say: Callable[[str], None]
    ) -> None:
        self._uuid, self._limit_c, self._pause, self._say = uuid, limit_c, pause, say
        self._was_hot = False

    def after_epoch(self, peak_c: float | None) -> None:
        """Judge the epoch's highest temperature in °C, then wait if need be."""
        warning = heat_warning(peak_c, warned=self._was_hot)
        if warning is not None:
            self._say(warning)
        self._was_hot = peak_c is not None and peak_c > HOT_C
        if self._limit_c is None:
            return
        waited_s = cool_down(
            thermometer(self._uuid),
            limit_c=self._limit_c,
            pause=self._pause,
            on_wait=lambda now_c: self._say(f"The GPU is at {now_c:.0f} °C: waiting until it is cooler."),
        )
        if waited_s:
            self._say(f"Waited {waited_s:.0f} s for the GPU to cool.")


def thermometer(uuid: str | None) -> Thermometer:
    """Reads the temperature of the GPU with this UUID; unknown without one."""

    def read() -> float | None:
        reading = None if uuid is None else read_gpu(uuid=uuid)
        return None if reading is None else reading.temperature_c

    return read


def heat_warning(temperature_c: float | None, *, warned: bool) -> str | None:
    """A sentence when the temperature is above ``HOT_C``, unless the last epoch was hot already and ``warned``."""
    if temperature_c is None or temperature_c <= HOT_C or warned:
        return None
    return (
        f"The GPU reached {temperature_c:.0f} °C, expected at most {HOT_C:.0f} °C: it may slow itself down. "
        f"Improve its air flow, or add --max-temperature {HOT_C:.0f} to wait between epochs."
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

    Goes on where the temperature is unknown, and after ``longest_s``: a warm room must not end a night's work.

    Args:
        pause: waits for so many seconds; True ends the wait.
        on_wait: called once with the temperature, when the wait begins.

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
