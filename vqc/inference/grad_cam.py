"""Grad-CAM: heat over a photograph from the gradient of one detection's score; needs the torch model.

Selvaraju et al., ICCV 2017, on the maps of the feature pyramid, by the library pytorch-grad-cam. Averaging the
gradient over a whole map, as the paper does for one class an image, lights up every defect of the class; here each cell
keeps its own gradient (HiResCAM, Draelos and Carin 2020; for detectors ODAM, Zhao and Chan, ICLR 2023).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqc.boxes import iou
from vqc.inference.saliency import Target, stretched
from vqc.inference.torch_backend import images_to_tensor


def grad_cam(model: nn.Module, image: NDArray[np.uint8], target: Target) -> NDArray[np.float32] | None:
    """Heat of a detection on the map of the feature pyramid that it was read from.

    Args:
        model: any detector of this project; it is left in evaluation mode and otherwise as it was.

    Returns:
        None where the model finds nothing of the target's label that overlaps it.
    """
    from pytorch_grad_cam import HiResCAM

    picture = images_to_tensor(image[None]).to(next(model.parameters()).device)
    score = _ScoreOf(target)
    with _tapped(model.eval()) as pyramid:
        (output,) = model(picture)
        chosen = score(output)
        if not chosen.requires_grad:
            return None
        level = pyramid.level_of(chosen)
        with HiResCAM(model=model, target_layers=[level]) as cam:
            heat = cam(picture, targets=[score])[0]
        model.zero_grad(set_to_none=True)
    return stretched(heat)


class _ScoreOf:
    """The score of the detection that is the target, as a differentiable number."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def __call__(self, output: dict[str, Tensor]) -> Tensor:
        overlaps = iou(self.target.box[None], output["boxes"].detach().cpu().numpy())[0]
        overlaps[output["labels"].cpu().numpy() != self.target.label] = 0.0
        if not overlaps.any():
            return torch.zeros(())
        return output["scores"][int(overlaps.argmax())]


class _Pyramid(nn.Module):
    """A backbone whose maps each pass through a module of their own, so that the library can hook them one by one."""

    def __init__(self, backbone: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.taps = nn.ModuleDict({f"map-{name}": nn.Identity() for name in names})
        self.maps: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.backbone(x)
        self.maps = {name: self.taps[f"map-{name}"](values) for name, values in maps.items()}
        return OrderedDict(self.maps)

    def level_of(self, score: Tensor) -> nn.Module:
        """The map that the score was read from: the only one, or the one with most of the gradient."""
        gradients = torch.autograd.grad(score, list(self.maps.values()), allow_unused=True)
        weights = [0.0 if gradient is None else float(gradient.abs().sum()) for gradient in gradients]
        return self.taps[f"map-{list(self.maps)[int(np.argmax(weights))]}"]


@contextmanager
def _tapped(model: Any) -> Iterator[_Pyramid]:
    backbone = model.backbone
    with torch.inference_mode():
        weights = next(model.parameters())
        names = list(backbone(torch.zeros(1, 3, 64, 64, device=weights.device)))
    model.backbone = pyramid = _Pyramid(backbone, names).eval()
    try:
        yield pyramid
    finally:
        model.backbone = backbone
