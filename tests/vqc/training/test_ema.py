"""The moving average of weights, beside torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vqc.config import TrainConfig
from vqc.models.build import build_detector
from vqc.training.ema import first_average, move_average

LONG = 1_000_000  # a step at which the decay is reached


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def shaken(model: nn.Module) -> None:
    """New weights and new running statistics."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.train()(torch.randn(2, 3, 5, 5))


def test_it_is_torchs_average() -> None:
    model = small_model()
    ours = first_average(model)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.update_parameters(model)  # its first call copies
    for _ in range(5):
        shaken(model)
        move_average(ours, model, decay=0.9, step=LONG)
        theirs.update_parameters(model)
    expected = theirs.module.state_dict()
    for name, tensor in ours.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[name], msg=name)


@pytest.mark.parametrize(("step", "kept"), [(0, 0.1), (8, 0.5), (LONG, 0.75)])
def test_the_first_weights_are_soon_forgotten(step: int, kept: float) -> None:
    model = nn.Linear(1, 1)
    average = first_average(model)
    with torch.no_grad():
        average.weight.fill_(1.0)  # type: ignore[operator, union-attr]
        model.weight.fill_(0.0)
    move_average(average, model, decay=0.75, step=step)
    assert average.weight.item() == pytest.approx(kept)  # type: ignore[operator, union-attr]


def test_the_model_is_not_moved_and_the_average_not_trained() -> None:
    model = small_model()
    average = first_average(model)
    shaken(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    move_average(average, model, decay=0.5, step=LONG)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert not average.training
    assert model.training


def test_the_copy_of_a_detector_counts_for_itself() -> None:
    """The hook that keeps a loss's count belongs to the copy, not to the original."""
    model = build_detector(TrainConfig(model="fcos_tiny", weights="none", image_size=64), num_classes=1)
    average = first_average(model)
    target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    average.train()(torch.zeros((1, 3, 64, 64), dtype=torch.uint8), [target])
    assert hasattr(average, "loss_count")
    assert not hasattr(model, "loss_count")
