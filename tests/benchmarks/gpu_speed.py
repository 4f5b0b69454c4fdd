"""Call C: images a second beside the plain torchvision loop, where the time goes, and what each choice brings."""

from __future__ import annotations

import multiprocessing
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from typing import Any

import torch

from tests.benchmarks.gpu_bench import LIGHT, Bench, Case, Row, Scale
from tests.benchmarks.step import plain_batches, plain_model
from vqc.config import TrainConfig
from vqc.data.loader import FittedImages
from vqc.hardware.memory import cap_vram
from vqc.hardware.precision import Precision, choose_precision
from vqc.training import loop
from vqc.training.loop import fit

EPOCHS = 4  # the first warms up
BUDGET_GB = 6.0  # of all runs that share the GPU
KINDS = {"convolution": ("conv", "cudnn", "winograd", "implicit"), "product": ("gemm", "addmm", "cutlass", "matmul"),
         "optimiser": ("adam", "foreach", "multi_tensor"), "copy": ("memcpy", "memset", "copy_"),
         "boxes": ("nms", "roi_align", "topk", "sort")}  # fmt: skip


def cases(scale: Scale) -> dict[str, Case]:
    models = scale.speed_models
    return {
        **{f"speed {model}": partial(speed, model=model) for model in models},
        **{f"kernels {model}": partial(kernels, model=model) for model in models},
        "switches": switches,
        **{f"{count} together": partial(packing, count=count) for count in scale.together},
    }


def speed(bench: Bench, *, model: str) -> Iterator[Row]:
    """Epochs of ``fit()`` and of the documentation's loop with autocast and a scaler, in turns."""
    config, data = bench.config(model, epochs=EPOCHS), bench.data()
    images = FittedImages(data, "train", size=config.image_size, cache=bench.cache)
    plain = _PlainLoop(config, images, len(data.categories))
    reports, plains = [], []
    for epoch in fit(config, data, cache=bench.cache):
        reports.append(epoch.report)
        plains.append(plain.images_per_s())
    own, other = statistics.median(one.images_per_s for one in reports[1:]), statistics.median(plains[1:])
    used = [one.machine.gpu_utilisation for one in reports[1:] if one.machine is not None]
    busy = [share for share in used if share is not None]
    yield {
        "table": "speed",
        "detector": model,
        "size, px": config.image_size[0],
        "batch": config.batch_size,
        "plain, images/s": other,
        "fit(), images/s": own,
        "times": own / other,
        "GPU busy": statistics.mean(busy) if busy else None,
    }


class _PlainLoop:
    """Its batches lie in the host's memory."""

    def __init__(self, config: TrainConfig, images: FittedImages, num_classes: int) -> None:
        self._precision = choose_precision(config)
        self._model: Any = plain_model(config, num_classes).to(self._precision.device)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=config.learning_rate)
        self._scaler, self._batches = self._precision.scaler(), plain_batches(images, config)

    def images_per_s(self) -> float:
        device, images = self._precision.device, 0
        _wait(self._precision)
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
        _wait(self._precision)
        return images / (time.perf_counter() - started_s)


def _wait(precision: Precision) -> None:
    if precision.device.type == "cuda":
        torch.cuda.synchronize(precision.device)


def kernels(bench: Bench, *, model: str) -> Iterator[Row]:
    """The time of an epoch's kernels by kind (of its operators, on the CPU), and how often a step waits for the GPU."""
    cuda = bench.device.type == "cuda"
    config, data = bench.config(model, epochs=3), bench.data(val=1)
    epochs = fit(config, data, cache=bench.cache)
    next(epochs)
    activity = torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profile:
        next(epochs)
    spent: defaultdict[str, float] = defaultdict(float)
    for one in profile.key_averages():
        name = one.key.lower()
        kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "other")
        spent[kind] += one.self_device_time_total if cuda else one.self_cpu_time_total
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if cuda:
            torch.cuda.set_sync_debug_mode("warn")
        report = next(epochs).report
    waits = sum("synchron" in str(one.message) for one in caught)
    steps = report.step // 3
    shares = {kind: spent[kind] / sum(spent.values()) for kind in (*KINDS, "other")}
    yield {"table": "kernels", "detector": model, **shares, "waits a step": waits / steps if cuda else None}


def switches(bench: Bench) -> Iterator[Row]:
    """Each choice the other way round, beside the defaults before and after."""
    model, move = bench.scale.speed_models[0], loop.move_detector
    cudnn_benchmark = TrainConfig().gpu_optimization.cudnn_benchmark
    for choice, gpu in {
        "defaults": {},
        f"autotuning {'off' if cudnn_benchmark else 'on'}": {"cudnn_benchmark": not cudnn_benchmark},
        "channels last off": {},
        "cache cleared after each batch": {"empty_cache_after_batch": True},
        "defaults again": {},
    }.items():
        loop.move_detector = _in_rows if choice == "channels last off" else move
        epochs = fit(bench.config(model, epochs=3, **gpu), bench.data(val=1), cache=bench.cache)
        rates = [epoch.report.images_per_s for epoch in epochs]
        yield {"table": "switches", "choice": choice, "images/s": statistics.median(rates[1:])}


def _in_rows(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    return model.to(device, memory_format=torch.contiguous_format)


def packing(bench: Bench, *, count: int) -> Iterator[Row]:
    """So many runs on one GPU; each warms up, and none starts before all have."""
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(count), context.Queue()
    runs = [context.Process(target=_packed, args=(bench, count, barrier, rates)) for _ in range(count)]
    for run in runs:
        run.start()
    total = sum(rates.get(timeout=240) for _ in runs)
    for run in runs:
        run.join()
    yield {"table": "packing", "runs at a time": count, "images/s of all": total}


def _packed(bench: Bench, count: int, barrier: Barrier, rates: Queue[float]) -> None:
    bench.prepare()
    cap_vram(BUDGET_GB, share=1 / count, device=bench.device)
    model = bench.scale.speed_models[0] if bench.rehearsal else LIGHT
    config = bench.config(model, size=min(320, bench.scale.size), batch=4, epochs=3)
    epochs = fit(config, bench.data(val=1), cache=bench.cache)
    next(epochs)
    barrier.wait()
    rates.put(statistics.mean(epoch.report.images_per_s for epoch in epochs))
