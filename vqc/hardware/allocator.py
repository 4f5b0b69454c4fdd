"""Settings of torch's CUDA allocator: the guide's ``max_split_size_mb``, and expandable segments.

torch reads the environment's variable once, and a worker has started CUDA before its first trial; so each run gives its
settings to torch itself. Nothing stays of an earlier run's: torch forgets ``max_split_size_mb`` whenever it is given
settings, which the benchmark for GPUs checks by reading them back, and the other setting is always given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import torch

from vqc.config import GpuOptimization

BY_HAND = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the second is the guide's


def allocator_settings(optimization: GpuOptimization, *, platform: str = sys.platform) -> str:
    """The settings in torch's spelling."""
    chosen = []
    if optimization.max_split_size_mb is not None:
        chosen.append(f"max_split_size_mb:{optimization.max_split_size_mb}")
    if platform != "win32":  # torch has none there, and warns
        chosen.append(f"expandable_segments:{optimization.expandable_segments}")
    return ",".join(chosen)


def set_allocator(optimization: GpuOptimization, environment: Mapping[str, str] = os.environ) -> None:
    """From here on torch allocates so, unless the user has set a variable of the environment: then that one holds."""
    if not any(name in environment for name in BY_HAND):
        torch._C._accelerator_setAllocatorSettings(allocator_settings(optimization))


def allocator_in_force() -> str:
    """The settings that torch was given last, by ``set_allocator`` or the environment, in its own spelling."""
    return torch._C._accelerator_getAllocatorSettings()
