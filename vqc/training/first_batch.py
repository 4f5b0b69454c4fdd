"""How many images a run computes at once: measured before its first step, and kept for later runs.

Called by ``fit()``. Real steps on the images with the most boxes, at one and at two images, give the line of
``vqc.hardware.memory_book``; a third at the size that the line says must go through before it is believed. Without a
meter (on a CPU) a run begins with whole batches. Whatever is measured, a step that runs out later is still computed in
halves.
"""

from __future__ import annotations

import itertools
import math

import torch

from vqc.data.loader import FittedImages, plain_batch
from vqc.hardware.memory import Meter, MicroBatch, Rollback, free_memory
from vqc.hardware.memory_book import MemoryBook, Setup, StepMemory
from vqc.hardware.precision import Precision
from vqc.models.checkpoint import LoopState
from vqc.training.gradient_accumulation import add_gradient

__all__ = ["FirstBatch"]

PASSES = 2  # in the first one cuDNN tries its kernels, which takes memory that no later step needs


class FirstBatch:
    """Finds the micro-batch that a run begins with, and learns from those that did not fit after all.

    Args:
        state: with the optimiser's memory reserved, so that it is counted.
        images: of the training split.
        meter: of the device; None: the micro-batch is the batch.
        book: where measurements are kept; None keeps none.
    """

    def __init__(
        self,
        state: LoopState,
        images: FittedImages,
        *,
        precision: Precision,
        meter: Meter | None,
        book: MemoryBook | None,
    ) -> None:
        self._state, self._images, self._precision = state, images, precision
        self._meter, self._book = meter, book
        self._batch_size = state.info.config.batch_size
        self._accumulates = state.info.config.gpu_optimization.gradient_accumulation_steps > 1
        counts = [len(boxes) for boxes in images.boxes]
        self._fullest = sorted(range(len(counts)), key=lambda i: -counts[i])
        self._setup = None if meter is None else self._setup_on(meter.card, boxes=max(counts, default=0))
        self._memory: StepMemory | None = None

    def size(self) -> MicroBatch:
        """The micro-batch to begin with; the model, the random state and the gradients are left as they were.

        Raises:
            InfeasibleError: one image alone does not fit.
        """
        if self._meter is None or self._setup is None:
            return MicroBatch(size=self._batch_size)
        self._memory = None if self._book is None else self._book.find(self._setup)
        if self._memory is None:
            self._memory = self._measured(self._meter)
            self._write()
        return MicroBatch(size=self._fitting(self._memory, self._meter))

    def learn(self, micro: MicroBatch) -> None:
        """Take into account what a micro-batch of this run met since."""
        if self._meter is None or self._memory is None or micro.failed is None or micro.failed == 1:
            return
        tightened = self._memory.tightened(micro.failed, self._meter.limit_bytes())
        if tightened != self._memory:
            self._memory = tightened
            self._write()

    def _write(self) -> None:
        if self._book is not None and self._setup is not None and self._memory is not None:
            self._book.keep(self._setup, self._memory)

    def _setup_on(self, card: str, *, boxes: int) -> Setup:
        config = self._state.info.config
        return Setup(
            card=card,
            torch=torch.__version__,
            model=config.model,
            weights=config.weights,
            image_size=config.image_size,
            precision=str(self._precision.dtype).removeprefix("torch."),
            categories=len(self._state.info.categories),
            boxes=boxes,
            accumulates=self._accumulates,
        )

    def _fitting(self, memory: StepMemory, meter: Meter) -> int:
        """What fits, cut so that a batch falls into equal parts: 8 images are 4 and 4, never 7 and 1."""
        most = max(1, min(self._batch_size, memory.images_within(meter.limit_bytes())))
        return math.ceil(self._batch_size / math.ceil(self._batch_size / most))

    def _measured(self, meter: Meter) -> StepMemory:
        before = Rollback(self._state.model, self._precision.device)
        free_memory()
        try:
            return self._line(meter)
        finally:
            self._clear_gradients()
            before.restore()
            free_memory()
            meter.restart()

    def _line(self, meter: Meter) -> StepMemory:
        one = self._peak_bytes(1, meter)
        assert one is not None  # one image that does not fit is an InfeasibleError
        memory = StepMemory.through(one, 2, self._peak_bytes(2, meter) or meter.limit_bytes())
        while (size := self._fitting(memory, meter)) > 2:
            peak = self._peak_bytes(size, meter)
            if peak is not None:
                measured = StepMemory.through(one, size, peak)
                return max(memory, measured, key=lambda line: line.image_bytes)
            memory = memory.tightened(size, meter.limit_bytes())
        return memory

    def _peak_bytes(self, images: int, meter: Meter) -> int | None:
        """Of a step on the fullest images; None where it does not fit."""
        # Where the split has fewer, some of the fullest come twice.
        indices = tuple(itertools.islice(itertools.cycle(self._fullest), images))
        batch, micro = plain_batch(self._images, indices), MicroBatch(size=images)
        rollback = Rollback(self._state.model, self._precision.device)
        self._clear_gradients()
        for _ in range(PASSES):
            if not self._accumulates:
                self._clear_gradients()
            meter.restart()
            add_gradient(self._state, batch, share=1.0, precision=self._precision, micro=micro, rollback=rollback)
            if micro.size < images:
                return None
        return meter.peak_bytes()

    def _clear_gradients(self) -> None:
        self._state.optimizer.zero_grad(set_to_none=True)
