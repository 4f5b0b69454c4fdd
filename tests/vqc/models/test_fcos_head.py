"""Both branches at once beside torchvision's one after the other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.fcos import FCOSHead

from vqc.models.fcos_head import PairedHead

CHANNELS = 64
SIDES = (8, 4, 2)


def heads(classes: int, convolutions: int = 2) -> tuple[FCOSHead, PairedHead]:
    """Torchvision's and ours over the same weights, none of them zero."""
    torch.manual_seed(classes)
    theirs = FCOSHead(CHANNELS, 1, classes, num_convs=convolutions)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return theirs, PairedHead(copy.deepcopy(theirs))


def maps() -> list[Tensor]:
    return [torch.randn(2, CHANNELS, side, side) for side in SIDES]


def gradients(head: torch.nn.Module, given: list[Tensor]) -> dict[str, Tensor]:
    """Of a sum of squares, by the name of the parameter."""
    torch.stack([output.square().sum() for output in head(given).values()]).sum().backward()  # type: ignore[no-untyped-call]
    return {name: parameter.grad for name, parameter in head.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("classes", [2, 5, 8, 9, 21])
@pytest.mark.parametrize("convolutions", [1, 2, 4])
def test_outputs_are_torchvisions(classes: int, convolutions: int) -> None:
    theirs, ours = heads(classes, convolutions)
    given = maps()
    expected, found = theirs(given), ours(given)
    assert set(found) == set(expected)
    for name, output in found.items():
        torch.testing.assert_close(output, expected[name], rtol=1e-4, atol=1e-4)


def test_gradients_are_torchvisions() -> None:
    theirs, ours = heads(4)
    given = maps()
    expected, found = gradients(theirs, given), gradients(ours, given)
    assert set(found) == set(expected) == {name for name, _ in theirs.named_parameters()}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-3 * float(expected[name].abs().max()))


def test_weights_are_read_from_torchvisions_head_and_back() -> None:
    theirs, ours = heads(4)
    other, _ = heads(5)
    with pytest.raises(RuntimeError, match="size mismatch"):
        ours.load_state_dict(other.state_dict())
    theirs.load_state_dict(ours.state_dict())
    assert list(theirs.state_dict()) == list(ours.state_dict())
