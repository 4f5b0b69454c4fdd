"""Call B: what training takes, of the allocator and of the device, and how a batch that does not fit whole is cut."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch

from tests.benchmarks.gpu_bench import Bench, Case, Row, Scale, state_of
from tests.benchmarks.saved_bytes import saved_mb
from vqc.config import TrainConfig
from vqc.errors import InfeasibleError
from vqc.hardware.gpu import GB, gpu_uuid, read_gpu
from vqc.hardware.memory import cap_vram, free_memory
from vqc.hardware.precision import Precision
from vqc.training.loop import fit

STEPS = 2  # the first allocates, the second shows what stays


def cases(scale: Scale) -> dict[str, Case]:
    measured = [(budget_gb, model) for budget_gb in scale.budgets_gb for model in scale.models]
    saved = {f"saved {model}": partial(saved_for_backward, model=model) for model in scale.models}
    budgets = {f"{gb:g} GB {model}": partial(within, budget_gb=gb, model=model) for gb, model in measured}
    return {**saved, **budgets}


def saved_for_backward(bench: Bench, *, model: str) -> Iterator[Row]:
    """What a second image adds to what the forward pass keeps for the backward pass."""
    config = bench.config(model, batch=2)
    data = bench.data()
    state = state_of(config, num_classes=len(data.categories), device=bench.device)
    there = bench.batch(config, data).to(bench.device)
    found: dict[str, float] = {}
    for name in bench.formats:
        precision = Precision(device=bench.device, dtype=getattr(torch, name))

        def step(images: int, precision: Precision = precision) -> object:
            torch.manual_seed(0)
            with precision.autocast():
                return state.model(there.images[:images], there.targets[:images])

        found[name] = saved_mb(step)
        share = found[name] / found["float32"]
        yield {"table": "saved", "detector": model, "format": name, "MB an image": found[name], "of float32": share}


def within(bench: Bench, *, budget_gb: float, model: str) -> Iterator[Row]:
    """Each size of the guide's table within a budget, float32 against mixed."""
    cap_vram(budget_gb, share=1.0, device=bench.device)
    for size, batch in bench.scale.sizes:
        for name in ("float32", "auto"):
            free_memory()
            row = {"table": "memory", "budget, GB": budget_gb, "detector": model, "size, px": size, "batch": batch}
            config = bench.config(model, size=size, batch=batch, mixed_precision=name)
            yield {**row, "format": name, **_taken(bench, config)}


def _taken(bench: Bench, config: TrainConfig) -> Row:
    cuda, batch = bench.device.type == "cuda", config.batch_size
    try:
        *_, epoch = fit(config, bench.data(train=STEPS * batch, val=2), cache=bench.cache)
    except InfeasibleError as error:
        return {"outcome": str(error)}
    report = epoch.report
    device = read_gpu(uuid=gpu_uuid(bench.device)) if cuda else None
    at_once = report.micro_batch or batch
    return {
        "allocated, GB": torch.cuda.max_memory_allocated() / GB if cuda else None,
        "reserved, GB": report.peak_vram_gb,
        "device, GB": device.used_gb if device else None,
        "images at once": at_once,
        "times cut": math.ceil(math.log2(batch / at_once)),
        "outcome": "whole" if at_once >= batch else "in parts",
    }
