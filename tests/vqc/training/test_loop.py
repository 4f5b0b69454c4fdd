"""The training loop: resumed as if never stopped, and ended in the stated ways."""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.images import write_data
from vqc.config import Augmentation, TrainConfig
from vqc.data.dataset import Data, ImageRecord, Split, load_data
from vqc.data.loader import FittedImages, training_batches
from vqc.errors import DataError, InfeasibleError, ModelError, NonFiniteLossError
from vqc.hardware.precision import FIRST_SCALE, Precision
from vqc.models.build import build_detector
from vqc.models.checkpoint import load_model
from vqc.training.loop import FINAL_RATE, Epoch, backend_settings, fit, learning_rate_at
from vqc.training.state import read_report, snapshot_of

MEASURED = {"data_s", "train_s", "eval_s", "images_per_s", "peak_vram_gb", "peak_ram_gb", "machine", "measured_ms"}
FLOAT32 = {"mixed_precision": "float32"}


def config(**values: object) -> TrainConfig:
    """Nine images in batches of 4, 4 and 1, three epochs, a few seconds."""
    basis = {
        "model": "fcos_tiny",
        "weights": "none",
        "image_size": 64,
        "batch_size": 4,
        "num_epochs": 3,
        "learning_rate": 2e-3,
        "gpu_optimization": FLOAT32,
        "seed": 1,
    }
    return TrainConfig.model_validate({**basis, **values})


def figures(epoch: Epoch) -> dict[str, object]:
    """What of a report is the same on every run."""
    return epoch.report.model_dump(exclude=MEASURED)


