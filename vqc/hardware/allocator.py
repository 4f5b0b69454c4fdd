"""Settings of torch's CUDA allocator: the guide's ``max_split_size_mb``, and expandable segments.

torch 2.6 to 2.15 read the variable once, when a process first asks for GPU memory, not
when torch is imported; so the first run of a process decides for all later ones in it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

from vqc.config import GpuOptimization

VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"  # the guide's; newer torch also has PYTORCH_ALLOC_CONF and takes both
BY_HAND = ("PYTORCH_ALLOC_CONF", VARIABLE)


def allocator_settings(optimization: GpuOptimization, *, platform: str = sys.platform) -> str:
    """The settings in torch's spelling; empty for torch's own defaults."""
    chosen = []
    if optimization.max_split_size_mb is not None:
        chosen.append(f"max_split_size_mb:{optimization.max_split_size_mb}")
    if optimization.expandable_segments and platform != "win32":  # torch has none there, and warns
        chosen.append("expandable_segments:True")
    return ",".join(chosen)


@contextmanager
def allocator_environment(
    optimization: GpuOptimization, environment: MutableMapping[str, str] = os.environ
) -> Iterator[None]:
    """Within it torch finds the settings, unless the user has set the variable: then that one holds."""
    settings = allocator_settings(optimization)
    if not settings or any(name in environment for name in BY_HAND):
        yield
        return
    environment[VARIABLE] = settings
    try:
        yield
    finally:
        environment.pop(VARIABLE, None)
