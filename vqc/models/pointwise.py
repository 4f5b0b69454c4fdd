"""1 x 1 convolutions as what they are, one product of matrices, where a CPU trains them.

Called by ``vqc.models.build``. With one thread torch computes such a convolution image by image, and in the backward
pass adds to matrices that it has cleared before. With the channels last in memory the whole batch is one matrix
already.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

__all__ = ["train_pointwise_as_product"]


class _Pointwise(nn.Conv2d):
    """[N, C, H, W] -> [N, D, H, W]. In evaluation, on a GPU and plane by plane it is torch's own convolution."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu" or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        return linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def train_pointwise_as_product(model: nn.Module) -> None:
    """Let every 1 x 1 convolution of the model be computed so; parameters and their names stay."""
    for layer in model.modules():
        plain = type(layer) is nn.Conv2d and (layer.stride, layer.padding, layer.groups) == ((1, 1), (0, 0), 1)
        if plain and layer.kernel_size == (1, 1):
            layer.__class__ = _Pointwise
