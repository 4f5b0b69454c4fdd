"""Small factories for tests: detectors that find something without having been trained."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vqc.config import TrainConfig
from vqc.inference.calibration import Calibration, Curve, OperatingPoint, Proportion
from vqc.inference.detections import Detections
from vqc.inference.model_file import open_predictor
from vqc.inference.onnx_export import export_onnx
from vqc.inference.predictor import Predictor
from vqc.models.build import build_detector
from vqc.models.checkpoint import ModelInfo, save_model

CATEGORIES = ((3, "scratch"), (7, "dent"), (9, "Fleck, groß"))
SIZE = (96, 128)
Pixels = NDArray[np.uint8]


def picture(seed: int, size: tuple[int, int] = SIZE) -> Pixels:
    """Smooth blobs [H, W, 3]."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (size[1], size[0]), interpolation=cv2.INTER_CUBIC))


def decided(
    name: str, size: tuple[int, int], *, categories: tuple[tuple[int, str], ...] = CATEGORIES
) -> tuple[nn.Module, ModelInfo]:
    """A detector with random weights that nevertheless has opinions: activations normalised, scores that differ.

    As initialised, deep ones return hundreds of boxes of one score, and which of them are kept is chance.
    """
    config = TrainConfig(model=name, weights="none", image_size=size)
    model = build_detector(config, num_classes=len(categories))
    pictures = torch.from_numpy(np.stack([picture(seed, size) for seed in range(4)])).permute(0, 3, 1, 2)
    target = {"boxes": torch.tensor([[10.0, 10.0, 60.0, 50.0]]), "labels": torch.tensor([1])}
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    heads = [p for key, p in model.named_parameters() if ("head" in key or "predictor" in key) and p.dim() > 1]
    torch.manual_seed(0)
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None  # the mean over all batches so far
            norm.reset_running_stats()
        for _ in range(2):
            model.train()(pictures, [target] * 4)
        for weights in heads:
            weights += 2 * torch.randn_like(weights) * weights.std()
    info = ModelInfo(config=config, categories=categories, fingerprint="f" * 64, epoch=3)
    return model.eval(), info


def calibration(model: Path, *, thresholds: tuple[float, ...] = (0.5, 0.5, 0.5), reached: bool = True) -> Calibration:
    """A calibration of a model's file that halves the logit of every score."""
    point = OperatingPoint(
        max_escape=0.01, thresholds=thresholds, per_class=True, reached=reached, tolerated=0,
        escape=Proportion(count=0, total=40), overkill=Proportion(count=1, total=40),
    )  # fmt: skip
    return Calibration(
        model_file=model.name, weights_sha256=open_predictor(model).weights_sha256, data_fingerprint="f" * 64,
        categories=CATEGORIES, method="platt", curves=(Curve(method="platt", slope=0.5),) * 3, operating_point=point,
    )  # fmt: skip


class StubBackend:
    """A backend that returns the same detections on every image, and remembers how many it was asked for."""

    device = "CPU, 1 thread"

    def __init__(self, found: Detections | None = None) -> None:
        self.found = found or Detections.none()
        self.images = 0

    def __call__(self, images: NDArray[np.uint8]) -> list[Detections]:
        self.images += len(images)
        return [self.found] * len(images)


def stub_predictor(backend: StubBackend | None = None) -> Predictor:
    """A predictor around a stub."""
    return Predictor(
        detect_fitted=backend or StubBackend(),
        architecture="stub",
        categories=CATEGORIES,
        image_size=SIZE,
        fingerprint="",
        epoch=1,
        weights_sha256="",
    )


def write_models(folder: Path, *, model: str = "fcos_tiny", size: tuple[int, int] = SIZE) -> tuple[Path, Path]:
    """``model.safetensors`` and ``model.onnx`` of one such detector; returns their paths."""
    detector, info = decided(model, size)
    save_model(folder / "model.safetensors", detector, info)
    export_onnx(detector, info, folder / "model.onnx")
    return folder / "model.safetensors", folder / "model.onnx"
