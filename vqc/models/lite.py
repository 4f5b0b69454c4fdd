"""The light detectors: torchvision's FCOS over three small maps, and a backbone of 0.6 million parameters for tests."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.ops import FeaturePyramidNetwork

from vqc.config import TrainConfig
from vqc.models.efficientnet_lite import lite0_pyramid
from vqc.models.registry import frozen_stages

CHANNELS = 64
STRIDES = {"fcos_lite0": (8, 16, 32), "fcos_lite0_fine": (4, 8, 16), "fcos_tiny": (8, 16, 32)}
FIRST_DISTANCE = 1.5  # in strides, from a cell to each side of its box: at torchvision's 0 the ReLU passes no gradient


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels), _conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.body(x))


class _TinyBackbone(nn.Module):
    """Plain convolutions to strides 8 and 16 and a small feature pyramid over them.

    Input float [N, 3, H, W]; output maps at strides 8, 16 and 32 with ``out_channels`` channels, plane by
    plane in memory.
    """

    out_channels = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, 16, 2), _conv(16, 32, 2), _Residual(32))
        self.stride8 = nn.Sequential(_conv(32, 64, 2), _Residual(64))
        self.stride16 = nn.Sequential(_conv(64, 96, 2), _Residual(96))
        self.pyramid = FeaturePyramidNetwork([64, 96], self.out_channels)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        finer = self.stride8(self.stem(x))
        maps: OrderedDict[str, Tensor] = self.pyramid(OrderedDict([("0", finer), ("1", self.stride16(finer))]))
        maps["pool"] = nn.functional.max_pool2d(maps["1"], 1, stride=2)
        return OrderedDict((name, one.contiguous()) for name, one in maps.items())


def light_detector(config: TrainConfig, num_classes: int, *, load_backbone: bool) -> FCOS:
    """One of ``STRIDES``, its random weights from torch's global stream, behind torchvision's own transform.

    Args:
        num_classes: the background counted.
        load_backbone: False where pretrained weights are loaded over anyway.
    """
    strides, pixels = STRIDES[config.model], {}
    if config.model == "fcos_tiny":
        backbone: nn.Module = _TinyBackbone()
    else:
        pretrained = config.weights != "none"
        frozen = frozen_stages(config)
        backbone = lite0_pyramid(
            strides, channels=CHANNELS, pretrained=pretrained, load=load_backbone, frozen_stages=frozen
        )
        pixels = {"image_mean": [127 / 255] * 3, "image_std": [128 / 255] * 3}
    anchors = AnchorGenerator([(stride,) for stride in strides], [(1.0,)] * len(strides))
    head = FCOSHead(CHANNELS, 1, num_classes, num_convs=2)
    nn.init.constant_(head.regression_head.bbox_reg.bias, FIRST_DISTANCE)
    return FCOS(backbone, num_classes, anchor_generator=anchors, head=head, topk_candidates=300, **pixels)
