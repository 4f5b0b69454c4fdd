"""The declared table of detectors; light, so that command lines can check a name without loading torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from vqc.config import TrainConfig
from vqc.data.defect_size import DetectorInput
from vqc.errors import ModelError, nearest


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One detector.

    ``coco_weights``: torchvision's name of weights of the whole detector, None where there are none.
    ``backbone_weights``: the name of the ImageNet weights of its backbone, torchvision's where it has them; None where
    there are none.
    ``finest_stride_px``: pixels of the input for a cell of its finest feature map.
    ``stages``: of the backbone, from the input on; the first ``frozen_stages`` keep pretrained weights unless the
    configuration says how many.
    ``score_threshold``: detections below it are not returned.
    ``convolves_proposals``: convolutions work on as many maps as there are proposals, which varies.
    ``for_tests``: too weak for use.
    """

    coco_weights: str | None = None
    backbone_weights: str | None
    finest_stride_px: int
    stages: int = 0
    frozen_stages: int = 0
    score_threshold: float = 0.05
    convolves_proposals: bool = False
    note: str
    for_tests: bool = False


_resnet50 = partial(
    Architecture, backbone_weights="ResNet50_Weights.IMAGENET1K_V1", finest_stride_px=8, stages=5, frozen_stages=2
)
_faster = partial(_resnet50, finest_stride_px=4)
_mobilenet = partial(
    Architecture,
    backbone_weights="MobileNet_V3_Large_Weights.IMAGENET1K_V1",
    finest_stride_px=32,
    stages=6,
    frozen_stages=3,
)
_lite0 = partial(
    Architecture,
    backbone_weights="EfficientNet_Lite0_Weights.IMAGENET1K",
    finest_stride_px=8,
    stages=8,
    frozen_stages=3,
)

ARCHITECTURES: Mapping[str, Architecture] = {
    "fcos_lite0": _lite0(note="3.3 million parameters, one stage without anchors: for a CPU or a small GPU"),
    "fcos_lite0_fine": _lite0(
        finest_stride_px=4, stages=6, note="the same with twice as fine maps, for defects of a few pixels"
    ),
    "fasterrcnn_resnet50_fpn": _faster(
        coco_weights="FasterRCNN_ResNet50_FPN_Weights.COCO_V1", note="the guide's choice: two stages, accurate, heavy"
    ),
    "fasterrcnn_resnet50_fpn_v2": _faster(
        coco_weights="FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1",
        convolves_proposals=True,
        note="deeper heads with norms",
    ),
    "fasterrcnn_mobilenet_v3_large_fpn": _mobilenet(
        coco_weights="FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1", note="two stages on a light backbone"
    ),
    "fasterrcnn_mobilenet_v3_large_320_fpn": _mobilenet(
        coco_weights="FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1",
        note="the same with fewer proposals, for small images",
    ),
    "retinanet_resnet50_fpn": _resnet50(
        coco_weights="RetinaNet_ResNet50_FPN_Weights.COCO_V1", note="one stage, focal loss"
    ),
    "retinanet_resnet50_fpn_v2": _resnet50(
        coco_weights="RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1", note="group norm heads, GIoU loss"
    ),
    "fcos_resnet50_fpn": _resnet50(coco_weights="FCOS_ResNet50_FPN_Weights.COCO_V1", note="one stage without anchors"),
    "ssdlite320_mobilenet_v3_large": _mobilenet(
        coco_weights="SSDLite320_MobileNet_V3_Large_Weights.COCO_V1",
        finest_stride_px=16,
        frozen_stages=0,
        score_threshold=0.01,
        note="the fastest of torchvision",
    ),
    "fcos_tiny": Architecture(
        backbone_weights=None, finest_stride_px=8, note="0.6 million parameters, trained in a second", for_tests=True
    ),
}
OFFERED = tuple(name for name, architecture in ARCHITECTURES.items() if not architecture.for_tests)


def check_model(name: str) -> None:
    """Raise ``ModelError`` with the nearest right name unless ``name`` is a detector."""
    if name not in ARCHITECTURES:
        raise ModelError(
            f"model: got '{name}', expected one of {', '.join(OFFERED)}{nearest(name, OFFERED)}",
            command="vqc models",
        )


def detector_input(config: TrainConfig) -> DetectorInput:
    """What the configured detector sees of a photograph.

    Raises:
        ModelError: there is no such detector.
    """
    check_model(config.model)
    stride_px = ARCHITECTURES[config.model].finest_stride_px
    return DetectorInput(size=config.image_size, tile_px=config.tile_px, stride_px=stride_px)


def frozen_stages(config: TrainConfig) -> int:
    """How many stages of its backbone keep their pretrained weights: as configured, else as usual for the detector."""
    known = ARCHITECTURES[config.model]
    return known.frozen_stages if config.frozen_stages is None else min(config.frozen_stages, known.stages)
