"""Normalisation that treats each image by itself, in the number format of its input.

Batch norm that trains takes its statistics from whatever images are computed together, and micro-batches are small. So
a detector with pretrained weights trains none: see ``settle_norms``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

CHANNELS_PER_GROUP = 16  # Wu and He 2018, "Group Normalization", table 3


class FrozenNorm(FrozenBatchNorm2d):  # type: ignore[misc]
    """Batch norm with fixed statistics and weights: one multiply-add in the input's number format.

    Torchvision's multiplies by float32 buffers, so under autocast its outputs, which are saved for the backward pass,
    are float32. The names of the buffers and ``eps`` are torchvision's; some of its weights are for an ``eps`` of 0.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] of any floating dtype to the same shape and dtype."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = torch.addcmul(self.bias, self.running_mean, scale, value=-1)
        scale, shift = (each.to(x.dtype).view(-1, 1, 1) for each in (scale, shift))
        return torch.addcmul(shift, x, scale)


class GroupNorm(nn.GroupNorm):
    """Group norm in the input's number format; its statistics are float32 in any (torch's kernels accumulate so).

    Autocast on CUDA lifts torch's to float32, and with it all that is saved for the backward pass.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] of any floating dtype to the same shape and dtype."""
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return nn.functional.group_norm(x, self.num_groups, weight, bias, self.eps)


def settle_norms(model: nn.Module, *, pretrained: Sequence[str]) -> None:
    """Replace, in place, the norms of a detector by those of this module.

    - Norms with pretrained statistics are frozen: batches here are too small to improve on them.
    - In a detector that has some, the batch norms that start at random become group norms: they must learn, and an
      image's result must not depend on the others of its micro-batch.
    - A detector without pretrained weights keeps its batch norms: frozen ones would normalise nothing.

    Args:
        pretrained: the modules with pretrained weights, by the beginnings of their names; none: all is random.
    """
    for name, layer in list(model.named_modules()):
        settled = _settled(layer, frozen=name.startswith(tuple(pretrained)), any_frozen=bool(pretrained))
        if settled is not None:
            model.set_submodule(name, settled)


def _settled(layer: nn.Module, *, frozen: bool, any_frozen: bool) -> nn.Module | None:
    """What replaces a layer; None where it stays."""
    if isinstance(layer, nn.GroupNorm):
        norm: nn.Module = GroupNorm(layer.num_groups, layer.num_channels, eps=layer.eps)
    elif isinstance(layer, FrozenBatchNorm2d):
        norm = FrozenNorm(len(layer.weight), eps=layer.eps)
    elif isinstance(layer, nn.BatchNorm2d) and frozen:
        norm = FrozenNorm(layer.num_features, eps=layer.eps)
    elif isinstance(layer, nn.BatchNorm2d) and any_frozen:
        return GroupNorm(layer.num_features // CHANNELS_PER_GROUP, layer.num_features)
    else:
        return None
    norm.load_state_dict(layer.state_dict())
    return norm
