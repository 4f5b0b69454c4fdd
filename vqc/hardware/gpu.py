"""What the GPU is doing: utilisation, memory, temperature, power, as its driver reports them (nvidia-ml-py)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vqc.errors import ConfigError

if TYPE_CHECKING:
    import torch

GB = 2**30
REINSTALL = "uv pip install --reinstall torch torchvision --torch-backend=auto"
ANSWER_S = 120.0  # a driver that takes longer hangs
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
    slowed_by: frozenset[str] | None = None  # of "heat" and "power": why its clocks are lower than they could be


def gpu_count() -> int:
    """GPUs of this machine; 0 without a driver, and where ``CUDA_VISIBLE_DEVICES`` hides all. Does not start CUDA."""
    import pynvml

    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip() in ("", "-1"):
        return 0
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def usable_gpus() -> tuple[str, ...]:
    """UUIDs of the GPUs that torch computes on, in torch's order; none where there is no GPU or all are hidden.

    The driver also counts GPUs that this build of torch cannot use. torch is asked in a process of its own, because
    CUDA keeps memory of the GPU for each process that has started it.

    Raises:
        ConfigError: there is a GPU, but torch cannot use it.
    """
    if not gpu_count():
        return ()
    words = [sys.executable, "-c", f"from {__name__} import tell_usable_gpus; tell_usable_gpus()"]
    try:
        asked = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", timeout=ANSWER_S, check=False)
    except subprocess.TimeoutExpired:
        reason = f"no answer within {ANSWER_S:g} s"
    else:
        if asked.returncode == 0:
            return tuple(asked.stdout.split())
        errors = re.findall(r"^[\w.]*Error: (.+)$", asked.stderr, re.MULTILINE)
        reason = errors[-1] if errors else f"the process that asked it ended with status {asked.returncode}"
    problem = f"torch cannot use the GPU ({reason}); expected a build of torch that fits the GPU and its driver"
    raise ConfigError("this machine", [f"{problem}, or CUDA_VISIBLE_DEVICES=-1 to use the CPU"], command=REINSTALL)


def tell_usable_gpus() -> None:
    """Print the UUID of each CUDA device, after a computation on it. Starts CUDA in this process.

    Raises:
        Exception: of torch's, which says why it cannot use a device.
    """
    import torch

    torch.cuda.init()  # type: ignore[no-untyped-call]  # raises; device_count() asks the driver alone
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        torch.ones(1, device=device).add(1).item()
        sys.stdout.write(f"{gpu_uuid(device)}\n")


def choose_gpu(asked: int | None) -> tuple[int | None, str]:
    """The index of the CUDA device to train on, None for the CPU; and a sentence for the user, empty with a GPU.

    Raises:
        ConfigError: there are GPUs, but not the one asked for.
    """
    from torch import cuda

    count = cuda.device_count() if cuda.is_available() else 0  # it also counts GPUs that the driver is too old for
    if count and asked is not None and not 0 <= asked < count:
        raise ConfigError("--gpu", [f"got {asked}, expected 0 to {count - 1}"])
    if count:
        return asked or 0, ""
    if gpu_count():
        return None, (f"There is a GPU, but this build of torch cannot use it: the CPU trains.\n  next: {REINSTALL}")
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
        slowed_by=_slowed_by(handle),
    )


def _slowed_by(handle: object) -> frozenset[str] | None:
    """Why the driver keeps the clocks down now, of the reasons that a user can do something about."""
    import pynvml

    reasons = _figure(lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    if reasons is None:
        return None
    causes = {
        "heat": pynvml.nvmlClocksThrottleReasonSwThermalSlowdown | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
        "power": pynvml.nvmlClocksThrottleReasonSwPowerCap | pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
    }
    return frozenset(cause for cause, bits in causes.items() if int(reasons) & bits)


def _figure(ask: Callable[[], float]) -> float | None:
    """A figure that some drivers (laptops, virtual machines) refuse: None there."""
    import pynvml

    try:
        return float(ask())
    except pynvml.NVMLError:
        return None
