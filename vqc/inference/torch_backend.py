"""Detectors run by torch: a batch of fitted images in, ``Detections`` out; training and prediction share it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqc.errors import ModelError
from vqc.hardware.memory import free_memory, may_be_out_of_memory
from vqc.hardware.precision import Precision
from vqc.inference.detections import Detections
from vqc.inference.predictor import Predictor, cpu_label
from vqc.models.build import move_detector
from vqc.models.checkpoint import ModelInfo, weights_sha256

MOST_IMAGES = 16  # at once, while they fit into memory


def detect_batch(model: nn.Module, images: Tensor, precision: Precision) -> list[Detections]:
    """Detections, with raw scores and in pixels of the fitted images, on each of uint8 [N, 3, H, W] RGB.

    The CPU waits for the GPU here, three times a batch, not an image. The model is in evaluation mode, on the device of
    ``precision``.
    """
    with torch.inference_mode(), precision.autocast():
        outputs = model(images.to(precision.device, non_blocking=True))
    ends = np.cumsum([len(output["scores"]) for output in outputs])[:-1]
    boxes, scores, labels = (
        np.split(torch.cat([output[name] for output in outputs]).to(kind).cpu().numpy(), ends)
        for name, kind in (("boxes", torch.float32), ("scores", torch.float32), ("labels", torch.int64))
    )
    return [Detections.from_output(*one) for one in zip(boxes, scores, labels, strict=True)]


def images_to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """[N, H, W, 3] -> [N, 3, H, W]; a copy, because cached images are read-only."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)


def torch_predictor(model: nn.Module, info: ModelInfo, *, precision: Precision | None = None) -> Predictor:
    """The predictor of a model, which is moved to the device and put into evaluation mode.

    Without a ``precision`` it computes in float32, on the GPU where there is one.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Predictor(
        detect_fitted=_TorchBackend(model, precision or Precision(device=device, dtype=torch.float32)),
        architecture=info.config.model,
        categories=info.categories,
        image_size=info.config.image_size,
        tiles=info.tiles,
        fingerprint=info.fingerprint,
        epoch=info.epoch,
        weights_sha256=weights_sha256(model),
        model=model,
    )


class _TorchBackend:
    """Where memory runs out, fewer images at once; where a GPU does not hold one, because others use it, the CPU."""

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        self._model = move_detector(model, precision.device).eval()
        self._precision = precision
        self._most_images = MOST_IMAGES

    @property
    def device(self) -> str:
        if self._precision.device.type == "cpu":
            return cpu_label(torch.get_num_threads())
        return torch.cuda.get_device_name(self._precision.device)

    def __call__(self, images: NDArray[np.uint8]) -> list[Detections]:
        found: list[Detections] = []
        while len(found) < len(images):
            part = images[len(found) : len(found) + self._most_images]
            try:
                found += detect_batch(self._model, images_to_tensor(part), self._precision)
                continue
            except (RuntimeError, MemoryError) as error:
                if not may_be_out_of_memory(error):
                    raise
            free_memory()  # outside of the handler: the error's traceback holds the tensors that did not fit
            if len(part) > 1:
                self._most_images = len(part) // 2
            elif self._precision.device.type != "cpu":
                self._precision = Precision(device=torch.device("cpu"), dtype=torch.float32)
                move_detector(self._model, self._precision.device)
                free_memory()
            else:
                size = f"{part.shape[2]} x {part.shape[1]} px"
                raise ModelError(f"one image of {size} does not fit into memory; close other programs")
        return found
