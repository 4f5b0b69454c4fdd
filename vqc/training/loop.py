"""The training loop: ``fit()`` yields one report per epoch; nothing else in this project trains.

``vqc train``, the trials of a search and the final runs all use it. A run is a function of its configuration and data:
each epoch's order, augmentation and sampling come from (seed, epoch), the learning rate from the step. So a run that is
resumed after epoch k computes what it would have computed without stopping.

On a CPU that is so to the last digit, with equal versions and an equal number of threads. On CUDA the initial weights,
batches, augmentation and learning rates are equal to the last digit, but no sum need be: RoIAlign's and indexing's
backward passes add in whatever order their threads arrive, and with ``cudnn_benchmark`` each process times cuDNN's
algorithms anew and may choose others. Rounding grows over the steps, so two runs end with different weights, and a
resumed run is one more draw. A test in ``tests/vqc/training/test_loop.py``, marked ``gpu``, measures how far off.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from vqc.config import TrainConfig
from vqc.data.dataset import Data
from vqc.data.loader import Batch, FittedImages, evaluation_batches, training_batches
from vqc.data.tiles.training_views import tile_plan
from vqc.epoch import EpochReport, MachineUse, Scores
from vqc.errors import InfeasibleError
from vqc.evaluation.coco_metrics import coco_scores, detect
from vqc.hardware.allocator import allocator_in_force, set_allocator
from vqc.hardware.gpu import gpu_uuid
from vqc.hardware.heap import freed_memory_kept
from vqc.hardware.memory import (
    MicroBatch,
    peak_ram_gb,
    peak_vram_gb,
    reserve_optimizer_state,
    restart_peak_vram,
)
from vqc.hardware.monitor import Monitor
from vqc.hardware.precision import Precision, choose_precision
from vqc.models.build import build_detector, move_detector
from vqc.models.checkpoint import ModelInfo
from vqc.models.pretrained import load_initial_model
from vqc.models.registry import ARCHITECTURES
from vqc.seeding import stream_seed
from vqc.training.ema import first_average, move_average
from vqc.training.false_alarms import false_alarms
from vqc.training.gradient_accumulation import GradientAccumulation
from vqc.training.optimizer import adamw, set_rate
from vqc.training.state import LoopState, load_state

SANITY_BATCHES = 2
FINAL_RATE = 0.01  # of the peak, at the last step

OnStep: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One finished epoch: its figures, and all that is needed to continue from it.

    ``state`` is live: the generator changes it when it is asked for the next epoch.
    """

    report: EpochReport
    state: LoopState


def fit(
    config: TrainConfig,
    data: Data,
    *,
    resume_from: Path | None = None,
    cache: Path | None = None,
    gpu: int | None = None,
    on_step: OnStep | None = None,
    cool: Callable[[], float] = lambda: 0.0,
) -> Iterator[Epoch]:
    """Train the configured detector; yields after every epoch, evaluated on val.

    Args:
        config: with ``weights`` decided (``vqc.models.pretrained``).
        resume_from: a state file of the same run; its epochs are not run again.
        cache: folder for fitted images, shared between runs; None decodes at each access.
        gpu: index of the CUDA device; None takes the first, or the CPU.
        on_step: called after each optimiser step with the steps done and the steps of the whole run.
        cool: called before each epoch; waits while the GPU is too hot and returns for how many seconds.

    Raises:
        InfeasibleError: the configuration cannot work, such as a loss that is not finite.
        UserError: the data, the weights or the checkpoint cannot be used.
    """
    with backend_settings(config), freed_memory_kept():
        precision = choose_precision(config, gpu=gpu)
        state = _first_state(config, data, precision)
        train, val = (
            FittedImages(data, name, size=config.image_size, cache=cache, tiles=state.info.tiles,
                         for_training=name == "train")
            for name in ("train", "val")
        )  # fmt: skip
        if resume_from is not None:
            load_state(resume_from, state)
        reserve_optimizer_state(state.optimizer)
        evaluated = MicroBatch(size=config.batch_size)
        _score(state, val, precision, evaluated, batches=SANITY_BATCHES)
        gradient = GradientAccumulation(state, precision)
        with Monitor(gpu=gpu_uuid(precision.device)) as monitor:
            for epoch in range(state.info.epoch + 1, config.num_epochs + 1):
                cooling_s = cool()
                restart_peak_vram(precision.device)
                monitor.restart()
                gradient.micro.grow()
                evaluated.grow()
                hard = false_alarms(state, train, epoch=epoch, precision=precision, micro=evaluated)
                trained = _train_epoch(state, train, epoch, gradient, hard=hard, precision=precision, on_step=on_step)
                started_s = time.monotonic()
                scores = _score(state, val, precision, evaluated)
                eval_s = time.monotonic() - started_s
                state.info = state.info.model_copy(update={"epoch": epoch, "scores": scores})
                report = _report(state, trained, scores, precision, eval_s=eval_s, machine=monitor.use())
                report = report.model_copy(update={"cooling_s": cooling_s})
                yield Epoch(report=report, state=state)