def content(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def weights(epoch: Epoch) -> dict[str, bytes]:
    return content(epoch.state.model)


@dataclass(frozen=True)
class Run:
    """A whole run: its figures after each epoch, a saved state after each, its last weights."""

    figures: list[dict[str, object]]
    states: list[Path]
    weights: dict[str, bytes]


@pytest.fixture(scope="module")
def straight(tiny: Data, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of three epochs that was never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    told, states = [], []
    for epoch in fit(config(), tiny):
        told.append(figures(epoch))
        states.append(folder / f"{epoch.report.epoch}.safetensors")
        snapshot_of(epoch.state, epoch.report).write_state(states[-1])
    return Run(told, states, weights(epoch))


# Resuming


@pytest.mark.parametrize(("after", "workers"), [(1, 0), (2, 0), (1, 3)])
def test_resumed_is_as_if_never_stopped(tiny: Data, straight: Run, after: int, workers: int) -> None:
    rest = []
    for epoch in fit(config(num_workers=workers), tiny, resume_from=straight.states[after - 1]):
        rest.append(figures(epoch))
    assert rest == straight.figures[after:]
    assert weights(epoch) == straight.weights


@pytest.mark.parametrize(
    ("name", "weights_"),
    [
        ("fcos_lite0", "backbone"),
        pytest.param("fasterrcnn_mobilenet_v3_large_320_fpn", "none", marks=pytest.mark.slow),
    ],
)
def test_groups_of_parameters_and_drawn_samples_are_resumed_too(
    name: str, weights_: str, tiny: Data, tmp_path: Path
) -> None:
    """A pretrained backbone has a rate of its own; Faster R-CNN's losses draw anchors at random in every step."""
    settings = config(model=name, weights=weights_, num_epochs=2)
    run = fit(settings, tiny)
    first = next(run)
    snapshot_of(first.state, first.report).write_state(tmp_path / "last")
    straight, resumed = next(run), next(fit(settings, tiny, resume_from=tmp_path / "last"))
    assert figures(resumed) == figures(straight)
    assert weights(resumed) == weights(straight)


def test_a_run_with_an_average_is_resumed_too_and_keeps_the_average(tiny: Data, tmp_path: Path) -> None:
    settings = config(num_epochs=2, ema_decay=0.5)
    run = fit(settings, tiny)
    first = next(run)
    snapshot = snapshot_of(first.state, first.report)
    snapshot.write_state(tmp_path / "last")
    snapshot.write_model(tmp_path / "best")
    assert content(load_model(tmp_path / "best")[0]) == content(first.state.evaluated) != weights(first)
    straight, resumed = next(run), next(fit(settings, tiny, resume_from=tmp_path / "last"))
    assert figures(resumed) == figures(straight)
    assert content(resumed.state.evaluated) == content(straight.state.evaluated)
    assert weights(resumed) == weights(straight)


def test_a_run_on_tiles_is_resumed_too_and_its_cache_changes_nothing(tiny: Data, tmp_path: Path) -> None:
    settings = config(num_epochs=2, tile_px=32, batch_size=8)
    run = fit(settings, tiny)
    first = next(run)
    assert first.state.info.tiles is not None
    assert first.report.step > 2  # nine photographs are two batches
    snapshot_of(first.state, first.report).write_state(tmp_path / "last")
    straight, resumed = next(run), next(fit(settings, tiny, resume_from=tmp_path / "last", cache=tmp_path / "cache"))
    assert figures(resumed) == figures(straight)
    assert weights(resumed) == weights(straight)


def test_cache_and_workers_change_nothing(tiny: Data, straight: Run, tmp_path: Path) -> None:
    epochs = fit(config(num_workers=2), tiny, cache=tmp_path)
    assert [figures(epoch) for epoch in epochs] == straight.figures


def test_the_state_may_be_saved_over_the_one_resumed_from(tiny: Data, straight: Run, tmp_path: Path) -> None:
    last = tmp_path / "last.safetensors"
    last.write_bytes(straight.states[0].read_bytes())
    for epoch in fit(config(), tiny, resume_from=last):
        snapshot_of(epoch.state, epoch.report).write_state(last)
    assert read_report(last).model_dump(exclude=MEASURED) == straight.figures[-1]
    assert weights(epoch) == straight.weights


def test_a_shortened_run_ends_earlier_and_at_the_lowest_rate(tiny: Data, straight: Run) -> None:
    long, short = config(), config(num_epochs=2)
    ends = [epoch.report for epoch in fit(short, tiny, resume_from=straight.states[0])]
    assert [report.epoch for report in ends] == [2]
    assert ends[0].learning_rate == pytest.approx(FINAL_RATE * long.learning_rate)


def test_a_finished_run_has_nothing_left(tiny: Data, straight: Run) -> None:
    assert list(fit(config(), tiny, resume_from=straight.states[-1])) == []


@pytest.mark.parametrize("change", [{"learning_rate": 1e-3}, {"num_epochs": 4}, {"seed": 2}], ids=str)
def test_another_configuration_is_not_resumed(tiny: Data, straight: Run, change: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="of another configuration or of other data"):
        next(fit(config(**change), tiny, resume_from=straight.states[0]))


# One step after the other


def test_steps_rates_and_losses_are_told(straight: Run) -> None:
    assert [told["step"] for told in straight.figures] == [3, 6, 9]
    assert [told["learning_rate"] for told in straight.figures] == [
        learning_rate_at(step, steps=9, config=config()) for step in (2, 5, 8)
    ]
    for told in straight.figures:
        losses = told["losses"]
        assert isinstance(losses, dict)
        assert losses["total"] == pytest.approx(sum(losses.values()) - losses["total"], rel=1e-5)
        assert isinstance(told["grad_norm"], float)
        assert told["grad_norm"] > 0


def test_training_lowers_the_loss(straight: Run) -> None:
    first, last = (straight.figures[at]["losses"]["total"] for at in (0, -1))  # type: ignore[index]
    assert last < first


def test_accumulation_steps_on_the_mean_of_the_batches_gradients(tiny: Data) -> None:
    """Against the same two steps, (4 + 4 images) and (1 image), written out; batch norm sees each batch by itself."""
    settings = config(num_epochs=1, gpu_optimization={**FLOAT32, "gradient_accumulation_steps": 2})
    (epoch,) = fit(settings, tiny)
    model = build_detector(settings, num_classes=2)
    matrices, vectors = ([one for one in model.parameters() if (one.dim() > 1) == many] for many in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], weight_decay=1e-4)
    batches = list(training_batches(FittedImages(tiny, "train", size=(64, 64), cache=None), settings, epoch=1))
    for step, group in enumerate([batches[:2], batches[2:]]):
        for one in optimizer.param_groups:
            one["lr"] = learning_rate_at(step, steps=2, config=settings)
        optimizer.zero_grad()
        for batch in group:
            (sum(model(batch.images, batch.targets).values()) / len(group)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
    assert epoch.report.step == 2
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(epoch.state.model.state_dict()[name], tensor, msg=name)


def with_train(data: Data, images: tuple[ImageRecord, ...]) -> Data:
    return replace(data, train=Split(name="train", categories=data.categories, images=images))


def test_two_equal_batches_accumulated_are_one(tmp_path: Path) -> None:
    """Where every batch is the same image, their mean gradient is the gradient of one; only batch norm counts twice."""
    data = load_data(write_data(tmp_path, train=2, val=1))
    first = data.train.images[:1]
    plain = {"num_epochs": 1, "batch_size": 1, "augmentation": dict.fromkeys(Augmentation.model_fields, 0.0)}
    (one,) = fit(config(**plain), with_train(data, first))
    (two,) = fit(
        config(**plain, gpu_optimization={**FLOAT32, "gradient_accumulation_steps": 2}), with_train(data, first * 2)
    )
    assert (one.report.step, two.report.step) == (1, 1)
    for name, parameter in two.state.model.named_parameters():
        torch.testing.assert_close(parameter, one.state.model.get_parameter(name), msg=name)


def test_batches_without_a_box_train(tiny: Data) -> None:
    """In batches of one image, three are of good parts."""
    (epoch,) = fit(config(batch_size=1, num_epochs=1), tiny)
    assert all(math.isfinite(value) for value in epoch.report.losses.values())


def test_bfloat16_trains(tiny: Data) -> None:
    (epoch,) = fit(config(num_epochs=1, gpu_optimization={"mixed_precision": "bfloat16"}), tiny)
    assert math.isfinite(epoch.report.losses["total"])
    assert {parameter.dtype for parameter in epoch.state.model.parameters()} == {torch.float32}


def test_global_streams_are_neither_used_nor_moved(tiny: Data, straight: Run) -> None:
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()  # type: ignore[index, union-attr]  # noqa: NPY002
    assert figures(next(fit(config(), tiny))) == straight.figures[0]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]  # type: ignore[index, union-attr]  # noqa: NPY002


def test_torchs_settings_are_taken_back(tiny: Data) -> None:
    before = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    run = fit(config(gpu_optimization={**FLOAT32, "matmul_precision": "medium"}), tiny)
    next(run)
    assert torch.get_float32_matmul_precision() == "medium"
    run.close()  # type: ignore[attr-defined]
    assert (torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()) == before


@pytest.mark.parametrize(
    ("model", "benchmark"), [("ssdlite320_mobilenet_v3_large", True), ("fasterrcnn_resnet50_fpn_v2", False)]
)
def test_convolutions_whose_size_varies_are_not_timed(model: str, benchmark: bool) -> None:
    with backend_settings(config(model=model)):
        assert torch.backends.cudnn.benchmark is benchmark


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["fcos_tiny", "fasterrcnn_mobilenet_v3_large_320_fpn"])
@pytest.mark.parametrize("benchmark", [False, True])
def test_two_runs_on_a_gpu_differ_by_rounding_alone(tiny: Data, model: str, benchmark: bool) -> None:
    """Writes how far off (pytest -s). The tolerance is a guess as long as no card was there."""
    settings = config(model=model, gpu_optimization={**FLOAT32, "cudnn_benchmark": benchmark})
    one, other = (next(fit(settings, tiny)) for _ in range(2))
    losses = [epoch.report.losses["total"] for epoch in (one, other)]
    pairs = zip(one.state.trainable, other.state.trainable, strict=True)
    moved = max(float((a - b).abs().max().detach()) for a, b in pairs)
    sys.stdout.write(f"{model}, benchmark {benchmark}: losses {losses}, weights at most {moved:.3g} apart\n")
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


