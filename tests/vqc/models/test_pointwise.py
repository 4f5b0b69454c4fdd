"""1 x 1 convolutions as products of matrices: torch's own results and gradients, and only where they pay."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from vqc.models.pointwise import train_pointwise_as_product


def small_net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(5, 8, 1),
        nn.Conv2d(8, 8, 1, bias=False),
        nn.Conv2d(8, 6, 1, stride=2),
        nn.Conv2d(6, 6, 1, padding=1),
        nn.Conv2d(6, 6, 1, groups=2),
        nn.Conv2d(6, 4, 3),
    ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def gradients(net: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    output = net(x)
    return [output, *torch.autograd.grad(output.square().sum(), [x, *net.parameters()])]


def test_only_plain_one_by_one_convolutions_change() -> None:
    net = small_net()
    train_pointwise_as_product(net)
    assert [type(layer) is nn.Conv2d for layer in net] == [False, False, True, True, True, True]


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("training", [True, False])
def test_results_and_gradients_are_torch_s_own(memory_format: torch.memory_format, training: bool) -> None:
    net = small_net().train(training)
    own = deepcopy(net)
    train_pointwise_as_product(own)
    assert list(own.state_dict()) == list(net.state_dict())
    x = torch.randn(3, 5, 9, 7).to(memory_format=memory_format)
    for found, expected in zip(gradients(own, x), gradients(net, x), strict=True):
        assert_close(found, expected)
        assert found.is_contiguous(memory_format=memory_format) == expected.is_contiguous(memory_format=memory_format)


def test_evaluation_is_torch_s_own_to_the_last_bit() -> None:
    net = small_net().eval()
    own = deepcopy(net)
    train_pointwise_as_product(own)
    x = torch.randn(3, 5, 9, 7).to(memory_format=torch.channels_last)
    assert torch.equal(own(x), net(x))
