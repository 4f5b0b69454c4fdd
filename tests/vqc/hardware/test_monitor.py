"""The machine's figures and the thermal guard, on readings that are given."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqc.epoch import MachineUse
from vqc.hardware import monitor
from vqc.hardware.gpu import GpuReading
from vqc.hardware.monitor import CpuClock, MachineReading, Monitor, machine_text, read_machine
from vqc.hardware.thermal import HYSTERESIS_C, cool_down, heat_warning

GPU = GpuReading(name="RTX 4050", utilisation=0.5, used_gb=4.0, total_gb=6.0, temperature_c=70.0, power_w=60.0)


def reading(gpu: GpuReading | None) -> MachineReading:
    return MachineReading(gpu=gpu, ram_used_gb=3.0, ram_total_gb=16.0)


def use_of(readings: list[MachineReading], patch: pytest.MonkeyPatch) -> MachineUse:
    """What a window with these readings comes to; the last of them is the one taken at its end."""
    rest: Iterator[MachineReading] = iter(readings)
    patch.setattr(monitor, "read_machine", lambda gpu: next(rest))
    watch = Monitor(gpu="GPU-1", period_s=1e-3)
    watch._samples.extend(next(rest) for _ in readings[:-1])
    return watch.use()


# What an epoch's window comes to


def test_means_of_shares_and_power_peaks_of_heat_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    hot = replace(GPU, utilisation=1.0, used_gb=5.0, temperature_c=81.0, power_w=100.0)
    use = use_of([reading(GPU), reading(hot), reading(GPU), reading(GPU)], monkeypatch)
    assert use.gpu_utilisation == pytest.approx(0.625)
    assert use.gpu_power_w == pytest.approx(70.0)
    assert (use.gpu_memory_gb, use.gpu_temperature_c, use.ram_used_gb) == (5.0, 81.0, 3.0)


def test_what_slows_it_down_is_a_share_of_the_readings_that_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    causes: list[frozenset[str] | None] = [
        frozenset({"heat", "power"}), frozenset({"heat"}), frozenset(), frozenset({"heat"}), None,
    ]  # fmt: skip
    use = use_of([reading(replace(GPU, slowed_by=cause)) for cause in causes], monkeypatch)
    assert (use.gpu_slowed_by_heat, use.gpu_slowed_by_power) == (0.75, 0.25)


def test_what_a_driver_refuses_is_not_a_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    mute = replace(GPU, utilisation=None, temperature_c=None, power_w=None)
    use = use_of([reading(mute), reading(mute)], monkeypatch)
    assert (use.gpu_utilisation, use.gpu_temperature_c, use.gpu_power_w) == (None, None, None)
    assert use.gpu_memory_gb == 4.0


def test_a_figure_that_is_told_only_now_and_then_is_the_mean_of_those_times(monkeypatch: pytest.MonkeyPatch) -> None:
    use = use_of([reading(replace(GPU, power_w=None)), reading(GPU), reading(None)], monkeypatch)
    assert use.gpu_power_w == 60.0


def test_without_a_gpu_its_figures_are_unknown() -> None:
    with Monitor(gpu=None) as watch:
        watch.restart()
        use = watch.use()
    assert {value for name, value in use if name.startswith("gpu_")} == {None}
    assert use.ram_used_gb is not None
    assert use.ram_used_gb > 0.01


def test_the_thread_samples_and_a_restart_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [reading(replace(GPU, temperature_c=95.0))]
    monkeypatch.setattr(monitor, "read_machine", lambda gpu: now[0])
    with Monitor(gpu="GPU-1", period_s=1e-3) as watch:
        time.sleep(0.05)
        now[0] = reading(GPU)
        assert watch.use().gpu_temperature_c == 95.0
        time.sleep(0.05)
        watch.restart()
        assert watch.use().gpu_temperature_c == 70.0


def test_the_thread_ends_with_the_block() -> None:
    with Monitor(gpu=None) as watch:
        thread = watch._thread
        assert thread.is_alive()
    assert not thread.is_alive()


def test_work_is_seen_by_the_clock() -> None:
    clock = CpuClock()
    until_s = time.process_time() + 0.15
    while time.process_time() < until_s:
        sum(range(1000))
    busy = clock.utilisation()
    assert busy is not None
    assert 0 < busy <= 1


def test_no_time_between_two_looks_is_not_a_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_cpu_times_s", lambda: (1.0, 2.0))
    assert CpuClock().utilisation() is None


def test_half_of_the_cores_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([(10.0, 100.0), (14.0, 108.0)])
    monkeypatch.setattr(monitor, "_cpu_times_s", lambda: next(looks))
    assert CpuClock().utilisation() == 0.5


def test_this_machine_can_be_read() -> None:
    found = read_machine()
    assert found.gpu is None
    assert found.ram_used_gb is not None
    assert found.ram_total_gb is not None
    assert 0 < found.ram_used_gb < found.ram_total_gb


@pytest.mark.parametrize(
    ("gpu", "cpu", "text"),
    [
        (GPU, 0.4, "GPU 50 %, 4.0 of 6.0 GB, 70 °C, 60 W"),
        (
            replace(GPU, slowed_by=frozenset({"power", "heat"})),
            0.4,
            "GPU 50 %, 4.0 of 6.0 GB, 70 °C, 60 W, slowed by heat and power",
        ),
        (replace(GPU, utilisation=None, temperature_c=None, power_w=None), 0.4, "GPU 4.0 of 6.0 GB"),
        (None, 0.98, "CPU 98 %, memory 3.0 of 16.0 GB"),
        (None, None, "memory 3.0 of 16.0 GB"),
    ],
)
def test_the_terminals_line(gpu: GpuReading | None, cpu: float | None, text: str) -> None:
    assert machine_text(reading(gpu), cpu_utilisation=cpu) == text


# The thermal guard


class Room:
    """A GPU that cools by a degree with each look, and a clock that goes on two seconds with each pause."""

    def __init__(self, first_c: float, *, floor_c: float = 0.0) -> None:
        self.now_c, self.floor_c, self.now_s, self.told = first_c, floor_c, 0.0, list[float]()

    def read(self) -> float:
        now_c, self.now_c = self.now_c, max(self.floor_c, self.now_c - 1)
        return now_c

    def pause(self, seconds: float) -> bool:
        self.now_s += seconds
        return False

    def wait(self, limit_c: float) -> float:
        return cool_down(
            self.read,
            limit_c=limit_c,
            pause=self.pause,
            on_wait=self.told.append,
            clock=lambda: self.now_s,
            longest_s=600,
        )


@given(st.integers(30, 110), st.integers(50, 90))
def test_it_waits_from_the_limit_down_past_the_hysteresis(first_c: int, limit_c: int) -> None:
    room = Room(first_c)
    waited_s = room.wait(limit_c)
    if first_c < limit_c:
        assert (waited_s, room.told) == (0, [])
    else:
        assert waited_s == 2 * (first_c - (limit_c - HYSTERESIS_C))
        assert room.told == [first_c]
        assert room.read() < limit_c - HYSTERESIS_C + 1


def test_a_warm_room_does_not_end_the_night() -> None:
    assert Room(90, floor_c=85).wait(80) == 600


def test_it_ends_when_the_temperature_cannot_be_told() -> None:
    told = iter([90.0, None])
    assert cool_down(lambda: next(told), limit_c=80, pause=lambda s: False, clock=lambda: 0.0) == 0
    assert cool_down(lambda: None, limit_c=80, pause=lambda s: pytest.fail("waited")) == 0


def test_it_ends_when_the_user_wants_to_stop() -> None:
    pauses: list[float] = []
    cool_down(lambda: 90.0, limit_c=80, pause=lambda s: bool(pauses.append(s)) or len(pauses) == 3, clock=lambda: 0.0)
    assert len(pauses) == 3


@pytest.mark.parametrize(
    ("temperature_c", "warned", "warns"),
    [(None, False, False), (80.0, False, False), (80.5, False, True), (95.0, True, False)],
)
def test_above_80_degrees_it_warns_once(temperature_c: float | None, warned: bool, warns: bool) -> None:
    said = heat_warning(temperature_c, warned=warned)
    assert (said is not None) == warns
    assert said is None or "expected at most 80 °C" in said
