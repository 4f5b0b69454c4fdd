"""The first micro-batch: measured once, believed only after a step at its size, and nothing is changed by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.cards import FIXED_BYTES, IMAGE_BYTES, Card
from tests.images import write_data
from vqc.config import TrainConfig
from vqc.data.dataset import Data, load_data
from vqc.data.loader import FittedImages
from vqc.errors import InfeasibleError
from vqc.hardware.memory import MicroBatch, reserve_optimizer_state
from vqc.hardware.memory_book import MemoryBook, StepMemory
from vqc.hardware.precision import Precision
from vqc.models.build import build_detector
from vqc.models.checkpoint import LoopState, ModelInfo
from vqc.training.first_batch import FirstBatch
from vqc.training.loop import fit

CPU = Precision(device=torch.device("cpu"), dtype=torch.float32)


def config_of(**values: object) -> TrainConfig:
    basis = {"model": "fcos_tiny", "weights": "none", "image_size": 64, "batch_size": 8, "num_epochs": 1}
    return TrainConfig.model_validate({**basis, "gpu_optimization": {"mixed_precision": "float32"}, **values})


def state_of(config: TrainConfig) -> LoopState:
    model = build_detector(config, num_classes=2)
    info = ModelInfo(config=config, categories=((3, "scratch"), (7, "dent")), fingerprint="", epoch=0)
    optimizer = torch.optim.AdamW(model.parameters())
    return LoopState(info=info, step=0, model=model, optimizer=optimizer, scaler=CPU.scaler())


def first_batch(data: Data, card: Card | None, book: MemoryBook | None = None, **values: object) -> FirstBatch:
    config = config_of(**values)
    images = FittedImages(data, "train", size=config.image_size, cache=None)
    return FirstBatch(state_of(config), images, precision=CPU, meter=card, book=book)


@pytest.mark.parametrize(
    ("fit_in", "size"), [(1, 1), (2, 2), (3, 3), (5, 4), (7, 4), (8, 8), (20, 8)], ids=lambda value: str(value)
)
def test_the_batch_falls_into_as_few_equal_parts_as_memory_allows(tiny: Data, fit_in: int, size: int) -> None:
    with Card(images=fit_in) as card:
        assert first_batch(tiny, card).size() == MicroBatch(size=size)


def test_without_a_meter_nothing_is_measured(tiny: Data) -> None:
    with Card() as card:
        assert first_batch(tiny, None).size() == MicroBatch(size=8)
    assert card.steps == []


def test_one_image_that_does_not_fit_is_infeasible(tiny: Data) -> None:
    with Card(images=0) as card, pytest.raises(InfeasibleError, match=r"not even on one image: CUDA out of memory"):
        first_batch(tiny, card).size()


def test_what_the_line_says_is_tried_before_it_is_believed(tiny: Data) -> None:
    """The seventh forward pass of the probe, the second at 8 images, runs out although the meter knows of room."""
    with Card(failures={"probe": {5}}) as card:
        assert first_batch(tiny, card).size() == MicroBatch(size=4)
    assert card.steps[:6] == [1, 1, 2, 2, 8, 8]


def test_the_fullest_images_are_measured(tmp_path: Path) -> None:
    data = load_data(write_data(tmp_path, train=9, val=3))
    with Card() as card:
        first = first_batch(data, card)
        seen: list[int] = []
        hook = first._state.model.register_forward_pre_hook(
            lambda _, inputs: seen.extend(len(target["boxes"]) for target in inputs[1])
        )
        first.size()
        hook.remove()
    assert set(seen[:6]) == {2}


# Nothing is left of it


@pytest.mark.parametrize("failures", [{}, {"probe": {3}}, {"probe": {5}}], ids=str)
def test_the_run_is_as_if_it_had_not_been_measured(tiny: Data, failures: dict[str, set[int]]) -> None:
    first = first_batch(tiny, card := Card(failures=failures))
    state = first._state
    reserve_optimizer_state(state.optimizer)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    moments = [value.clone() for slots in state.optimizer.state.values() for value in slots.values()]
    stream = torch.get_rng_state()
    with card:
        first.size()
    assert card.steps
    assert all(torch.equal(before[name], tensor) for name, tensor in state.model.state_dict().items())
    after = [value for slots in state.optimizer.state.values() for value in slots.values()]
    assert all(torch.equal(a, b) for a, b in zip(moments, after, strict=True))
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(parameter.grad is None for parameter in state.model.parameters())
    assert state.model.training
    assert card.peak_bytes() == 0


def test_measuring_changes_no_figure_of_a_run(tiny: Data) -> None:
    (plain,) = fit(config_of(), tiny)
    with Card() as card:
        (measured,) = fit(config_of(), tiny, meter=card)
    assert card.steps[:2] == [1, 1]
    assert measured.report.losses == plain.report.losses
    for name, tensor in plain.state.model.state_dict().items():
        assert torch.equal(measured.state.model.state_dict()[name], tensor), name


# The book


def test_a_later_run_does_not_measure_again(tiny: Data, tmp_path: Path) -> None:
    book = MemoryBook(tmp_path)
    with Card(images=5) as card:
        first_batch(tiny, card, book).size()
        measured = len(card.steps)
        assert first_batch(tiny, card, book, batch_size=20).size() == MicroBatch(size=5)
    assert len(card.steps) == measured
    assert list(book.entries().values()) == [StepMemory(fixed_bytes=FIXED_BYTES, image_bytes=IMAGE_BYTES)]


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 96},
        {"weights": "backbone"},
        {"gpu_optimization": {"mixed_precision": "float32", "gradient_accumulation_steps": 2}},
    ],
    ids=str,
)
def test_another_setup_is_measured_by_itself(tiny: Data, tmp_path: Path, change: dict[str, object]) -> None:
    book = MemoryBook(tmp_path)
    with Card() as card:
        first_batch(tiny, card, book).size()
        measured = len(card.steps)
        first_batch(tiny, card, book, **change).size()
    assert len(card.steps) > measured
    assert len(book.entries()) == 2


def test_a_step_that_runs_out_later_teaches_the_runs_after_it(tiny: Data, tmp_path: Path) -> None:
    with Card(failures={"forward": {0}}) as card:
        (epoch,) = fit(config_of(batch_size=6), tiny, cache=tmp_path, meter=card)
        assert epoch.report.micro_batch == 3
    with Card() as card:
        (epoch,) = fit(config_of(batch_size=6), tiny, cache=tmp_path, meter=card)
    assert epoch.report.micro_batch == 3
    assert card.steps == [3, 3, 3]  # 9 images in batches of 6 and 3; nothing was measured
