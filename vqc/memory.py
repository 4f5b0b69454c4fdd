"""How much memory a run takes: of the GPU and of the machine."""

from __future__ import annotations

import sys

import torch

__all__ = ["peak_ram_gb", "peak_vram_gb", "restart_peak_vram"]

GB = 2**30


def restart_peak_vram(device: torch.device) -> None:
    """Forget the allocator's peak so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_vram_gb(device: torch.device) -> float | None:
    """Highest memory that the allocator held since ``restart_peak_vram``, in GiB; None without a GPU."""
    return torch.cuda.max_memory_reserved(device) / GB if device.type == "cuda" else None


def peak_ram_gb() -> float:
    """Highest resident memory of this process since it began, in GiB."""
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset / GB)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB
