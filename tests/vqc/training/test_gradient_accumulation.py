"""Memory that runs out anywhere costs parts, never a batch, a step or a trial, and not for longer than it must."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cards import Card, out_of_memory
from tests.images import write_data
from vqc.config import TrainConfig
from vqc.data.dataset import Data, load_data
from vqc.data.loader import Batch
from vqc.errors import InfeasibleError
from vqc.hardware.memory import MicroBatch
from vqc.hardware.precision import Precision
from vqc.models.build import build_detector
from vqc.models.checkpoint import ModelInfo
from vqc.models.registry import ARCHITECTURES
from vqc.training.gradient_accumulation import GradientAccumulation
from vqc.training.loop import Epoch, fit
from vqc.training.state import LoopState

CPU = Precision(device=torch.device("cpu"), dtype=torch.float32)
LIGHT = ["fcos_tiny", "fcos_lite0"]
ADDITIVE = [*LIGHT, "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large"]


def batch_of(images: int, *, side: int = 64) -> Batch:
    """Noise; every third image is of a good part, the others have one or two boxes."""
    generator = torch.Generator().manual_seed(images)
    pixels = torch.randint(0, 256, (images, 3, side, side), generator=generator, dtype=torch.uint8)
    boxes = torch.tensor([[4.0, 6.0, 30.0, 28.0], [20.0, 24.0, 60.0, 62.0]], dtype=torch.float64)
    counts = [i % 3 for i in range(images)]
    targets = [{"boxes": boxes[:n], "labels": torch.arange(1, n + 1)} for n in counts]
    return Batch(images=pixels, targets=targets, indices=tuple(range(images)))


def state_of(model_name: str, *, side: int = 64) -> LoopState:
    """A detector with the structure that pretrained weights bring, in training mode and in double precision.

    Of ``fcos_tiny``, which has no such weights, batch norm is in evaluation mode: parts see what the whole sees.
    An untrained deep network magnifies rounding: in float32 torch differs from itself by 0.4 % between batch sizes.
    """
    weights = "backbone" if ARCHITECTURES[model_name].backbone_weights else "none"
    config = TrainConfig(model=model_name, weights=weights, image_size=(side, side))  # type: ignore[arg-type]
    model = build_detector(config, num_classes=2, load_backbone=False).double()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    optimizer = torch.optim.AdamW(model.parameters())
    info = ModelInfo(config=config, categories=((1, "a"), (2, "b")), fingerprint="", epoch=0)
    return LoopState(info=info, step=0, model=model, optimizer=optimizer, scaler=CPU.scaler())


def accumulation(state: LoopState, size: int) -> GradientAccumulation:
    """It begins with so many images at once."""
    found = GradientAccumulation(state, CPU)
    found.micro = MicroBatch(size=size)
    return found


def gradient_of(
    state: LoopState, batch: Batch, gradient: GradientAccumulation
) -> tuple[torch.Tensor, dict[str, float]]:
    """The whole gradient as one vector, and the loss terms."""
    state.optimizer.zero_grad()
    torch.manual_seed(1)
    terms = gradient.add(batch)
    parts = [p.grad.reshape(-1) for p in state.model.parameters() if p.grad is not None]
    return torch.cat(parts), {name: float(term) for name, term in terms.items()}


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Each failure is followed by a collection, which need not walk through all that was imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def tiny_state() -> LoopState:
    return state_of("fcos_tiny")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name not in LIGHT else ()) for name in ADDITIVE]
)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_parts_have_the_gradient_and_the_losses_of_the_whole_batch(name: str, size: int) -> None:
    state, batch = state_of(name), batch_of(5)
    whole, terms = gradient_of(state, batch, accumulation(state, 5))
    parted, parted_terms = gradient_of(state, batch, accumulation(state, size))
    assert distance(parted, whole) < 1e-4
    assert parted_terms == pytest.approx(terms, rel=1e-4)


def test_a_batch_of_good_parts_alone_can_be_parted(tiny_state: LoopState) -> None:
    batch = batch_of(4)
    empty = {"boxes": torch.zeros(0, 4, dtype=torch.float64), "labels": torch.zeros(0, dtype=torch.int64)}
    good = Batch(images=batch.images, targets=[empty] * 4, indices=batch.indices)
    whole, _ = gradient_of(tiny_state, good, accumulation(tiny_state, 4))
    parted, _ = gradient_of(tiny_state, good, accumulation(tiny_state, 1))
    assert distance(parted, whole) < 1e-4


def test_parts_of_accumulated_batches_add_up(tiny_state: LoopState) -> None:
    def sum_over_two(size: int) -> torch.Tensor:
        tiny_state.optimizer.zero_grad()
        gradient = accumulation(tiny_state, size)
        for batch in (batch_of(5), batch_of(4)):
            gradient.add(batch, share=0.5)
        return torch.cat([p.grad.reshape(-1) for p in tiny_state.model.parameters() if p.grad is not None])

    assert distance(sum_over_two(2), sum_over_two(5)) < 1e-4


class FailingMemory:
    """Raises out-of-memory in forward or backward passes as a schedule says, and notes which images got through."""

    def __init__(self, state: LoopState, schedule: list[str]) -> None:
        self.schedule: Iterator[str] = iter(schedule)
        self.state = state

    def __enter__(self) -> FailingMemory:
        forward, scale = self.state.model.forward, self.state.scaler.scale

        def failing_forward(images: torch.Tensor, targets: object) -> object:
            self.plan = next(self.schedule, "fits")
            if self.plan == "forward" and len(images) > 1:
                raise out_of_memory()
            return forward(images, targets)

        def failing_scale(loss: torch.Tensor) -> torch.Tensor:
            scaled = scale(loss)
            if self.plan == "backward" and self.images > 1:
                scaled.register_hook(self._fail)
            return scaled

        def count(module: object, inputs: tuple[torch.Tensor, ...]) -> None:
            self.images = len(inputs[0])

        self.undo: list[Callable[[], None]] = [self.state.model.register_forward_pre_hook(count).remove]
        self.patches = [
            mock.patch.object(self.state.model, "forward", failing_forward),
            mock.patch.object(self.state.scaler, "scale", failing_scale),
        ]
        for patch in self.patches:
            patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patch in self.patches:
            patch.stop()
        for undo in self.undo:
            undo()

    @staticmethod
    def _fail(gradient: torch.Tensor) -> torch.Tensor:
        raise out_of_memory()


@settings(max_examples=20)
@given(schedule=st.lists(st.sampled_from(["fits", "forward", "backward"]), max_size=8), images=st.integers(1, 5))
def test_whatever_fails_the_batch_counts_once_and_whole(
    tiny_state: LoopState, schedule: list[str], images: int
) -> None:
    batch = batch_of(images)
    whole, terms = gradient_of(tiny_state, batch, accumulation(tiny_state, images))
    gradient = accumulation(tiny_state, images)
    with FailingMemory(tiny_state, schedule):
        survived, survived_terms = gradient_of(tiny_state, batch, gradient)
    assert distance(survived, whole) < 1e-4
    assert survived_terms == pytest.approx(terms, rel=1e-4)
    assert 1 <= gradient.micro.size <= images


# Whole runs


@dataclass(frozen=True)
class Run:
    """The gradient of each step, and the one epoch's figures."""

    gradients: list[torch.Tensor]
    epoch: Epoch


