"""The optimiser's groups: what learns slowly, what not at all, what decays."""

from __future__ import annotations

import pytest

from vqc.config import TrainConfig
from vqc.data.dataset import Data
from vqc.models.build import build_detector
from vqc.training.loop import fit
from vqc.training.optimizer import adamw


def config(**values: object) -> TrainConfig:
    """One step: nine images in one batch."""
    basis = {"model": "fcos_lite0", "weights": "backbone", "image_size": 64, "batch_size": 9, "num_epochs": 1}
    return TrainConfig.model_validate({**basis, "learning_rate": 1e-3, "weight_decay": 0.0, **values})


def test_every_trained_parameter_is_in_one_group_and_vectors_do_not_decay() -> None:
    model = build_detector(config(), num_classes=2)
    groups = adamw(model, config(weight_decay=0.1)).param_groups
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert {id(one) for one in grouped} == {id(one) for one in model.parameters() if one.requires_grad}
    assert len(grouped) == len({id(one) for one in grouped})
    for group in groups:
        assert {0.1 if one.dim() > 1 else 0.0 for one in group["params"]} == {group["weight_decay"]}


@pytest.mark.parametrize(("weights", "share"), [("backbone", 0.25), ("backbone", 1.0), ("none", 1.0)])
def test_a_pretrained_backbone_takes_its_share_of_the_rate(tiny: Data, weights: str, share: float) -> None:
    """AdamW's first step moves a weight by the rate, whatever its gradient, less what rounding and epsilon take."""
    settings = config(weights=weights, backbone_rate=share if weights == "backbone" else 0.25)
    before = build_detector(settings, num_classes=2).state_dict()
    (epoch,) = fit(settings, tiny)
    after = epoch.state.model.state_dict()
    moved = {name: float((after[name] - before[name]).abs().max()) for name, _ in epoch.state.model.named_parameters()}
    assert moved["backbone.body.stage7.0.body.2.0.weight"] == pytest.approx(share * 1e-3, rel=0.01)
    assert moved["backbone.fpn.inner_blocks.0.0.weight"] == pytest.approx(1e-3, rel=0.01)
    frozen = {name for name, by in moved.items() if by == 0}
    assert (moved["backbone.body.stage2.1.body.0.0.weight"] == 0) == (weights == "backbone")
    assert all(name.startswith("backbone.body.st") for name in frozen)


def test_a_backbone_that_is_frozen_whole_leaves_no_empty_group() -> None:
    settings = config(frozen_stages=8)
    groups = adamw(build_detector(settings, num_classes=2), settings).param_groups
    assert [group["rate_share"] for group in groups] == [1.0]
