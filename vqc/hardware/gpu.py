"""What the GPU is doing: utilisation, memory, temperature, power, as its driver reports them (nvidia-ml-py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vqc.errors import ConfigError

if TYPE_CHECKING:
    import torch

GB = 2**30
CONTEXT_GB = 0.4  # a process before its first tensor, by card and driver 0.3 to 0.5 (assumed, not measured here)


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """One reading of a GPU; ``None`` where its driver does not report it."""

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


def choose_gpu(asked: int | None) -> tuple[int | None, str]:
    """The index of the CUDA device to train on, None for the CPU; and a sentence for the user, empty with a GPU.

    Raises:
        ConfigError: there are GPUs, but not the one asked for.
    """
    from torch import cuda

    count = cuda.device_count()
    if count and asked is not None and not 0 <= asked < count:
        raise ConfigError("--gpu", [f"got {asked}, expected 0 to {count - 1}"])
    if count:
        return asked or 0, ""
    if gpu_count():
        return None, (
            "There is a GPU, but this build of torch cannot use it: the CPU trains.\n"
            "  next: uv pip install --reinstall torch torchvision --torch-backend=auto"
        )
    return None, "No GPU found: the CPU trains" + (f" instead of GPU {asked}." if asked is not None else ".")


def gpu_uuid(device: torch.device) -> str | None:
    """The driver's name of a CUDA device: torch counts only what CUDA_VISIBLE_DEVICES shows, the driver all.

    None for another kind of device, and where torch does not know it.
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
    percent = _figure(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    milliwatts = _figure(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    return GpuReading(
        name=name if isinstance(name, str) else name.decode(),
        utilisation=None if percent is None else percent / 100,
        used_gb=memory.used / GB,
        total_gb=memory.total / GB,
        temperature_c=_figure(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        power_w=None if milliwatts is None else milliwatts / 1000,
    )


def _figure(ask: Callable[[], float]) -> float | None:
    """A figure that some drivers (laptops, virtual machines) refuse: None there."""
    import pynvml

    try:
        return float(ask())
    except pynvml.NVMLError:
        return None
