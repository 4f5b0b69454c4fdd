"""Clipping: torch's own, with one pass less where the CPU can look first. The rest of the module: test_memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from vqc.training.gradient_accumulation import clip_gradient


def layers_with_gradient(scale: float) -> nn.Sequential:
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(2, 1))
    for parameter in layers[:2].parameters():  # the last one has none
        parameter.grad = torch.randn_like(parameter) * scale
    return layers


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3, torch.inf, torch.nan])
def test_a_gradient_is_clipped_as_by_torch(scale: float) -> None:
    own, torchs = layers_with_gradient(scale), layers_with_gradient(scale)
    norm = clip_gradient(list(own.parameters()), 2.0)
    assert_close(norm, nn.utils.clip_grad_norm_(torchs.parameters(), 2.0), equal_nan=True)
    for one, other in zip(own[:2].parameters(), torchs[:2].parameters(), strict=True):
        assert one.grad is not None
        assert_close(one.grad, other.grad, equal_nan=True)