# Ends


@pytest.fixture
def overflowing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], bool]], None]:
    """Runs in float16 on the CPU, where a gradient is infinite in the steps (counted from 0) that are named."""

    def begin(overflows: Callable[[int], bool]) -> None:
        def built(config: TrainConfig, **options: Any) -> nn.Module:
            model, steps = build_detector(config, **options), itertools.count()
            first = next(model.parameters())
            first.register_hook(lambda grad: grad * math.inf if overflows(next(steps)) else grad)
            return model

        half = Precision(device=torch.device("cpu"), dtype=torch.float16)
        monkeypatch.setattr("vqc.training.loop.choose_precision", lambda config, gpu: half)
        monkeypatch.setattr("vqc.training.loop.build_detector", built)

    return begin


def test_steps_that_overflow_are_counted_and_change_nothing(
    tiny: Data, overflowing: Callable[[Callable[[int], bool]], None]
) -> None:
    overflowing(lambda step: step < 5)  # the first epoch of three steps, and two of the second
    first, second = itertools.islice(fit(config(), tiny), 2)
    assert (first.report.step, first.report.skipped_steps, first.report.grad_norm) == (3, 3, None)
    assert second.report.skipped_steps == 2
    assert second.report.grad_norm is not None
    assert second.report.grad_norm > 0
    assert second.state.scaler.get_scale() == FIRST_SCALE / 2**5


