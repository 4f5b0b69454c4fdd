"""Both branches of FCOS's small head at once.

Called by ``vqc.models.build`` for ``fcos_tiny``. Torchvision's head computes classes and boxes one after the other, in
convolutions of 64 channels. On a CPU half as many of twice the width are faster, and so are outputs padded to a
multiple of eight beside the four that the boxes need and the one of their centreness.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm, relu
from torchvision.models.detection.fcos import FCOSHead

__all__ = ["PairedHead"]

CHANNELS_AT_ONCE = 8  # float32 numbers in one of AVX2's registers
BOX_OUTPUTS = 5  # four sides and the centreness


class PairedHead(nn.Module):
    """Stands in for torchvision's head: the same parameters under the same names, the same outputs."""

    def __init__(self, head: FCOSHead) -> None:
        super().__init__()
        self.classification_head: Any = head.classification_head
        self.regression_head: Any = head.regression_head

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """Over all A cells of all levels: ``cls_logits`` [N, A, C], ``bbox_regression`` [N, A, 4], not negative, and
        ``bbox_ctrness`` [N, A, 1].

        Args:
            maps: float [N, channels, H, W] of each level.
        """
        classes, boxes = self.classification_head, self.regression_head
        count = classes.num_classes
        width = -(-max(count, BOX_OUTPUTS) // CHANNELS_AT_ONCE) * CHANNELS_AT_ONCE
        pairs = zip(classes.conv, boxes.conv, strict=True)
        hidden = [(one, _joined(one, other)) for one, other in pairs if not isinstance(one, nn.ReLU)]
        to_classes = _joined(classes.cls_logits, missing=width - count)
        to_boxes = _joined(boxes.bbox_reg, boxes.bbox_ctrness, missing=width - BOX_OUTPUTS)
        weight, bias = (torch.cat(pair) for pair in zip(to_classes, to_boxes, strict=True))
        rows = []
        for x in maps:
            branches = 1  # the first convolution of both has the same input
            for layer, parameters in hidden:
                if isinstance(layer, nn.GroupNorm):
                    x = group_norm(x, 2 * layer.num_groups, *parameters, eps=layer.eps).relu_()
                else:
                    x = conv2d(x, *parameters, padding=1, groups=branches)
                    branches = 2
            rows.append(conv2d(x, weight, bias, padding=1, groups=2).flatten(2).transpose(1, 2))
        outputs = torch.cat(rows, dim=1)
        return {
            "cls_logits": outputs[..., :count],
            "bbox_regression": relu(outputs[..., width : width + 4]),
            "bbox_ctrness": outputs[..., width + 4 : width + BOX_OUTPUTS],
        }


def _joined(*layers: Any, missing: int = 0) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layers as those of one; so many more of its outputs are zero."""
    weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
    if missing:
        weight = torch.cat([weight, weight.new_zeros(missing, *weight.shape[1:])])
        bias = torch.cat([bias, bias.new_zeros(missing)])
    return weight, bias
