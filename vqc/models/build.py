"""Name -> detector of one fixed input size.

Every detector here takes ``uint8 [N, 3, H, W]`` RGB batches that are already fitted to its size. In training it
also takes targets (``boxes`` float32 [n, 4] xyxy pixels, ``labels`` int64 [n] in 1..C) and returns its loss terms,
scalars by name. In evaluation it returns per image ``boxes`` [m, 4] xyxy pixels, ``scores`` [m] in 0..1 and
``labels`` [m], best first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torchvision.models import WeightsEnum, get_model, get_weight
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import FrozenBatchNorm2d

from vqc.config import TrainConfig
from vqc.errors import ModelError
from vqc.models.anchors import FixedAnchors
from vqc.models.lite import STRIDES, light_detector
from vqc.models.norms import settle_norms
from vqc.models.registry import ARCHITECTURES, check_model, frozen_stages
from vqc.seeding import stream_seed

REDUCED_TAIL = TRAINS_ON_ONE_CELL = ("ssdlite320_mobilenet_v3_large",)  # these train batch norm on maps of one cell
# Modules whose weights are for certain categories.
HEADS = ("roi_heads.box_predictor.", "head.classification_head.cls_logits.", "head.classification_head.module_list.")
WITHOUT_EPS = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn")  # the norms in their COCO weights have an eps of 0
BACKBONES = ("backbone.body.", "backbone.features.")  # the modules that backbone weights are loaded into

# What starts from pretrained statistics, by ``weights``.
PRETRAINED: Mapping[str, Sequence[str]] = {
    "none": (),
    "backbone": BACKBONES,
    "coco": ("backbone.", "roi_heads.box_head.", "head.regression_head."),
}


def build_detector(config: TrainConfig, *, num_classes: int, load_backbone: bool = True) -> nn.Module:
    """The configured detector, initialised from ``config.seed`` alone, on the CPU, in training mode.

    Args:
        num_classes: categories, the background not counted.
        load_backbone: False where all weights are loaded over it anyway; no download is needed then.

    Raises:
        ModelError: an unknown name, or backbone weights asked for that are not available.
    """
    check_model(config.model)
    if config.weights not in PRETRAINED:
        raise ModelError(f"weights: '{config.weights}' must be resolved before a detector is built")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, "init"))
        build = light_detector if config.model in STRIDES else _torchvision
        model: Any = build(config, num_classes + 1, load_backbone=load_backbone)
    settle_norms(model, pretrained=PRETRAINED[config.weights])
    _answer_in_float32(model)
    model.transform = _Normalise(model.transform)
    anchored = getattr(model, "rpn", model)
    anchored.anchor_generator = FixedAnchors(anchored.anchor_generator)
    scorer = getattr(model, "roi_heads", model)
    own_floor = ARCHITECTURES[config.model].score_threshold
    scorer.score_thresh = own_floor if config.score_floor is None else config.score_floor
    _record_loss_count(model)
    return move_detector(model, torch.get_default_device())


def move_detector(model: nn.Module, device: torch.device) -> nn.Module:
    """The detector itself, on the device, its weights channels-last: a GPU's matrix units read them so."""
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def loss_count(model: nn.Module) -> Tensor | int:
    """What the loss terms of the model's last forward pass in training were divided by: cells or images."""
    count: Any = model.loss_count
    return count if isinstance(count, Tensor) else int(count)


def _answer_in_float32(model: Any) -> None:
    """Lift what the heads return to float32: boxes, their non-maximum suppression and all losses are computed from it.

    Torchvision decodes boxes in the number format of the regression, and bfloat16 has no 257.
    """
    heads = (model.rpn.head, model.roi_heads.box_predictor) if hasattr(model, "rpn") else (model.head,)
    for head in heads:
        head.register_forward_hook(lambda _module, _inputs, answers: tree_map(_at_least_float32, answers))


def _at_least_float32(answer: Tensor) -> Tensor:
    return answer.to(torch.promote_types(answer.dtype, torch.float32))


def _record_loss_count(model: Any) -> None:
    """Keep, at each loss, the count it is divided by: of foreground cells (FCOS, SSD), or of images.

    Torchvision computes the count and does not return it; the parts of a batch cannot be weighted without it.
    """
    if isinstance(model, FCOS | SSD):
        owner = model.head if isinstance(model, FCOS) else model
        owner.compute_loss = partial(_counted_loss, model, owner.compute_loss)
    else:
        model.register_forward_pre_hook(_count_images)


