"""Anchors of a fixed input size, computed once and in float32.

Torchvision computes them anew at every step, in the number format of the feature maps: under mixed precision in
bfloat16, which has no 257.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList


class FixedAnchors(nn.Module):
    """Replaces one of torchvision's generators: the same anchors, kept, in float32 or better."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator
        self._known: dict[object, Tensor] = {}

    def forward(self, images: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Per image [A, 4] xyxy pixels, the same tensor for each.

        Args:
            feature_maps: [N, C, H, W] of each level; only their sizes, device and number format are used.
        """
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            anchors: list[Tensor] = self.generator(images, feature_maps)
            return anchors
        first = feature_maps[0]
        dtype = torch.promote_types(first.dtype, torch.float32)
        sizes = tuple(tuple(one.shape[-2:]) for one in feature_maps)
        key = (tuple(images.tensors.shape[-2:]), sizes, dtype, first.device)
        if key not in self._known:
            with torch.inference_mode(mode=False):  # tensors made in that mode cannot be trained with later
                one = ImageList(torch.empty(1, *images.tensors.shape[1:], device=first.device), images.image_sizes[:1])
                maps = [torch.empty(1, 1, *size, dtype=dtype, device=first.device) for size in sizes]
                (self._known[key],) = self.generator(one, maps)
        return [self._known[key]] * len(images.image_sizes)
