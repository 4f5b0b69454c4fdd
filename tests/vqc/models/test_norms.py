"""Norms that treat each image by itself: equal to torch's, in the input's number format, and which is used where."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from vqc.models.norms import FrozenNorm, GroupNorm, settle_norms

FORMATS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)


def learned(norm: nn.Module) -> nn.Module:
    """With weights, and statistics where it keeps some, as after training."""
    generator = torch.Generator().manual_seed(0)
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2, generator=generator)
    return norm


def maps(dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(2, 32, 5, 7, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1e-3])
def test_a_frozen_norm_computes_what_torchvisions_does(eps: float) -> None:
    theirs = learned(FrozenBatchNorm2d(32, eps=eps))
    ours = FrozenNorm(32, eps=eps)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(maps(torch.float32)), theirs(maps(torch.float32)))


@FORMATS
@pytest.mark.parametrize("norm", [FrozenNorm(32), GroupNorm(4, 32)], ids=lambda norm: type(norm).__name__)
def test_the_number_format_of_the_input_is_kept(norm: nn.Module, dtype: torch.dtype) -> None:
    learned(norm.to(torch.promote_types(dtype, torch.float32)))
    exact = norm.double()(maps(dtype).double())
    found = norm.to(torch.promote_types(dtype, torch.float32))(maps(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps)


def test_group_norm_is_torchs() -> None:
    theirs = learned(nn.GroupNorm(4, 32))
    ours = GroupNorm(4, 32)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(maps(torch.float32)), theirs(maps(torch.float32)))


def small() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(3, 32, 3), learned(nn.BatchNorm2d(32, eps=0.01)))
    frozen = nn.Sequential(learned(FrozenBatchNorm2d(32, eps=0.0)))
    return nn.ModuleDict(
        {"body": body, "frozen": frozen, "head": nn.Sequential(nn.BatchNorm2d(32), nn.GroupNorm(2, 32))}
    )


def kinds(model: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in model.modules() if hasattr(layer, "eps")]


def test_norms_with_pretrained_statistics_are_frozen_as_they_are() -> None:
    model = small()
    before = deepcopy(model)
    settle_norms(model, pretrained=("body.", "frozen."))
    assert kinds(model) == ["FrozenNorm", "FrozenNorm", "GroupNorm", "GroupNorm"]
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    pairs = [(model.get_submodule(name), before.get_submodule(name)) for name in ("body", "frozen")]
    for inputs, (settled, original) in zip((pixels, maps(torch.float32)), pairs, strict=True):
        torch.testing.assert_close(settled.train()(inputs), original.eval()(inputs), rtol=1e-4, atol=1e-5)
    assert not list(model.get_submodule("body.1").parameters())


def test_without_pretrained_weights_batch_norm_trains() -> None:
    model = small()
    settle_norms(model, pretrained=())
    assert kinds(model) == ["BatchNorm2d", "FrozenNorm", "BatchNorm2d", "GroupNorm"]
