"""What one trial gets of the machines there are: cores, a share of a GPU, threads. Knows nothing of Ray."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from tune.settings import SearchSettings
from vqc.hardware.gpu import read_gpu, usable_gpus


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Those that trials may run on: how many, the cores of the smallest, and whether they have GPUs.

    ``gpu_uuids``: of this machine's GPUs, in torch's order; none for a cluster, whose GPUs are elsewhere. ``gpu_gb``:
    memory of the smallest of them in GiB; None: unknown.
    """

    count: int
    cpus: int
    gpus: bool
    gpu_uuids: tuple[str, ...] = ()
    gpu_gb: float | None = None


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial gets: CPU cores, a share of a GPU, torch threads, and its share of so much GPU memory.

    ``vram_gb``: what the user allows all trials on a GPU, None: all of it; ``gpu_gb``: what a GPU has, None: unknown.
    """

    cpus: float
    gpus: float
    threads: int
    vram_gb: float | None = None
    gpu_gb: float | None = None


def this_machine() -> Machines:
    """The one that this runs on.

    Raises:
        ConfigError: it has a GPU that torch cannot use.
    """
    uuids = usable_gpus()
    sizes_gb = [reading.total_gb for uuid in uuids if (reading := read_gpu(uuid=uuid)) is not None]
    return Machines(
        count=1,
        cpus=os.cpu_count() or 1,
        gpus=bool(uuids),
        gpu_uuids=uuids,
        gpu_gb=min(sizes_gb, default=None),
    )


def resources_of(settings: SearchSettings, machines: Machines) -> Resources:
    """What each trial gets where the trials that run at a time are spread over the machines.

    On a CPU threads are one core short, which Ray and the terminal use: threads that share a core wait for each other.
    """
    share = settings.gpus_per_trial
    together = math.ceil(settings.concurrent / machines.count)
    return Resources(
        cpus=max(1, machines.cpus // together) if machines.cpus >= together else machines.cpus / together,
        gpus=(1.0 if share == "auto" else share) if machines.gpus else 0.0,
        threads=settings.threads_per_trial or max(1, (machines.cpus - 1) // together),
        vram_gb=settings.vram_gb,
        gpu_gb=machines.gpu_gb,
    )
