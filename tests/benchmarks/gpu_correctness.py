"""Call A: does the device compute what the CPU computes, also where memory runs out and where a run is resumed?"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from tests.benchmarks.gpu_bench import Bench, Case, Row, Scale, deviation, flat, state_of
from vqc.config import TrainConfig
from vqc.data.dataset import Data
from vqc.data.loader import Batch, FittedImages, evaluation_batches
from vqc.evaluation.coco_metrics import coco_scores, detect
from vqc.hardware.memory import MicroBatch, free_memory
from vqc.hardware.precision import Precision
from vqc.inference.detections import Detections
from vqc.training.gradient_accumulation import GradientAccumulation
from vqc.training.loop import fit
from vqc.training.state import snapshot_of

BEST = 5  # detections of an image that are compared box by box
# Largest relative difference of a loss, norm of the gradient's difference to its norm, pixels, difference of AP50.
TOLERANCES = {
    "float32": {"losses": 0.005, "gradient": 0.02, "boxes, px": 0.1, "AP50": 0.01},
    "float16": {"losses": 0.02, "gradient": 0.1, "boxes, px": 1.0, "AP50": 0.03},
    "bfloat16": {"losses": 0.1, "gradient": 0.3, "boxes, px": 2.0, "AP50": 0.05},
}
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the memory that a whole step needs beyond what is always allocated


def cases(scale: Scale) -> dict[str, Case]:
    return {
        **{f"formats {model}": partial(formats, model=model) for model in scale.models},
        "out of memory": partial(out_of_memory, cudnn_benchmark=False),
        "out of memory, autotuning": partial(out_of_memory, cudnn_benchmark=True),
        "resume": partial(resume, cudnn_benchmark=False),
        "resume, autotuning": partial(resume, cudnn_benchmark=True),
        "allocator": allocator,
        "worker": worker,
    }


def formats(bench: Bench, *, model: str) -> Iterator[Row]:
    """Each number format of the device against float32 on the CPU, with the same weights, a little trained."""
    config = bench.config(model, epochs=bench.scale.epochs, mixed_precision="float32")
    data = bench.data()
    for epoch in fit(config, data, cache=bench.cache):
        trained = epoch.state.model
    trained = copy.deepcopy(trained).cpu()
    batch = bench.batch(config, data)
    cpu = Precision(device=torch.device("cpu"), dtype=torch.float32)
    losses, gradient, found = computed(trained, batch, bench, config, cpu, data)
    ap50 = coco_scores(data.val, found).ap50 or 0.0
    for name in bench.formats:
        precision = Precision(device=bench.device, dtype=getattr(torch, name))
        other_losses, other_gradient, other = computed(trained, batch, bench, config, precision, data)
        found_ap50 = coco_scores(data.val, other).ap50 or 0.0
        deviations = {
            "losses": max(abs(other_losses[key] / value - 1) for key, value in losses.items() if value),
            "gradient": deviation(other_gradient, gradient),
            "boxes, px": box_deviation_px(other, found),
            "AP50": abs(found_ap50 - ap50),
        }
        within = all((value or 0.0) <= TOLERANCES[name][what] for what, value in deviations.items())
        yield {
            "table": "formats",
            "detector": model,
            "format": name,
            **deviations,
            "AP50 of the CPU": ap50,
            "within": within,
        }


def computed(
    trained: torch.nn.Module, batch: Batch, bench: Bench, config: TrainConfig, precision: Precision, data: Data
) -> tuple[dict[str, float], torch.Tensor, list[Detections]]:
    """Losses, gradient and detections of a copy of the model."""
    model: Any = copy.deepcopy(trained).to(precision.device).train()
    for sampler in (getattr(getattr(model, part, None), "fg_bg_sampler", None) for part in ("rpn", "roi_heads")):
        if sampler is not None:
            sampler.batch_size_per_image = 10**6  # all: what is drawn is drawn otherwise on each device
    there = batch.to(precision.device)
    torch.manual_seed(0)
    with precision.autocast():
        losses = model(there.images, there.targets)
    scale = 2.0**10 if precision.dtype == torch.float16 else 1.0  # small gradients vanish in float16
    (sum(losses.values()) * scale).backward()
    gradient = flat(one.grad for one in model.parameters()) / scale
    model.load_state_dict(trained.state_dict())  # the step has moved the statistics of batch norm
    images = FittedImages(data, "val", size=config.image_size, cache=bench.cache)
    batches = evaluation_batches(images, batch_size=config.batch_size, threads=0)
    found = detect(model, batches, images, precision=precision)
    return {name: float(loss.detach()) for name, loss in losses.items()}, gradient, found


def box_deviation_px(found: list[Detections], expected: list[Detections]) -> float | None:
    """Median over the best boxes of the largest difference of a coordinate to the nearest box of the same label."""
    distances = []
    for here, there in zip(found, expected, strict=True):
        for box, label in zip(there.boxes[:BEST], there.labels[:BEST], strict=True):
            alike = here.boxes[here.labels == label]
            if len(alike):
                distances.append(float(np.abs(alike - box).max(axis=1).min()))
    return float(np.median(distances)) if distances else None


def out_of_memory(bench: Bench, *, cudnn_benchmark: bool) -> Iterator[Row]:
    """A step and an evaluation with ever more of the memory that they need, against one with all of it."""
    torch.backends.cudnn.benchmark = cudnn_benchmark
    config = bench.config(bench.scale.exact_model, mixed_precision="float32")
    data = bench.data()
    state = state_of(config, num_classes=len(data.categories), device=bench.device)
    precision, batch = Precision(device=bench.device, dtype=torch.float32), bench.batch(config, data)
    images = FittedImages(data, "val", size=config.image_size, cache=bench.cache)

    def gradient() -> tuple[int, torch.Tensor]:
        accumulation = GradientAccumulation(state, precision)
        accumulation.add(batch)
        found = flat(parameter.grad for parameter in state.trainable)
        state.optimizer.zero_grad(set_to_none=True)
        return accumulation.micro.size, found

    def evaluation() -> tuple[int, torch.Tensor]:
        micro = MicroBatch(size=config.batch_size)
        batches = evaluation_batches(images, batch_size=config.batch_size, threads=0)
        found = detect(state.model, batches, images, precision=precision, micro=micro)
        return micro.size, torch.cat([torch.from_numpy(one.scores) for one in found])

    for what, work in {"step": gradient, "evaluation": evaluation}.items():
        limit = Limit(state.model, whole=work, device=bench.device)
        _, expected = work()
        for share in SHARES:
            with limit.at(share):
                size, found = work()
            yield {
                "table": "out_of_memory",
                "work": what,
                "autotuning": cudnn_benchmark,
                "memory left of what it needs": share,
                "ran out in": limit.stage,
                "images at once": size,
                "of": config.batch_size,
                "deviation": deviation(found, expected) if found.shape == expected.shape else None,
            }


class Limit:
    """Lets memory run out: for real on a GPU; on the CPU half of a batch fits, in a rehearsal of the same lines."""

    def __init__(self, model: torch.nn.Module, *, whole: Callable[[], object], device: torch.device) -> None:
        self.stage = ""
        self._device, self._running, self._reached = device, False, ""
        model.register_forward_pre_hook(self._forward)
        model.register_forward_hook(self._forwarded)
        if device.type == "cuda":
            free_memory()
            self._base = torch.cuda.memory_reserved()
            torch.cuda.reset_peak_memory_stats()
            whole()
            self._needed = torch.cuda.max_memory_reserved() - self._base

    def at(self, share: float) -> Limit:
        self.stage, self._reached, self._share = "", "", share
        if self._device.type == "cuda":
            free_memory()
            total = torch.cuda.get_device_properties(self._device).total_memory
            torch.cuda.set_per_process_memory_fraction((self._base + share * self._needed) / total)
        return self

    def __enter__(self) -> Limit:
        self._running = True
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        if self._device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)

    def _forward(self, model: torch.nn.Module, inputs: Any) -> None:
        if self._reached and not self.stage and len(inputs[0]) < self._images:  # smaller than before: it ran out
            self.stage = self._reached
        self._reached, self._images = "forward", len(inputs[0])
        if self._running and self._device.type == "cpu" and self._share < 0.5 and len(inputs[0]) > 2:
            raise torch.OutOfMemoryError

    def _forwarded(self, model: torch.nn.Module, inputs: Any, output: Any) -> None:
        self._reached = "backward" if model.training else "after it"


def resume(bench: Bench, *, cudnn_benchmark: bool) -> Iterator[Row]:
    """A run that was resumed after its first epoch, and one repeated whole, against one that never stopped."""
    config = bench.config(bench.scale.exact_model, epochs=2, cudnn_benchmark=cudnn_benchmark)
    data, last = bench.data(), bench.folder / f"resumed-{cudnn_benchmark}.safetensors"
    runs: dict[str, tuple[torch.Tensor, float]] = {}

    def run(name: str, **options: Any) -> None:
        for epoch in fit(config, data, cache=bench.cache, **options):
            if name == "straight" and epoch.report.epoch == 1:
                snapshot_of(epoch.state, epoch.report).write_state(last)
        runs[name] = flat(iter(epoch.state.model.state_dict().values())), epoch.report.scores.ap50 or 0.0

    for name, options in {"straight": {}, "repeated": {}, "resumed": {"resume_from": last}}.items():
        thread = threading.Thread(target=run, args=(name,), kwargs=options)  # cuDNN's choices are a thread's own
        thread.start()
        thread.join()
    weights, ap50 = runs["straight"]
    for name in ("repeated", "resumed"):
        yield {
            "table": "resume",
            "run": name,
            "autotuning": cudnn_benchmark,
            "weights": deviation(runs[name][0], weights),
            "AP50": runs[name][1],
            "AP50 straight": ap50,
        }


def allocator(bench: Bench) -> Iterator[Row]:
    """Whether the settings reach torch's allocator, in this process which has used no GPU yet."""
    settings = {"max_split_size_mb": 512, "expandable_segments": True}
    config = bench.config("fcos_tiny", **settings)
    list(fit(config, bench.data(train=config.batch_size, val=1), cache=bench.cache))
    read: Any = {} if bench.rehearsal else torch.cuda.memory._snapshot()["allocator_settings"]
    for name, value in settings.items():
        yield {"table": "allocator", "setting": name, "asked": value, "read back": read.get(name)}


def worker(bench: Bench) -> Iterator[Row]:
    """One worker over four trials, of which each needs its own memory."""
    from tune.execution.worker import Assignment, Worker

    data = bench.data(train=2 * bench.scale.batch, val=2)
    one = Worker(data, threads=1, share=0.0 if bench.rehearsal else 1.0)
    for trial in range(1, 5):
        config = bench.config(bench.scale.exact_model, size=bench.scale.size + 32 * (trial % 2))
        folder = bench.folder / f"trial-{trial}"
        began_s = time.monotonic()
        one.begin(Assignment(config=config, metric="ap50", after_epoch=0, folder=folder, cache=bench.cache))
        report = one.epoch()
        start_s = time.monotonic() - began_s - report.epoch_s
        yield {"table": "worker", "trial": trial, "beside its epoch, s": start_s, "kept, MB": one.release()}
