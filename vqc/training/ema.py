"""The exponential moving average of a run's weights, which is steadier than the weights of its last step.

Polyak and Juditsky 1992; with the decay as below in Ultralytics, timm and torchvision's references.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


def first_average(model: nn.Module) -> nn.Module:
    """A copy of the model, in evaluation mode, that no optimiser changes."""
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def move_average(average: nn.Module, model: nn.Module, *, decay: float, step: int) -> None:
    """Move the average's weights and running statistics towards the model's.

    After step ``step``, counted from 0, the old average keeps the share min(decay, (1 + step) / (10 + step)): the first
    weights, which know nothing yet, are soon forgotten.
    """
    kept = min(decay, (1 + step) / (10 + step))
    current = model.state_dict()
    pairs = [(one, current[name]) for name, one in average.state_dict().items() if one.is_floating_point()]
    averaged, latest = zip(*pairs, strict=True)
    torch._foreach_lerp_(averaged, latest, 1 - kept)
