"""Small factories for tests: detectors that find something without having been trained."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vqc.config import TrainConfig
from vqc.inference.onnx_export import export_onnx
from vqc.models.build import build_detector
from vqc.models.checkpoint import ModelInfo, save_model

CATEGORIES = ((3, "scratch"), (7, "dent"), (9, "Fleck, groß"))
SIZE = (96, 128)
Pixels = NDArray[np.uint8]


def picture(seed: int, size: tuple[int, int] = SIZE) -> Pixels:
    """Smooth blobs [H, W, 3]."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (size[1], size[0]), interpolation=cv2.INTER_CUBIC))


def decided(name: str, size: tuple[int, int]) -> tuple[nn.Module, ModelInfo]:
    """A detector with random weights that nevertheless has opinions: activations normalised, scores that differ.

    As initialised, deep ones return hundreds of boxes of one score, and which of them are kept is chance.
    """
    config = TrainConfig(model=name, weights="none", image_size=size)
    model = build_detector(config, num_classes=len(CATEGORIES))
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
    info = ModelInfo(config=config, categories=CATEGORIES, fingerprint="f" * 64, epoch=3)
    return model.eval(), info


def write_models(folder: Path) -> tuple[Path, Path]:
    """``model.safetensors`` and ``model.onnx`` of one such detector; returns their paths."""
    model, info = decided("fcos_tiny", SIZE)
    save_model(folder / "model.safetensors", model, info)
    export_onnx(model, info, folder / "model.onnx")
    return folder / "model.safetensors", folder / "model.onnx"
