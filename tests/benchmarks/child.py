"""One measurement of ``gpu.py`` in a process of its own: prints its figures as JSON in the last line.

python -m tests.benchmarks.child memory|speed JOB
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from tests.benchmarks.step import plain_batches, plain_model
from vqc.config import Record, TrainConfig
from vqc.data.dataset import Data, load_data
from vqc.data.loader import Batch, FittedImages, training_batches
from vqc.errors import InfeasibleError
from vqc.hardware.memory import CudaMeter, MicroBatch, Rollback, cap_vram, peak_vram_gb, reserve_optimizer_state
from vqc.hardware.memory_book import CONTEXT_GB
from vqc.hardware.precision import Precision, choose_precision
from vqc.models.build import build_detector, move_detector
from vqc.models.checkpoint import LoopState, ModelInfo
from vqc.training.first_batch import FirstBatch
from vqc.training.gradient_accumulation import add_gradient
from vqc.training.loop import backend_settings, fit

__all__ = ["Job", "Memory", "Speed"]

STEPS = 4
EPOCHS = 4  # the first warms up


class Job(Record):
    """What to measure."""

    config: TrainConfig
    data: Path
    vram_gb: float
    share: float = 1.0
    images: int | None = Field(None, description="of the training split; None: all")
    plain: bool = Field(True, description="beside the plain torchvision loop")


class Memory(Record):
    """Of a few steps. ``right``: the micro-batch of the first step stayed, and a larger one would not have fitted."""

    first: int
    peak_gb: float = Field(description="of torch's allocator")
    device_gb: float = Field(description="with CUDA's own")
    right: bool


class Speed(Record):
    """Training images per second, medians over the epochs but the first."""

    images_per_s: float
    plain_images_per_s: float
    gpu_utilisation: float | None


def memory(job: Job) -> Memory:
    config, data = job.config, load_data(job.data)
    precision = choose_precision(config)
    cap_vram(job.vram_gb, share=job.share, device=precision.device)
    with backend_settings(config), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        images = FittedImages(data, "train", size=config.image_size, cache=Path(cache))
        state = _state(config, data, precision)
        meter = CudaMeter(precision.device) if precision.device.type == "cuda" else None
        micro = FirstBatch(state, images, precision=precision, meter=meter, book=None).size()
        first = micro.size
        batch = next(iter(training_batches(images, config, epoch=1)))
        for _ in range(STEPS):
            _step(state, batch, precision, micro)
        peak_gb = peak_vram_gb(precision.device) or 0.0
        right = micro.size == first and (first == config.batch_size or not _fits_larger(state, batch, precision, first))
    return Memory(first=first, peak_gb=peak_gb, device_gb=peak_gb + CONTEXT_GB, right=right)


def _fits_larger(state: LoopState, batch: Batch, precision: Precision, size: int) -> bool:
    """Whether the batch would fall into one part less."""
    whole = state.info.config.batch_size
    larger = MicroBatch(size=-(-whole // (-(-whole // size) - 1)))
    tried = larger.size
    _step(state, batch, precision, larger)
    return larger.size == tried


def _step(state: LoopState, batch: Batch, precision: Precision, micro: MicroBatch) -> None:
    rollback = Rollback(state.model, precision.device)
    add_gradient(state, batch, share=1.0, precision=precision, micro=micro, rollback=rollback)
    state.optimizer.zero_grad(set_to_none=True)


def _state(config: TrainConfig, data: Data, precision: Precision) -> LoopState:
    model = move_detector(build_detector(config, num_classes=len(data.categories)), precision.device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    reserve_optimizer_state(optimizer)
    categories = tuple((category.id, category.name) for category in data.categories)
    info = ModelInfo(config=config, categories=categories, fingerprint=data.fingerprint, epoch=0)
    return LoopState(info=info, step=0, model=model, optimizer=optimizer, scaler=precision.scaler())


def speed(job: Job) -> Speed:
    config, data = job.config.model_copy(update={"num_epochs": EPOCHS}), load_data(job.data)
    if job.images is not None:
        train = dataclasses.replace(data.train, images=data.train.images[: job.images])
        data = dataclasses.replace(data, train=train)
    precision = choose_precision(config)
    cap_vram(job.vram_gb, share=job.share, device=precision.device)
    own, plain, busy = [], [], []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        loop = _PlainLoop(config, data, precision, Path(cache)) if job.plain else None
        for epoch in fit(config, data, cache=Path(cache)):
            report = epoch.report
            own.append(report.images_per_s)
            busy.append(report.machine.gpu_utilisation if report.machine is not None else None)
            plain.append(loop.images_per_s() if loop is not None else 0.0)
    known = [value for value in busy[1:] if value is not None]
    return Speed(
        images_per_s=statistics.median(own[1:]),
        plain_images_per_s=statistics.median(plain[1:]),
        gpu_utilisation=statistics.mean(known) if known else None,
    )


class _PlainLoop:
    """The documentation's loop with autocast and a scaler, its batches in the host's memory."""

    def __init__(self, config: TrainConfig, data: Data, precision: Precision, cache: Path) -> None:
        self._precision = precision
        self._model: Any = plain_model(config, len(data.categories)).to(precision.device)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=config.learning_rate)
        self._scaler = precision.scaler()
        self._batches = plain_batches(FittedImages(data, "train", size=config.image_size, cache=cache), config)

    def images_per_s(self) -> float:
        """Of one epoch."""
        device, images = self._precision.device, 0
        self._wait()
        started_s = time.perf_counter()
        for pixels, targets in self._batches:
            moved = [{name: tensor.to(device) for name, tensor in target.items()} for target in targets]
            with self._precision.autocast():
                loss = sum(self._model([image.to(device) for image in pixels], moved).values())
            self._optimizer.zero_grad()
            self._scaler.scale(loss).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            images += len(pixels)
        self._wait()
        return images / (time.perf_counter() - started_s)

    def _wait(self) -> None:
        if self._precision.device.type == "cuda":
            torch.cuda.synchronize(self._precision.device)


def main() -> int:
    mode, job = sys.argv[1], Job.model_validate_json(sys.argv[2])
    try:
        print(({"memory": memory, "speed": speed}[mode](job)).model_dump_json())
    except InfeasibleError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