def test_an_epoch_of_overflows_at_any_scale_is_infeasible(
    tiny: Data, overflowing: Callable[[Callable[[int], bool]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqc.hardware.precision.FIRST_SCALE", 4.0)
    overflowing(lambda step: True)
    with pytest.raises(InfeasibleError, match="all 3 steps of epoch 1 overflowed float16"):
        next(fit(config(), tiny))


def test_a_loss_that_is_not_finite_ends_the_run_before_it_reaches_the_weights(tiny: Data) -> None:
    run = fit(config(), tiny)
    epoch = next(run)
    bias = epoch.state.model.get_parameter("head.classification_head.cls_logits.bias")
    with torch.no_grad():
        bias.fill_(float("nan"))
    before = weights(epoch)
    with pytest.raises(NonFiniteLossError) as caught:
        next(run)
    assert caught.value.step == 4
    assert math.isnan(caught.value.losses["classification"])
    assert caught.value.learning_rate == learning_rate_at(3, steps=9, config=config())
    assert caught.value.scale == 1
    trained = {name for name, _ in epoch.state.model.named_parameters()}
    assert {name: value for name, value in weights(epoch).items() if name in trained} == {
        name: value for name, value in before.items() if name in trained
    }


def test_an_absurd_learning_rate_ends_as_infeasible_or_not_at_all(tiny: Data) -> None:
    """AdamW moves each weight by the rate: at 10 nothing is left of the model, but no exception escapes the tree."""
    scores = []
    with contextlib.suppress(NonFiniteLossError):
        for epoch in fit(config(learning_rate=10.0, warmup_fraction=0.0), tiny):
            scores.append(epoch.report.scores.ap50)
    assert all(ap50 is not None and ap50 < 0.5 for ap50 in scores)


@pytest.fixture
def broken(tmp_path: Path) -> Data:
    """Four images in train, three in val; those of train are gone."""
    data = load_data(write_data(tmp_path, train=4, val=3))
    for record in data.train.images:
        record.path.unlink()
    return data


@pytest.mark.parametrize(("gone", "first_seen"), [(0, "val"), (1, "val"), (2, "train")])
def test_two_batches_of_val_are_tried_before_anything_is_trained(broken: Data, gone: int, first_seen: str) -> None:
    broken.val.images[gone].path.unlink()
    with pytest.raises(DataError) as caught:
        next(fit(config(batch_size=1), broken))
    assert f"{first_seen}/images" in caught.value.what.replace("\\", "/")


# The learning rate

STEPS = st.integers(1, 3000)
CONFIGS = st.builds(
    lambda rate, warmup: config(learning_rate=rate, warmup_fraction=warmup),
    st.floats(1e-6, 10),
    st.floats(0, 1, exclude_max=True),
)


@given(STEPS, CONFIGS)
def test_the_rate_rises_to_its_peak_and_falls_to_a_hundredth(steps: int, config: TrainConfig) -> None:
    rates = [learning_rate_at(step, steps=steps, config=config) for step in range(steps)]
    peak = rates.index(max(rates))
    assert rates[peak] == config.learning_rate
    assert peak == math.floor(config.warmup_fraction * steps)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert min(rates) > 0
    assert rates[-1] == pytest.approx(config.learning_rate * (0.01 if peak < steps - 1 else 1))


def test_warm_up_is_linear_and_the_fall_half_a_cosine() -> None:
    plan = config(learning_rate=1.0, warmup_fraction=0.2)
    rates = [learning_rate_at(step, steps=16, config=plan) for step in range(16)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[9] == pytest.approx((1 + 0.01) / 2)
