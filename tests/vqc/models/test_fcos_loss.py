"""FCOS's loss beside torchvision's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from vqc.models.fcos_loss import _focal, fcos_loss, match_cells
from vqc.models.lite import fcos_tiny

CLASSES = 3
CELLS = (64, 16, 4)  # of a picture of 64 x 64 pixels at strides 8, 16 and 32
MODEL: Any = fcos_tiny(CLASSES)


def grid() -> Tensor:
    """Square anchors of all cells, [84, 4]."""
    levels = []
    for stride in (8, 16, 32):
        at = torch.arange(0, 64, stride, dtype=torch.float32)
        y, x = torch.meshgrid(at, at, indexing="ij")
        corner = torch.stack([x.flatten(), y.flatten()], 1)
        levels.append(torch.cat([corner - stride / 2, corner + stride / 2], 1))
    return torch.cat(levels)


def targets(counts: list[int], generator: torch.Generator) -> list[dict[str, Tensor]]:
    """So many boxes of all sizes on each image."""
    found = []
    for count in counts:
        middle = 64 * torch.rand(count, 2, generator=generator)
        half = 1 + 40 * torch.rand(count, 2, generator=generator) ** 2
        boxes = torch.cat([middle - half, middle + half], 1)
        found.append({"boxes": boxes, "labels": torch.randint(1, CLASSES, (count,), generator=generator)})
    return found


def outputs(images: int, generator: torch.Generator) -> dict[str, Tensor]:
    shapes = {"cls_logits": CLASSES, "bbox_regression": 4, "bbox_ctrness": 1}
    made = {name: torch.randn(images, sum(CELLS), size, generator=generator) for name, size in shapes.items()}
    made["bbox_regression"].abs_()  # the head ends in a ReLU
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def gradients(terms: dict[str, Tensor], made: dict[str, Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(torch.stack(list(terms.values())).sum(), list(made.values())))


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=4), seed=st.integers(0, 2**31))
def test_losses_and_gradients_are_torchvisions(counts: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth, made, anchors = targets(counts, generator), outputs(len(counts), generator), grid()
    reference = MODEL.compute_loss(truth, made, [anchors] * len(counts), list(CELLS))
    terms, count = fcos_loss(made, truth, anchors=anchors, cells_per_level=CELLS, radius=MODEL.center_sampling_radius)
    assert set(terms) == set(reference)
    for name, term in terms.items():
        torch.testing.assert_close(term, reference[name], rtol=1e-5, atol=1e-6)
    for own, theirs in zip(gradients(terms, made), gradients(reference, made), strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-6)
    assert not count.dtype.is_floating_point
    assert (int(count) > 0) == (float(terms["bbox_ctrness"].detach()) > 0)


@pytest.mark.parametrize("truth", [False, True])
def test_the_focal_loss_is_torchvisions_at_any_logit(truth: bool) -> None:
    logits = torch.tensor([-300.0, -90, -20, -1, 0, 1, 20, 90, 300], dtype=torch.float64, requires_grad=True)
    yes = torch.full_like(logits, truth, dtype=torch.bool)
    (ours, slope), (theirs, expected) = (
        (loss.detach(), *torch.autograd.grad(loss.sum(), logits))
        for loss in (_focal(logits, yes), sigmoid_focal_loss(logits, yes.to(logits.dtype)))
    )
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize(("half", "level"), [(6.0, 0), (20.0, 0), (90.0, 1), (140.0, 2)])
def test_a_box_is_found_at_the_level_of_its_size(half: float, level: int) -> None:
    box = torch.tensor([[[32 - half, 32 - half, 32 + half, 32 + half]]])
    (matches,) = match_cells(box, grid(), cells_per_level=CELLS, radius=1.5)
    assert [bool((cells >= 0).any()) for cells in matches.split(CELLS)] == [number == level for number in range(3)]


def test_of_two_boxes_a_cell_is_to_find_the_smaller() -> None:
    boxes = torch.tensor([[[10.0, 10, 60, 60], [24, 24, 40, 40]]])
    matches = match_cells(boxes, grid(), cells_per_level=CELLS, radius=1.5)
    assert int(matches[0, 4 * 8 + 4]) == 1  # the cell at (32, 32)
    assert set(matches.unique().tolist()) == {-1, 1, 0}  # type: ignore[no-untyped-call]
