"""What training steps take of a GPU's memory, kept in a file for all later runs on the same card.

Written by ``vqc.training.first_batch``, read by ``tune.execution.gpu_sharing``. A step takes ``fixed + per image *
images`` bytes: weights, gradients and the optimiser's state do not grow with the batch, activations grow in proportion.
Loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import Field, ValidationError

from vqc.config import Record
from vqc.files import write_atomically

__all__ = ["CONTEXT_GB", "MARGIN", "MemoryBook", "Setup", "StepMemory", "limit_gb"]

MARGIN = 0.08  # of the limit, for what an allocator that cuts memory into blocks cannot use
CONTEXT_GB = 0.4  # a process before its first tensor, by card and driver 0.3 to 0.5 (assumed, not measured here)
LOCK_TIMEOUT_S = 10.0
FILE = "memory.json"


def limit_gb(budget_gb: float, *, share: float) -> float:
    """What torch may take of a share of a GPU; the rest is CUDA's own, which torch does not count (its issue 58466)."""
    return max(0.0, share * budget_gb - CONTEXT_GB)


class Setup(Record):
    """All that decides what a step takes, but for the number of images."""

    card: str
    torch: str = Field(description="version")
    model: str
    weights: str = Field(description="with a pretrained backbone batch norm is frozen and keeps less")
    image_size: tuple[int, int] = Field(description="height and width in pixels")
    precision: str = Field(description="what products are computed in")
    categories: int = Field(ge=0)
    boxes: int = Field(ge=0, description="on the image that has the most: anchors are compared with each")
    accumulates: bool = Field(description="the gradient of the batches before is kept while the next is computed")


class StepMemory(Record):
    """Peak of a step in bytes: ``fixed_bytes + image_bytes * images``."""

    fixed_bytes: int
    image_bytes: int = Field(ge=1)

    @classmethod
    def through(cls, one_bytes: int, images: int, peak_bytes: int) -> StepMemory:
        """The line through the peaks of one image and of so many."""
        image_bytes = max(1, math.ceil((peak_bytes - one_bytes) / (images - 1)))
        return cls(fixed_bytes=one_bytes - image_bytes, image_bytes=image_bytes)

    def peak_bytes(self, images: int) -> int:
        """What a step on so many images takes."""
        return self.fixed_bytes + self.image_bytes * images

    def images_within(self, limit_bytes: int) -> int:
        """The most images that fit with the margin left; 0 where not even one does."""
        return max(0, (_usable(limit_bytes) - self.fixed_bytes) // self.image_bytes)

    def tightened(self, images: int, limit_bytes: int) -> StepMemory:
        """So much steeper that no more than ``images - 1`` fit: they ran out of memory, whatever was measured."""
        if self.images_within(limit_bytes) < images:
            return self
        image_bytes = (_usable(limit_bytes) - self.fixed_bytes) // images + 1
        return StepMemory(fixed_bytes=self.fixed_bytes, image_bytes=image_bytes)


def _usable(limit_bytes: int) -> int:
    return int(limit_bytes * (1 - MARGIN))


class _Entry(Record):
    setup: Setup
    memory: StepMemory


class _Page(Record):
    entries: tuple[_Entry, ...] = ()


class MemoryBook:
    """The file in a folder; any number of processes read and write it at once. One that is damaged is begun anew."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def find(self, setup: Setup) -> StepMemory | None:
        """What a step of this setup takes, if it was measured before."""
        return self.entries().get(setup)

    def entries(self) -> dict[Setup, StepMemory]:
        """All that was measured."""
        try:
            page = _Page.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return {}
        return {entry.setup: entry.memory for entry in page.entries}

    def keep(self, setup: Setup, memory: StepMemory) -> None:
        """Write it down in place of what was there for this setup. What cannot be written is measured again."""
        with suppress(OSError), self._alone() as alone:
            if alone:
                kept = {**self.entries(), setup: memory}
                page = _Page(entries=tuple(_Entry(setup=key, memory=value) for key, value in kept.items()))
                write_atomically(self._path, page.model_dump_json(indent=1).encode())

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        from filelock import FileLock, Timeout

        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._path.with_suffix(".lock"), timeout=LOCK_TIMEOUT_S):
                yield True
        except Timeout:
            yield False