def run_on(card: Card, data: Data) -> Run:
    """One epoch of two steps, 4 images and 1; batch norm frozen, so that parts see what the whole sees."""
    config = TrainConfig.model_validate(
        {
            "model": "fcos_tiny",
            "weights": "none",
            "image_size": 64,
            "batch_size": 4,
            "num_epochs": 1,
            "learning_rate": 1e-6,
            "gpu_optimization": {"mixed_precision": "float32"},
        }
    )
    with card, mock.patch("vqc.training.loop.build_detector", frozen_detector):
        (epoch,) = fit(config, data)
    return Run(card.gradients, epoch)


def frozen_detector(config: TrainConfig, **options: Any) -> torch.nn.Module:
    model = build_detector(config, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign, misc]
    return model


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return load_data(write_data(tmp_path_factory.mktemp("few") / "data", train=5, val=2, test=1))


@pytest.fixture(scope="module")
def undisturbed(few: Data) -> Run:
    return run_on(Card(), few)


OCCURRENCES = st.sets(st.integers(0, 9), max_size=6)
POINTS = ("forward", "backward", "evaluation", "optimiser")
FAILURES = given(failures=st.fixed_dictionaries(dict.fromkeys(POINTS, OCCURRENCES)))


@settings(max_examples=5)
@FAILURES
def test_whatever_runs_out_no_run_is_lost(few: Data, undisturbed: Run, failures: dict[str, set[int]]) -> None:
    is_not_lost(few, undisturbed, failures)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
@settings(max_examples=100)
@FAILURES
def test_five_hundred_schedules_of_failure(
    few: Data, undisturbed: Run, part: int, failures: dict[str, set[int]]
) -> None:
    is_not_lost(few, undisturbed, failures)


def is_not_lost(data: Data, undisturbed: Run, failures: dict[str, set[int]]) -> None:
    """Every step has the gradient that it would have had, unless what cannot be made smaller ran out twice."""
    card = Card(failures=failures)
    try:
        run = run_on(card, data)
    except InfeasibleError:
        run = None
    if run is None:
        assert card.failed["one image"] >= 2
        return
    assert run.epoch.report.step == 2
    for ours, theirs in zip(run.gradients, undisturbed.gradients, strict=True):
        assert distance(ours, theirs) < 1e-4
    assert run.epoch.report.losses == pytest.approx(undisturbed.epoch.report.losses, rel=1e-4)
    assert run.epoch.report.scores == undisturbed.epoch.report.scores


def test_running_statistics_count_a_failed_attempt_as_not_made() -> None:
    state, batch = state_of("fcos_tiny"), batch_of(4)
    state.model.train()
    twin = state_of("fcos_tiny")
    twin.model.train()
    with FailingMemory(state, ["fits", "backward"]):  # the second of two halves fails, after the first went through
        gradient_of(state, batch, accumulation(state, 2))
    gradient_of(twin, batch, accumulation(twin, 1))
    assert all(torch.equal(a, b) for a, b in zip(state.model.buffers(), twin.model.buffers(), strict=True))


# The size grows again


def sizes_of_epochs(data: Data, card: Card, *, epochs: int = 4, batch_size: int = 5) -> list[int | None]:
    config = TrainConfig.model_validate(
        {
            "model": "fcos_tiny",
            "weights": "none",
            "image_size": 64,
            "batch_size": batch_size,
            "num_epochs": epochs,
            "gpu_optimization": {"mixed_precision": "float32"},
        }
    )
    with card:
        return [epoch.report.micro_batch for epoch in fit(config, data)]


def test_one_failed_allocation_does_not_slow_the_rest_of_the_run(few: Data) -> None:
    assert sizes_of_epochs(few, Card(failures={"forward": {0, 1}})) == [2, 4, 5, 5]


def test_a_batch_that_never_fits_costs_one_attempt_an_epoch(few: Data) -> None:
    card = Card(images=2)
    assert sizes_of_epochs(few, card, epochs=3) == [2, 2, 2]
    first = [5, 3, 2, 2, 1]  # five images in parts of two
    assert card.steps == [*first, 4, 2, 2, 1, 4, 2, 2, 1]
