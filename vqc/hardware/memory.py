"""Memory: how much a run takes, and how a batch that does not fit is computed all the same.

The batch size is a promise: it decides what is trained, and memory decides only in how many parts a batch is
computed. When a part does not fit, the part is halved and the same batch is run again, with the random state and the
running statistics it began with, at any step of any run. Only an image that does not fit alone is infeasible.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import nn

from vqc.errors import InfeasibleError
from vqc.hardware.memory_book import limit_gb

__all__ = [
    "CudaMeter",
    "Meter",
    "MicroBatch",
    "Rollback",
    "cap_vram",
    "free_memory",
    "is_out_of_memory",
    "peak_ram_gb",
    "peak_vram_gb",
    "reserve_optimizer_state",
    "restart_peak_vram",
]

GB = 2**30
T = TypeVar("T")
# What CUDA's libraries, and the CPU's allocator, say in a plain RuntimeError.
OTHER_WORDS = ("CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA out of memory", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out, of the GPU or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OTHER_WORDS)


@dataclass(kw_only=True)
class MicroBatch:
    """How many images are computed at once; shrinks when memory runs out and stays small for the rest of the run.

    ``failed``: the smallest size that did not fit so far, None where all did.
    """

    size: int
    failed: int | None = None

    def fitted(self, attempt: Callable[[int], T], *, images: int, what: str) -> T:
        """What ``attempt(size)`` returns, halving the size and trying again until it fits.

        Args:
            attempt: does all of the work anew at each call, in parts of so many images.
            images: that the work is about; a larger size than this is not tried.
            what: for the message, such as "a training step".

        Raises:
            InfeasibleError: not even one image at a time fits.
        """
        last_chance = False
        while True:
            size = min(self.size, images)
            try:
                return attempt(size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = str(error).splitlines()[0] if str(error) else type(error).__name__
            # Outside of the handler: the error's traceback holds the tensors that did not fit.
            free_memory()
            self.failed = size if self.failed is None else min(size, self.failed)
            if size > 1:
                self.size = size // 2
            elif last_chance:
                raise InfeasibleError(f"{what} does not fit into memory, not even on one image: {said}")
            else:
                last_chance = True  # with all that is cached given back


class Rollback:
    """What a failed attempt at a batch changed besides gradients: running statistics and the random state."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._buffers = [buffer for buffer in model.buffers() if buffer.numel()]
        self._device = device
        self._saved = [buffer.clone() for buffer in self._buffers]
        self._mark()

    def save(self) -> None:
        """Take the present state as the one to go back to."""
        if self._buffers:
            torch._foreach_copy_(self._saved, self._buffers)
        self._mark()

    def restore(self) -> None:
        """Go back to the state that was saved last."""
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._saved)
        torch.set_rng_state(self._cpu_state)
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self._cuda_state, self._device)

    def _mark(self) -> None:
        self._cpu_state = torch.get_rng_state()
        if self._device.type == "cuda":
            self._cuda_state = torch.cuda.get_rng_state(self._device)


class Meter(Protocol):
    """Tells what a computation takes of a device's memory, and how much there is for it."""

    @property
    def card(self) -> str:
        """The device's name."""

    def limit_bytes(self) -> int:
        """What this process may take."""

    def restart(self) -> None:
        """Forget the peak so far."""

    def peak_bytes(self) -> int:
        """The most that was taken at once since ``restart``."""


class CudaMeter:
    """The meter of torch's allocator on a GPU: tensors, without what it keeps for reuse."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def card(self) -> str:
        return torch.cuda.get_device_name(self._device)

    def limit_bytes(self) -> int:
        """The cap, or less where other programs hold memory that the cap would allow."""
        free, total = torch.cuda.mem_get_info(self._device)
        # torch before 2.8 does not tell the cap; a step at the size that is found fails on it all the same.
        fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)(self._device)
        return min(int(fraction * total), free + torch.cuda.memory_reserved(self._device))

    def restart(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated(self._device)


def free_memory() -> None:
    """Give back what nothing refers to any more, and the matrix library's workspaces."""
    gc.collect()
    if torch.cuda.is_available():
        # Of 8 to 32 MiB for each stream; torch makes them at the first product, and anew when they are gone.
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()


def reserve_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Allocate what AdamW allocates in its first step: the two moments and the step's number of each parameter.

    A first step that ran out of memory half-way would have moved some weights, and its repetition them again. With
    its state there, a fused step allocates nothing.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad and not optimizer.state[parameter]:
                optimizer.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device if group["fused"] else "cpu"),
                    "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                }


def cap_vram(vram_gb: float | None, *, share: float, device: torch.device) -> None:
    """From here on this process takes at most its share of so many GiB, and runs out of memory cleanly beyond.

    Without a cap Windows lends system memory to the GPU, and a trial becomes many times slower instead of failing.

    Args:
        vram_gb: the budget; None takes all that the GPU has.
        share: of the budget, for one of several processes on the GPU.
    """
    if device.type != "cuda":
        return
    total_gb = torch.cuda.get_device_properties(device).total_memory / GB
    allowed_gb = limit_gb(min(total_gb, vram_gb or total_gb), share=share)
    torch.cuda.set_per_process_memory_fraction(allowed_gb / total_gb, device)


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
