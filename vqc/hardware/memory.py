"""Memory: how much a run takes, and how a batch that does not fit is computed in parts.

The batch size decides what is trained; memory decides only in how many parts a batch is computed. Every run starts
with whole batches. When memory runs out, the parts are halved and the same batch is run again, from the random state
and the running statistics it began with. Each epoch starts with parts twice as large as the last one needed, so an
allocation that failed once, beside another program, does not slow the rest of the run down. A configuration is
infeasible only where one image does not fit alone.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from vqc.errors import InfeasibleError
from vqc.hardware.gpu import CONTEXT_GB, GB

T = TypeVar("T")
# What CUDA, its libraries, and the CPU's allocator say in a plain RuntimeError where memory ran out.
CERTAIN = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "can't allocate memory",
)
# What the libraries say where their workspaces found no memory, but for other reasons too, such as a broken driver.
POSSIBLE = ("unable to find an engine to execute this computation", "CUBLAS_STATUS_NOT_INITIALIZED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that memory ran out, of the GPU or of the machine."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or _says(error, CERTAIN)


def may_be_out_of_memory(error: BaseException) -> bool:
    """Whether it may mean that: worth another try with fewer images."""
    return is_out_of_memory(error) or _says(error, POSSIBLE)


def _says(error: BaseException, messages: Sequence[str]) -> bool:
    return isinstance(error, RuntimeError) and any(message in str(error) for message in messages)


def out_of_memory_message(what: str, error: BaseException) -> str:
    """One sentence for the user; ``error`` is one of those that ``is_out_of_memory``."""
    cause = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"{what} does not fit into memory ({cause}); "
        "expected more free memory, a smaller image_size or a lighter detector (vqc models)"
    )


@dataclass(kw_only=True)
class MicroBatch:
    """How many images are computed at once, at first ``size``; halved when memory runs out."""

    size: int

    def __post_init__(self) -> None:
        self._whole = self.size

    def grow(self) -> None:
        """Allow twice as many images from here on, at most the first size."""
        self.size = min(self._whole, 2 * self.size)

    def fitted(
        self, attempt: Callable[[int], T], *, images: int, what: str, undo: Callable[[], None] = lambda: None
    ) -> T:
        """The result of ``attempt(size)``, with the size halved until it fits.

        Args:
            attempt: does all of the work anew at each call, in parts of ``size`` images.
            images: in the work; a larger size than this is not tried.
            what: for the message, such as "a training step".
            undo: takes back what a failed attempt changed; called before the next one.

        Raises:
            InfeasibleError: not even one image at a time fits.
            RuntimeError: an error of ``attempt`` that has another cause, or may have one and came for one image too.
        """
        last_chance = False
        while True:
            size = min(self.size, images)
            try:
                return attempt(size)
            except (RuntimeError, MemoryError) as error:
                if not may_be_out_of_memory(error) or (last_chance and not is_out_of_memory(error)):
                    raise
                message = out_of_memory_message(f"{what}, even on one image,", error)
            # Outside of the handler: the error's traceback holds the tensors that did not fit.
            free_memory()
            if size > 1:
                self.size = (size + 1) // 2
            elif last_chance:
                raise InfeasibleError(message)
            else:
                last_chance = True  # after all cached memory was freed
            undo()


class Rollback:
    """Takes back what a failed attempt at a batch changed besides gradients: running statistics and random states.

    Of the buffers only those of batch norm that trains are copied; all others of a detector are constants.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        self._buffers = [buffer for norm in norms for buffer in norm.buffers()]
        self._device = device
        self._saved = [buffer.clone() for buffer in self._buffers]

    def save(self) -> None:
        """Take the present state as the one to go back to."""
        if self._buffers:
            torch._foreach_copy_(self._saved, self._buffers)
        self._cpu_state = torch.get_rng_state()
        if self._device.type == "cuda":
            self._cuda_state = torch.cuda.get_rng_state(self._device)

    def restore(self) -> None:
        """Go back to the state that was saved last."""
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._saved)
        torch.set_rng_state(self._cpu_state)
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self._cuda_state, self._device)


def free_memory() -> None:
    """Free what nothing refers to any more, torch's cache, and the matrix library's workspaces."""
    gc.collect()
    if torch.cuda.is_available():
        # Of 8 to 32 MiB for each stream; torch makes them at the first product, and anew when they are gone.
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()


def reserve_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Allocate what AdamW allocates in its first step: the two moments and the step number of each parameter.

    A first step that ran out of memory half-way would have moved some weights, and its repetition would move them
    again. A fused step whose state exists allocates nothing.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad and not optimizer.state[parameter]:
                optimizer.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device if group["fused"] else "cpu"),
                    "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                }


def cap_vram(vram_gb: float | None, *, share: float, device: torch.device, platform: str = sys.platform) -> None:
    """From here on this process takes at most its share of a budget, and runs out of memory cleanly beyond.

    The share includes ``CONTEXT_GB``: CUDA's own memory, which torch does not count (pytorch issue 58466). Without a
    cap Windows lends system memory to the GPU, and a trial becomes many times slower instead of failing; it lends as
    well where other programs hold a part of the budget, so there the cap is at most what is free now.

    Args:
        vram_gb: the budget in GiB; None takes all that the GPU has.
        share: of the budget, for one of several processes on the GPU.
    """
    if device.type != "cuda":
        return
    total_gb = torch.cuda.get_device_properties(device).total_memory / GB
    allowed_gb = share * min(total_gb, vram_gb or total_gb) - CONTEXT_GB
    if platform == "win32":
        allowed_gb = min(allowed_gb, torch.cuda.mem_get_info(device)[0] / GB)
    torch.cuda.set_per_process_memory_fraction(max(0.0, allowed_gb) / total_gb, device)


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
