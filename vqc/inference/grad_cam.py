"""Grad-CAM: heat over a photograph from the gradient of one detection's score; needs the torch model.

Selvaraju et al., ICCV 2017, on the maps of the feature pyramid. Averaging the gradient over a whole map, as the paper
does for one class an image, lights up every defect of the class; here each cell keeps its own gradient (HiResCAM,
Draelos and Carin 2020; for detectors ODAM, Zhao and Chan, ICLR 2023).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqc.boxes import iou
from vqc.inference.detections import Detections
from vqc.inference.saliency import stretched
from vqc.inference.torch_backend import images_to_tensor


def grad_cam(model: Any, image: NDArray[np.uint8], target: Detections) -> NDArray[np.float32] | None:
    """Heat of one detection on the map of the feature pyramid that it was read from.

    Args:
        model: any detector of this project; it is left in evaluation mode and otherwise as it was.

    Returns:
        None where the model finds nothing of the target's label that overlaps it.
    """
    import cv2

    maps: dict[str, Tensor] = {}
    hook = model.backbone.register_forward_hook(lambda module, images, output: maps.update(output))
    try:
        (output,) = model.eval()(images_to_tensor(image[None]).to(next(model.parameters()).device))
    finally:
        hook.remove()
    overlaps = iou(target.boxes, output["boxes"].detach().cpu().numpy())[0]
    overlaps[output["labels"].cpu().numpy() != target.labels] = 0.0
    if not overlaps.any():
        return None
    score = output["scores"][int(overlaps.argmax())]
    gradients = torch.autograd.grad(score, list(maps.values()), allow_unused=True)
    used = [(gradient, map_) for gradient, map_ in zip(gradients, maps.values(), strict=True) if gradient is not None]
    gradient, map_ = max(used, key=lambda pair: float(pair[0].abs().sum()))  # the map that the score was read from
    heat = (gradient * map_).sum(dim=1)[0].relu().detach().cpu().numpy()
    return stretched(cv2.resize(heat, image.shape[1::-1]))