def _counted_loss(model: Any, compute: Any, targets: Any, outputs: Any, anchors: Any, matches: Sequence[Tensor]) -> Any:
    model.loss_count = torch.stack([(match >= 0).sum() for match in matches]).sum()
    return compute(targets, outputs, anchors, matches)


def _count_images(model: Any, inputs: tuple[Any, ...]) -> None:
    model.loss_count = len(inputs[0])


def _torchvision(config: TrainConfig, num_classes: int, *, load_backbone: bool) -> Any:
    known, coco = ARCHITECTURES[config.model], config.weights == "coco"
    options: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": num_classes}
    # Where a builder gets backbone weights it freezes norms, as COCO's detectors have them; but COCO's SSDlite has the
    # tail of one that gets none.
    if config.weights == "backbone" or (coco and config.model not in REDUCED_TAIL):
        trained = known.stages - frozen_stages(config)
        options |= {"weights_backbone": known.backbone_weights, "trainable_backbone_layers": trained}
    if config.model in TRAINS_ON_ONE_CELL:
        options["norm_layer"] = partial(_BatchNorm, eps=0.001, momentum=0.03)
    with _backbone_weights(_stored_tensors if load_backbone and not coco else _random_tensors):
        model = get_model(config.model, **options)
    if coco:
        _begin_from_coco(model, config, load=load_backbone)
    return model


def _begin_from_coco(model: nn.Module, config: TrainConfig, *, load: bool) -> None:
    """Load all but the head from torchvision's COCO weights, unless all is loaded over anyway."""
    for layer in model.modules():
        if isinstance(layer, FrozenBatchNorm2d) and config.model in WITHOUT_EPS:
            layer.eps = 0.0
    if load:
        stored = _stored_tensors(get_weight(str(ARCHITECTURES[config.model].coco_weights)), progress=False)
        own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(HEADS)}
        model.load_state_dict({name: one for name, one in stored.items() if not name.startswith(HEADS)} | own)


@contextmanager
def _backbone_weights(read: Callable[..., Any]) -> Iterator[None]:
    """Within it torchvision's builders get their weights from ``read``; they have no parameter for that."""
    original = WeightsEnum.get_state_dict
    WeightsEnum.get_state_dict = read
    try:
        yield
    finally:
        WeightsEnum.get_state_dict = original


_read_weights = WeightsEnum.get_state_dict


def _stored_tensors(weights: WeightsEnum, **options: Any) -> Any:
    """Tensors alone: the builders by themselves would unpickle whatever the file holds."""
    try:
        return _read_weights(weights, **options, weights_only=True)
    except UnpicklingError:
        raise ModelError(f"{weights}: the file in torch's folder holds more than weights; delete it") from None


def _random_tensors(weights: WeightsEnum, **_: object) -> Any:
    """Random tensors for weights that are loaded over next.

    A builder freezes batch norm and keeps SSDlite's full tail only where it gets backbone weights, so a model that
    began with them must be built as if it had them, on machines too that never downloaded them.
    """
    name = str(weights).partition("_Weights")[0].lower()
    return get_model(name, weights=None).state_dict()


class _BatchNorm(nn.BatchNorm2d):
    """Normalises a single value per channel by the running statistics; torch's own refuses to train on one.

    SSDlite's last map is one cell, so an epoch whose last batch is one image would end the run.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            mean, var = self.running_mean, self.running_var
            return nn.functional.batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class _Normalise(nn.Module):
    """Replaces torchvision's transform: the batch has its size already, so it is only normalised.

    Torchvision's resizes, normalises and copies image by image, and transforms boxes back afterwards.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, replaced: Any) -> None:
        super().__init__()
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (replaced.image_mean, replaced.image_std))
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None) -> tuple[ImageList, Any]:
        count, channels, height, width = images.shape
        if images.is_contiguous(memory_format=torch.channels_last):  # by whole rows: on a CPU 5 % of a step of SSDlite
            shift, scale = (value.flatten().repeat(width) for value in (self.shift, self.scale))
            rows = images.permute(0, 2, 3, 1).reshape(count, height, width * channels).to(scale.dtype)
            batch = torch.addcmul(shift, rows, scale).view(count, height, width, channels).permute(0, 3, 1, 2)
        else:
            batch = torch.addcmul(self.shift, images, self.scale)
        return ImageList(batch, [(int(height), int(width))] * count), targets

    def postprocess(self, result: Any, _sizes: Any, _originals: Any) -> Any:
        return result
