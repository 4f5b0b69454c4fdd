"""Anchors remembered are the generator's own, and mixed precision does not round them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from vqc.models.anchors import FixedAnchors

KINDS = {
    "grid": AnchorGenerator(((8,), (16,)), ((0.5, 1.0),) * 2),
    "default boxes": DefaultBoxGenerator([[2], [2, 3]], min_ratio=0.2, max_ratio=0.95),
}


def inputs(side: int, *, dtype: torch.dtype = torch.float32, images: int = 2) -> tuple[ImageList, list[Tensor]]:
    maps = [torch.zeros(images, 4, side // stride, side // stride, dtype=dtype) for stride in (8, 16)]
    return ImageList(torch.zeros(images, 3, side, side), [(side, side)] * images), maps


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_the_generators_own_at_every_size(kind: str) -> None:
    fixed = FixedAnchors(KINDS[kind])
    for side in (64, 320, 64):  # back to a size that is known
        expected = KINDS[kind](*inputs(side))
        for own, theirs in zip(fixed(*inputs(side)), expected, strict=True):
            assert torch.equal(own, theirs)


def test_bfloat16_does_not_move_them() -> None:
    fixed = FixedAnchors(KINDS["grid"])
    (own, _), (exact, _) = fixed(*inputs(1024, dtype=torch.bfloat16)), KINDS["grid"](*inputs(1024))
    assert own.dtype == torch.float32
    assert torch.equal(own, exact)


def test_what_evaluation_computed_can_be_trained_with() -> None:
    fixed = FixedAnchors(KINDS["grid"])
    with torch.inference_mode():
        fixed(*inputs(64))
    assert not fixed(*inputs(64))[0].is_inference()
