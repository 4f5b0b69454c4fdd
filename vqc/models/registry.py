"""The declared table of detectors; light, so that command lines can check a name without loading torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vqc.errors import ModelError, nearest


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One detector.

    ``backbone_weights``: torchvision's name of the ImageNet weights of its backbone, None where there are none.
    ``score_threshold``: detections below it are not returned.
    """

    backbone_weights: str | None
    score_threshold: float = 0.05
    note: str


ARCHITECTURES: Mapping[str, Architecture] = {
    "fasterrcnn_resnet50_fpn": Architecture(
        backbone_weights="ResNet50_Weights.IMAGENET1K_V1", note="the guide's choice: two stages, accurate, heavy"
    ),
    "fasterrcnn_resnet50_fpn_v2": Architecture(
        backbone_weights="ResNet50_Weights.IMAGENET1K_V1", note="deeper heads with norms"
    ),
    "fasterrcnn_mobilenet_v3_large_fpn": Architecture(
        backbone_weights="MobileNet_V3_Large_Weights.IMAGENET1K_V1", note="two stages on a light backbone"
    ),
    "fasterrcnn_mobilenet_v3_large_320_fpn": Architecture(
        backbone_weights="MobileNet_V3_Large_Weights.IMAGENET1K_V1",
        note="the same with fewer proposals, for small images",
    ),
    "retinanet_resnet50_fpn": Architecture(
        backbone_weights="ResNet50_Weights.IMAGENET1K_V1", note="one stage, focal loss"
    ),
    "retinanet_resnet50_fpn_v2": Architecture(
        backbone_weights="ResNet50_Weights.IMAGENET1K_V1", note="group norm heads, GIoU loss"
    ),
    "fcos_resnet50_fpn": Architecture(
        backbone_weights="ResNet50_Weights.IMAGENET1K_V1", note="one stage without anchors"
    ),
    "ssdlite320_mobilenet_v3_large": Architecture(
        backbone_weights="MobileNet_V3_Large_Weights.IMAGENET1K_V1",
        score_threshold=0.01,
        note="the fastest of torchvision",
    ),
    "fcos_tiny": Architecture(
        backbone_weights=None, note="0.6 million parameters, trained from random weights: for a CPU"
    ),
}


def check_model(name: str) -> None:
    """Raise ``ModelError`` with the nearest right name unless ``name`` is a detector."""
    if name not in ARCHITECTURES:
        raise ModelError(
            f"model: got '{name}', expected one of {', '.join(ARCHITECTURES)}{nearest(name, ARCHITECTURES)}",
            command="vqc models",
        )
