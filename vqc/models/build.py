"""Name -> torchvision detector of one fixed input size.

Every detector here takes ``uint8 [N, 3, H, W]`` RGB batches that are already fitted to its size. In training it
also takes targets (``boxes`` float32 [n, 4] xyxy pixels, ``labels`` int64 [n] in 1..C) and returns its loss terms,
scalars by name. In evaluation it returns per image ``boxes`` [m, 4] xyxy pixels, ``scores`` [m] in 0..1 and
``labels`` [m], best first.

``move_detector`` takes one to a device, and is the only place that says how its weights lie in memory there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pickle import UnpicklingError
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from vqc.config import TrainConfig
from vqc.errors import ModelError
from vqc.models.anchors import FixedAnchors
from vqc.models.fcos_head import PairedHead
from vqc.models.fcos_loss import fcos_loss
from vqc.models.lite import fcos_tiny
from vqc.models.pointwise import train_pointwise_as_product
from vqc.models.registry import ARCHITECTURES, check_model
from vqc.seeding import stream_seed

__all__ = ["build_detector", "loss_count", "move_detector"]

BATCH_NORMED = ("ssdlite320_mobilenet_v3_large",)  # train batch norm down to maps of one cell


def build_detector(config: TrainConfig, *, num_classes: int, load_backbone: bool = True) -> nn.Module:
    """The configured detector, initialised from ``config.seed`` alone, on the CPU, in training mode.

    Args:
        num_classes: categories, the background not counted.
        load_backbone: False where all weights are loaded over it anyway; spares the download.

    Raises:
        ModelError: an unknown name, or backbone weights asked for that cannot be had.
    """
    check_model(config.model)
    if config.weights == "auto":
        raise ModelError("weights: 'auto' must be resolved before a detector is built")
    tiny = config.model == "fcos_tiny"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, "init"))
        model = fcos_tiny(num_classes + 1) if tiny else _torchvision(config, num_classes, load_backbone)
    model.transform = _FixedSizeTransform(
        model.transform, cpu_channels_last=ARCHITECTURES[config.model].cpu_channels_last
    )
    if tiny:
        model.head = PairedHead(model.head)
    anchored = getattr(model, "rpn", model)
    anchored.anchor_generator = FixedAnchors(anchored.anchor_generator)
    scorer = getattr(model, "roi_heads", model)
    scorer.score_thresh = ARCHITECTURES[config.model].score_threshold
    _count_losses(model)
    train_pointwise_as_product(model)
    for layer in model.modules():
        if isinstance(layer, nn.Hardswish):
            layer.inplace = False  # its backward pass needs what it would overwrite, so torch copies that first
    return move_detector(model, torch.device("cpu"))


def move_detector(model: Any, device: torch.device) -> nn.Module:
    """The detector itself, on the device and with its weights in the memory format that computes fastest there.

    A GPU wants channels last, whose matrix units read them so; for a CPU it is measured (``vqc.models.registry``).
    Results differ between the formats by rounding alone.

    Args:
        model: from ``build_detector``.
    """
    model.to(device, memory_format=model.transform.memory_format(device))
    head = getattr(model, "head", None)
    if isinstance(head, PairedHead):  # gets its maps plane by plane: a CPU's group norm is slow channels-last
        head.to(memory_format=torch.contiguous_format)
    return model  # type: ignore[no-any-return]


def loss_count(model: nn.Module) -> Tensor | int:
    """What the loss terms of the model's last forward pass in training were averaged over: cells or images."""
    count: Any = model.loss_count
    return count if isinstance(count, Tensor) else int(count)


def _count_losses(model: Any) -> None:
    """Keep, at each loss, the count it is divided by: of foreground cells, or of images.

    Torchvision computes the count and throws it away; without it the parts of a batch cannot be weighed.
    """
    if isinstance(model, FCOS):
        model.compute_loss = partial(_fcos_loss, model)
    elif isinstance(model, SSD):
        model.compute_loss = partial(_ssd_loss, model, model.compute_loss)
    else:
        model.register_forward_pre_hook(_count_images)


def _fcos_loss(model: Any, targets: Any, outputs: Any, anchors: Sequence[Tensor], cells_per_level: Any) -> Any:
    radius = model.center_sampling_radius
    losses, model.loss_count = fcos_loss(
        outputs, targets, anchors=anchors[0], cells_per_level=cells_per_level, radius=radius
    )
    return losses


def _ssd_loss(model: Any, compute: Any, targets: Any, outputs: Any, anchors: Any, matches: Sequence[Tensor]) -> Any:
    model.loss_count = torch.stack([(match >= 0).sum() for match in matches]).sum()
    return compute(targets, outputs, anchors, matches)


def _count_images(model: Any, inputs: tuple[Any, ...]) -> None:
    model.loss_count = len(inputs[0])


def _torchvision(config: TrainConfig, num_classes: int, load_backbone: bool) -> Any:
    wanted = ARCHITECTURES[config.model].backbone_weights if config.weights == "backbone" else None
    with _safe_weights() if load_backbone else _blank_weights():
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


def _safe_weights() -> AbstractContextManager[Any]:
    """Within it torchvision's builders read tensors alone: by themselves they unpickle whatever the file holds."""
    read = WeightsEnum.get_state_dict

    def tensors(weights: Any, **options: Any) -> Any:
        try:
            return read(weights, **options, weights_only=True)
        except UnpicklingError:
            raise ModelError(f"{weights}: the file in torch's folder holds more than weights; delete it") from None

    return mock.patch.object(WeightsEnum, "get_state_dict", tensors)


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

    Args:
        cpu_channels_last: false for a detector that a CPU is to compute plane by plane, images and weights.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, replaced: Any, *, cpu_channels_last: bool) -> None:
        super().__init__()
        self.cpu_channels_last = cpu_channels_last
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (replaced.image_mean, replaced.image_std))
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def memory_format(self, device: torch.device) -> torch.memory_format:
        """In which the weights lie on that device."""
        by_planes = device.type == "cpu" and not self.cpu_channels_last
        return torch.contiguous_format if by_planes else torch.channels_last

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None) -> tuple[ImageList, Any]:
        if self.memory_format(images.device) == torch.contiguous_format:
            images = images.contiguous()  # or every map would follow the image: channels last
        batch = self._by_rows(images) if _is_channels_last(images) else torch.addcmul(self.shift, images, self.scale)
        height, width = images.shape[-2:]
        return ImageList(batch, [(int(height), int(width))] * images.shape[0]), targets

    def _by_rows(self, images: Tensor) -> Tensor:
        """The same for channels-last images, by whole rows instead of threes of numbers: faster on a CPU."""
        count, channels, height, width = images.shape
        shift, scale = (value.flatten().repeat(width) for value in (self.shift, self.scale))
        rows = images.permute(0, 2, 3, 1).reshape(count, height, width * channels).to(scale.dtype)
        return torch.addcmul(shift, rows, scale).view(count, height, width, channels).permute(0, 3, 1, 2)

    def postprocess(self, result: Any, _sizes: Any, _originals: Any) -> Any:
        return result


def _is_channels_last(images: Tensor) -> bool:
    return images.is_contiguous(memory_format=torch.channels_last)