def learning_rate_at(step: int, *, steps: int, config: TrainConfig) -> float:
    """The rate of step ``step`` (counted from 0) of ``steps``: linear warm-up, then half a cosine down to 1 %."""
    peak = math.floor(config.warmup_fraction * steps)  # the step that trains at the full rate
    if step <= peak:
        return config.learning_rate * ((step + 1) / (peak + 1))
    share = (step - peak) / (steps - 1 - peak)
    return config.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * share)) / 2)


@dataclass(kw_only=True)
class _Trained:
    """Sums over one epoch's steps; losses, norms and overflows stay on the device until the epoch's end.

    ``skipped``: steps without effect, because a gradient was not finite; ``grad_norm`` is summed over the others.
    """

    images: int = 0
    steps: int = 0
    learning_rate: float = 0.0
    data_s: float = 0.0
    train_s: float = 0.0
    micro_batch: int = 0
    losses: dict[str, torch.Tensor] = field(default_factory=dict)
    grad_norm: torch.Tensor | float = 0.0
    skipped: torch.Tensor | int = 0


def _train_epoch(
    state: LoopState,
    images: FittedImages,
    epoch: int,
    gradient: GradientAccumulation,
    *,
    hard: Sequence[int],
    precision: Precision,
    on_step: OnStep | None,
) -> _Trained:
    config = state.info.config
    accumulate = config.gpu_optimization.gradient_accumulation_steps
    steps = config.steps_per_epoch(images.chosen.an_epoch) * config.num_epochs
    groups = _grouped(training_batches(images, config, epoch=epoch, hard=hard), accumulate)
    done = _Trained()
    started_s = time.monotonic()
    with torch.random.fork_rng(devices=[precision.device] if precision.device.type == "cuda" else []):
        # Torchvision's losses draw from the global stream.
        torch.manual_seed(stream_seed(config.seed, "sampler", epoch))
        while True:
            asked_s = time.monotonic()
            group = next(groups, None)
            done.data_s += time.monotonic() - asked_s
            if group is None:
                break
            done.learning_rate = learning_rate_at(state.step, steps=steps, config=config)
            _step(state, group, done, gradient)
            if on_step is not None:
                on_step(state.step, steps)
    done.train_s = time.monotonic() - started_s
    done.micro_batch = gradient.micro.size
    _check_gradients(state, done, epoch)
    return done


def _check_gradients(state: LoopState, done: _Trained, epoch: int) -> None:
    """Raise ``InfeasibleError`` where gradients were not finite and no lower loss scale can mend it.

    The scale is halved at each step that overflows; below 1 the gradient itself overflows. The CPU waits for the GPU.
    """
    skipped = int(done.skipped)
    if skipped and not state.scaler.is_enabled():
        raise InfeasibleError(
            f"a gradient of epoch {epoch} is not finite; learning rate {done.learning_rate:.3g}, expected a lower one"
        )
    if skipped == done.steps and state.scaler.get_scale() < 1:
        raise InfeasibleError(
            f"all {skipped} steps of epoch {epoch} overflowed float16, so nothing is learned; expected "
            "'mixed_precision' 'bfloat16' or 'float32', or a lower learning rate"
        )


