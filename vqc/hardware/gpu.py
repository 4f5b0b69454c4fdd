"""What the GPU is doing: utilisation, memory, temperature, power, as its driver tells (nvidia-ml-py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["GB", "GpuReading", "gpu_count", "gpu_uuid", "read_gpu"]

GB = 2**30


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """One look at a GPU; ``None`` where its driver does not tell."""

    name: str
    utilisation: float | None  # share of the last second with a kernel running, 0..1
    used_gb: float
    total_gb: float
    temperature_c: float | None
    power_w: float | None


def gpu_count() -> int:
    """GPUs that the driver knows; 0 without a driver. Loads no CUDA context."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def gpu_uuid(device: torch.device) -> str | None:
    """The driver's name of a CUDA device: torch counts only what CUDA_VISIBLE_DEVICES shows, the driver all.

    None for another kind of device, and where torch does not tell.
    """
    if device.type != "cuda":
        return None
    from torch import cuda

    uuid = getattr(cuda.get_device_properties(device), "uuid", None)
    if uuid is None:
        return None
    return str(uuid) if str(uuid).startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


def read_gpu(index: int = 0, *, uuid: str | None = None) -> GpuReading | None:
    """The figures now of the GPU with this UUID, else with this index; None without a driver or with no such GPU."""
    import pynvml

    try:
        pynvml.nvmlInit()
        by_index = pynvml.nvmlDeviceGetHandleByIndex
        handle = by_index(index) if uuid is None else pynvml.nvmlDeviceGetHandleByUUID(uuid)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        name = pynvml.nvmlDeviceGetName(handle)
    except pynvml.NVMLError:
        return None
    percent = _told(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    milliwatts = _told(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    return GpuReading(
        name=name if isinstance(name, str) else name.decode(),
        utilisation=None if percent is None else percent / 100,
        used_gb=memory.used / GB,
        total_gb=memory.total / GB,
        temperature_c=_told(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        power_w=None if milliwatts is None else milliwatts / 1000,
    )


def _told(ask: Callable[[], float]) -> float | None:
    """A figure that some drivers (laptops, virtual machines) refuse."""
    import pynvml

    try:
        return float(ask())
    except pynvml.NVMLError:
        return None
