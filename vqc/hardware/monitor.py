"""What the machine does while a model trains: sampled once a second in a thread, summarised for each epoch.

Nothing here can stop a run: what cannot be read is ``None``.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType

from vqc.epoch import MachineUse
from vqc.hardware.gpu import GB, GpuReading, read_gpu

PERIOD_S = 1.0


@dataclass(frozen=True, kw_only=True)
class MachineReading:
    """One reading of the machine; ``gpu`` is None where there is none or it was not asked for."""

    gpu: GpuReading | None
    ram_used_gb: float | None
    ram_total_gb: float | None


def read_machine(gpu: str | None = None) -> MachineReading:
    """The figures now, with those of the GPU that has this UUID."""
    used_gb, total_gb = _memory_gb()
    return MachineReading(gpu=None if gpu is None else read_gpu(uuid=gpu), ram_used_gb=used_gb, ram_total_gb=total_gb)


class CpuClock:
    """Measures how busy the cores were between two calls, from the system's own counters."""

    def __init__(self) -> None:
        self._before = _cpu_times_s()

    def utilisation(self) -> float | None:
        """Mean share of all cores, 0..1, since it was created or last called; None where too little time passed."""
        before, self._before = self._before, _cpu_times_s()
        if before is None or self._before is None:
            return None
        busy_s, all_s = (now - then for now, then in zip(self._before, before, strict=True))
        return min(1.0, max(0.0, busy_s / all_s)) if all_s > 0 else None


class Monitor:
    """Samples the machine from ``with`` on; ``restart`` starts a window, ``use`` summarises it.

    Args:
        gpu: UUID of the GPU to sample; None: no GPU.
        period_s: between two samples.
    """

    def __init__(self, *, gpu: str | None, period_s: float = PERIOD_S) -> None:
        self._gpu, self._period_s = gpu, period_s
        self._lock = threading.Lock()
        self._samples: list[MachineReading] = []
        self._clock = CpuClock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join(timeout=5)

    def restart(self) -> None:
        """Forget all samples so far."""
        with self._lock:
            self._samples.clear()
            self._clock = CpuClock()

    def use(self) -> MachineUse:
        """Means and peaks since ``restart``, with a sample of now: an epoch may be shorter than the period."""
        now = read_machine(self._gpu)
        with self._lock:
            samples = [*self._samples, now]
            busy = self._clock.utilisation()
        gpus = [sample.gpu for sample in samples if sample.gpu is not None]
        return MachineUse(
            gpu_utilisation=_mean([gpu.utilisation for gpu in gpus]),
            gpu_memory_gb=_peak([gpu.used_gb for gpu in gpus]),
            gpu_temperature_c=_peak([gpu.temperature_c for gpu in gpus]),
            gpu_power_w=_mean([gpu.power_w for gpu in gpus]),
            gpu_slowed_by_heat=_share(gpus, "heat"),
            gpu_slowed_by_power=_share(gpus, "power"),
            cpu_utilisation=busy,
            ram_used_gb=_peak([sample.ram_used_gb for sample in samples]),
        )

    def _watch(self) -> None:
        while not self._done.wait(self._period_s):
            sample = read_machine(self._gpu)
            with self._lock:
                self._samples.append(sample)


def gpu_text(gpu: GpuReading) -> str:
    """The figures of a GPU in one line, such as ``93 %, 5.2 of 6.0 GB, 88 °C, 62 W, slowed by heat``."""
    parts = [
        "" if gpu.utilisation is None else f"{gpu.utilisation:.0%}".replace("%", " %"),
        f"{gpu.used_gb:.1f} of {gpu.total_gb:.1f} GB",
        "" if gpu.temperature_c is None else f"{gpu.temperature_c:.0f} °C",
        "" if gpu.power_w is None else f"{gpu.power_w:.0f} W",
        f"slowed by {' and '.join(sorted(gpu.slowed_by))}" if gpu.slowed_by else "",
    ]
    return ", ".join(filter(None, parts))


def machine_text(reading: MachineReading, *, cpu_utilisation: float | None) -> str:
    """The figures in one line for a terminal, such as ``GPU 93 %, 5.2 of 6.0 GB, 71 °C, 62 W``; else the CPU's."""
    if reading.gpu is not None:
        return f"GPU {gpu_text(reading.gpu)}"
    parts = [] if cpu_utilisation is None else [f"CPU {cpu_utilisation:.0%}".replace("%", " %")]
    if reading.ram_used_gb is not None and reading.ram_total_gb is not None:
        parts.append(f"memory {reading.ram_used_gb:.1f} of {reading.ram_total_gb:.1f} GB")
    return ", ".join(parts)


def _share(gpus: list[GpuReading], cause: str) -> float | None:
    """Of the readings that say what slows the GPU down, how many name this cause."""
    return _mean([None if gpu.slowed_by is None else float(cause in gpu.slowed_by) for gpu in gpus])


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _peak(values: list[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _cpu_times_s() -> tuple[float, float] | None:
    """Seconds that all cores together were busy, and all their seconds, since the machine started."""
    import psutil

    try:
        times = psutil.cpu_times()._asdict()
    except (psutil.Error, OSError):
        return None
    # Linux counts a guest's time in the host's user time, too.
    all_s = sum(seconds for name, seconds in times.items() if not name.startswith("guest"))
    return all_s - times["idle"] - times.get("iowait", 0.0), all_s


def _memory_gb() -> tuple[float | None, float | None]:
    import psutil

    try:
        memory = psutil.virtual_memory()
    except (psutil.Error, OSError):
        return None, None
    return (memory.total - memory.available) / GB, memory.total / GB