def _step(state: LoopState, group: Sequence[Batch], done: _Trained, gradient: GradientAccumulation) -> None:
    """One optimiser step on the mean loss of a group of batches: rate, gradient, unscale, clip, step, zero."""
    config = state.info.config
    set_rate(state.optimizer, done.learning_rate)
    for batch in group:
        for name, term in gradient.add(batch, share=1 / len(group)).items():
            done.losses[name] = done.losses.get(name, 0.0) + term * len(batch.indices)
        done.images += len(batch.indices)
        if config.gpu_optimization.empty_cache_after_batch and torch.cuda.is_available():
            torch.cuda.empty_cache()
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.trainable, config.clip_norm)
    finite = norm.isfinite()  # else the scaler skips the step; a fused one is told so on the device, without waiting
    done.skipped = done.skipped + ~finite
    done.grad_norm = done.grad_norm + norm.where(finite, 0.0)
    gradient.micro.fitted(
        lambda _: state.scaler.step(state.optimizer), images=config.batch_size, what="the optimiser's step"
    )
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.average is not None:
        move_average(state.average, state.model, decay=config.ema_decay, step=state.step)
    state.step += 1
    done.steps += 1


def _grouped(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    while group := list(itertools.islice(batches, size)):
        yield group


def _first_state(config: TrainConfig, data: Data, precision: Precision) -> LoopState:
    model = build_detector(config, num_classes=len(data.categories), load_backbone=config.initial_model is None)
    load_initial_model(model, config)
    model = move_detector(model, precision.device)
    categories = tuple((category.id, category.name) for category in data.categories)
    info = ModelInfo(
        config=config, categories=categories, fingerprint=data.fingerprint, tiles=tile_plan(config, data), epoch=0
    )
    average = first_average(model) if config.ema_decay else None
    optimizer, scaler = adamw(model, config), precision.scaler()
    return LoopState(info=info, step=0, model=model, optimizer=optimizer, scaler=scaler, average=average)


def _score(
    state: LoopState, images: FittedImages, precision: Precision, micro: MicroBatch, *, batches: int | None = None
) -> Scores:
    """COCO scores on val; with ``batches`` only on so many, to find a broken evaluation before the first epoch."""
    config = state.info.config
    first = None if batches is None else range(len(images))[: batches * config.batch_size]
    prepared = evaluation_batches(images, batch_size=config.batch_size, threads=config.num_workers, indices=first)
    found = detect(state.evaluated, prepared, images, precision=precision, micro=micro)
    return coco_scores(images.split, found)


def _report(
    state: LoopState, done: _Trained, scores: Scores, precision: Precision, *, eval_s: float, machine: MachineUse
) -> EpochReport:
    """The epoch's figures. The CPU waits for the GPU here, once an epoch."""
    skipped = int(done.skipped)
    return EpochReport(
        epoch=state.info.epoch,
        step=state.step,
        learning_rate=done.learning_rate,
        losses={name: float(total) / done.images for name, total in done.losses.items()},
        grad_norm=float(done.grad_norm) / (done.steps - skipped) if skipped < done.steps else None,
        skipped_steps=skipped,
        scores=scores,
        data_s=done.data_s,
        train_s=done.train_s,
        eval_s=eval_s,
        images_per_s=done.images / done.train_s,
        peak_vram_gb=peak_vram_gb(precision.device),
        peak_ram_gb=peak_ram_gb(),
        micro_batch=done.micro_batch,
        allocator=allocator_in_force() if precision.device.type == "cuda" else None,
        machine=machine,
        measured_ms=time.time_ns() // 1_000_000,
    )


@contextmanager
def backend_settings(config: TrainConfig) -> Iterator[None]:
    """The run's choices among torch's global settings, restored at its end; the allocator's hold until the next run."""
    before = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    varying = ARCHITECTURES[config.model].convolves_proposals  # each new number of them would be timed anew
    torch.backends.cudnn.benchmark = config.gpu_optimization.cudnn_benchmark and not varying
    torch.set_float32_matmul_precision(config.gpu_optimization.matmul_precision)
    set_allocator(config.gpu_optimization)
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before[0]
        torch.set_float32_matmul_precision(before[1])
