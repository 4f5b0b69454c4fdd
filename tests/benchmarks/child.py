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
from vqc.data.loader import FittedImages
from vqc.errors import InfeasibleError
from vqc.hardware.gpu import CONTEXT_GB
from vqc.hardware.memory import cap_vram
from vqc.hardware.precision import Precision, choose_precision
from vqc.training.loop import fit

__all__ = ["Job", "Memory", "Speed"]

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
    """Of two epochs."""

    images_at_once: int = Field(description="in the second epoch; below the batch size where that did not fit")
    peak_gb: float = Field(description="of torch's allocator")
    device_gb: float = Field(description="with CUDA's own")


class Speed(Record):
    """Training images per second, medians over the epochs but the first."""

    images_per_s: float
    plain_images_per_s: float
    gpu_utilisation: float | None


def memory(job: Job) -> Memory:
    config, (data, _) = job.config, prepared(job)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        reports = [epoch.report for epoch in fit(config, data, cache=Path(cache))]
    peak_gb = max(report.peak_vram_gb or 0.0 for report in reports)
    images = reports[-1].micro_batch or config.batch_size
    return Memory(images_at_once=images, peak_gb=peak_gb, device_gb=peak_gb + CONTEXT_GB)


def prepared(job: Job) -> tuple[Data, Precision]:
    """The data and the precision of a job, the GPU capped to its share."""
    data, precision = load_data(job.data), choose_precision(job.config)
    if job.images is not None:
        train = dataclasses.replace(data.train, images=data.train.images[: job.images])
        data = dataclasses.replace(data, train=train)
    cap_vram(job.vram_gb, share=job.share, device=precision.device)
    return data, precision


def speed(job: Job) -> Speed:
    config, (data, precision) = job.config.model_copy(update={"num_epochs": EPOCHS}), prepared(job)
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
