"""AdamW in groups: a pretrained backbone learns more slowly, and norms and biases do not decay."""

from __future__ import annotations

import torch
from torch import nn

from vqc.config import TrainConfig
from vqc.models.build import BACKBONES


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """The optimiser of all that the model trains; the ``rate_share`` of a group is of the schedule's rate.

    Vectors (norms' weights and biases) do not decay, as in He et al. 2018, "Bag of Tricks", section 3.1.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            pretrained = config.weights != "none" and name.startswith(BACKBONES)
            share = config.backbone_rate if pretrained else 1.0
            decay = config.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((share, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "rate_share": share, "weight_decay": decay}
            for (share, decay), parameters in groups.items()
        ],
        lr=config.learning_rate,
        fused=True,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the schedule's rate of the next step; each group takes its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_share"]
