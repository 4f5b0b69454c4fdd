"""Name -> torchvision detector of one fixed input size, and the weights it starts from.

Every detector here takes ``uint8 [N, 3, H, W]`` RGB batches that are already fitted to its size. In training it
also takes targets (``boxes`` float32 [n, 4] xyxy pixels, ``labels`` int64 [n] in 1..C) and returns its loss terms,
scalars by name. In evaluation it returns per image ``boxes`` [m, 4] xyxy pixels, ``scores`` [m] in 0..1 and
``labels`` [m], best first.
"""

from __future__ import annotations

import contextlib
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model, get_weight
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import FeaturePyramidNetwork

from vqc.architectures import ARCHITECTURES, check_model
from vqc.config import TrainConfig
from vqc.errors import ModelError
from vqc.randomness import stream_seed

__all__ = ["build_detector", "loss_count", "resolve_weights"]

PROBE_TIMEOUT_S = 10.0
BATCH_NORMED = ("ssdlite320_mobilenet_v3_large",)  # train batch norm down to maps of one cell
FIRST_DISTANCE = 1.5  # in strides, from a cell to each side of its box: at torchvision's 0 the ReLU passes no gradient


def build_detector(config: TrainConfig, *, num_classes: int, load_backbone: bool = True) -> nn.Module:
    """The configured detector, initialised from ``config.seed`` alone, on the CPU, channels-last, in training mode.

    Args:
        num_classes: categories, the background not counted.
        load_backbone: False where all weights are loaded over it anyway; spares the download.

    Raises:
        ModelError: an unknown name, or backbone weights asked for that cannot be had.
    """
    check_model(config.model)
    if config.weights == "auto":
        raise ModelError("weights: 'auto' must be resolved before a detector is built")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, "init"))
        model = _tiny(num_classes) if config.model == "fcos_tiny" else _torchvision(config, num_classes, load_backbone)
    model.transform = _FixedSizeTransform(model.transform)
    scorer = getattr(model, "roi_heads", model)
    scorer.score_thresh = ARCHITECTURES[config.model].score_threshold
    _count_losses(model)
    return model.to(memory_format=torch.channels_last)  # type: ignore[no-any-return]


def loss_count(model: nn.Module) -> Tensor | int:
    """What the loss terms of the model's last forward pass in training were averaged over: cells or images."""
    count: Any = model.loss_count
    return count if isinstance(count, Tensor) else int(count)


def _count_losses(model: Any) -> None:
    """Keep, at each loss, the count it is divided by: of foreground cells, or of images.

    Torchvision computes the count and throws it away; without it the parts of a batch cannot be weighed.
    """
    owner = model.head if isinstance(model, FCOS) else model
    if isinstance(model, FCOS | SSD):
        compute = owner.compute_loss

        def counted(targets: Any, outputs: Any, anchors: Any, matches: Sequence[Tensor]) -> Any:
            model.loss_count = torch.stack([(match >= 0).sum() for match in matches]).sum()
            return compute(targets, outputs, anchors, matches)

        owner.compute_loss = counted
    else:
        model.register_forward_pre_hook(_count_images)


def _count_images(model: Any, inputs: tuple[Any, ...]) -> None:
    model.loss_count = len(inputs[0])


def resolve_weights(config: TrainConfig) -> tuple[TrainConfig, str]:
    """The configuration with ``weights`` decided, and one sentence that says how.

    Downloads the backbone's weights where they are wanted and not there yet, so that no trial has to.

    Raises:
        ModelError: ``weights`` is 'backbone' and they cannot be had.
    """
    check_model(config.model)
    wanted = ARCHITECTURES[config.model].backbone_weights
    if config.weights == "none" or wanted is None:
        if config.weights == "backbone":
            raise ModelError(f"weights: there are no backbone weights for '{config.model}', expected 'none' or 'auto'")
        return config.model_copy(update={"weights": "none"}), "random initial weights"
    problem = _fetch(wanted)
    if problem is None:
        return config.model_copy(update={"weights": "backbone"}), f"backbone weights {wanted}"
    where = f"{wanted} is neither in {_weights_folder()} nor on the network ({problem})"
    if config.weights == "backbone":
        raise ModelError(f"weights: {where}; expected them there, or 'weights': 'none'")
    return config.model_copy(update={"weights": "none"}), f"random initial weights: {where}"


def _weights_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _fetch(name: str) -> str | None:
    """Put the named weights into torch's folder; None when they are there, else what went wrong."""
    weights = get_weight(name)
    if (_weights_folder() / weights.url.rsplit("/", 1)[-1]).exists():
        return None
    try:
        with urllib.request.urlopen(urllib.request.Request(weights.url, method="HEAD"), timeout=PROBE_TIMEOUT_S):
            pass
        weights.get_state_dict(progress=False, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        return str(getattr(error, "reason", error))
    return None


def _torchvision(config: TrainConfig, num_classes: int, load_backbone: bool) -> Any:
    wanted = ARCHITECTURES[config.model].backbone_weights if config.weights == "backbone" else None
    with contextlib.nullcontext() if load_backbone else _blank_weights():
        own = {"norm_layer": partial(_BatchNorm, eps=0.001, momentum=0.03)} if config.model in BATCH_NORMED else {}
        return get_model(config.model, weights=None, weights_backbone=wanted, num_classes=num_classes + 1, **own)


class _BatchNorm(nn.BatchNorm2d):
    """Normalises a single value per channel by the running statistics; torch's own refuses to train on one.

    SSDlite's last map is one cell, so an epoch whose last batch is one image would end the run.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            mean, var = self.running_mean, self.running_var
            return nn.functional.batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def _blank_weights() -> AbstractContextManager[Any]:
    """Within it torchvision's builders get random tensors for weights they would download.

    Whether a builder freezes batch norm or reduces a tail depends on being given backbone weights, so a model
    whose own weights are loaded next must be built as if it had them; a machine that only runs it need not have them.
    """

    def blank(weights: Any, **_: object) -> Any:
        name = str(weights).partition("_Weights")[0].lower()
        return get_model(name, weights=None).state_dict()

    return mock.patch.object(WeightsEnum, "get_state_dict", blank)


class _FixedSizeTransform(nn.Module):
    """Stands in for torchvision's own transform: the batch has its size already, so it is only normalised.

    torchvision's resizes, normalises and copies image by image, and back-transforms boxes afterwards.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, replaced: Any) -> None:
        super().__init__()
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (replaced.image_mean, replaced.image_std))
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None) -> tuple[ImageList, Any]:
        batch = torch.addcmul(self.shift, images, self.scale)
        height, width = images.shape[-2:]
        return ImageList(batch, [(int(height), int(width))] * images.shape[0]), targets

    def postprocess(self, result: Any, _sizes: Any, _originals: Any) -> Any:
        return result


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

    Input float [N, 3, H, W]; output maps at strides 8, 16 and 32 with ``out_channels`` channels.
    """

    out_channels = 64

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
        return maps


def _tiny(num_classes: int) -> Any:
    anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    backbone = _TinyBackbone()
    head = FCOSHead(backbone.out_channels, 1, num_classes + 1, num_convs=2)
    nn.init.constant_(head.regression_head.bbox_reg.bias, FIRST_DISTANCE)
    return FCOS(backbone, num_classes + 1, anchor_generator=anchors, head=head, topk_candidates=300)
