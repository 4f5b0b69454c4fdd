"""What a training step saves for its backward pass, in MB an image, in each number format.

    python tests/benchmarks/saved_bytes.py [--size 512] [--models NAME ...]

Two tables. On the CPU: whole steps, losses included, by the rules of the CPU's autocast. By CUDA's rules, which lift
more operations to float32: backbone and heads alone, on tensors without content, so that no GPU is needed. The
detectors are built as users run them, with the structure that backbone weights bring. An image's share is what a
second image adds, so the weights and their copies are not in it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from vqc.config import TrainConfig
from vqc.models.build import build_detector
from vqc.models.registry import ARCHITECTURES

FORMATS = (torch.float32, torch.float16, torch.bfloat16)
PROPOSALS = 512  # that torchvision's Faster R-CNN samples from an image
MB = 1e6


def detector(name: str, size: int) -> nn.Module:
    """With the structure that users run, and random weights."""
    weights = "none" if ARCHITECTURES[name].backbone_weights is None else "backbone"
    config = TrainConfig(model=name, weights=weights, image_size=(size, size))  # type: ignore[arg-type]
    return build_detector(config, num_classes=2, load_backbone=False)


def saved_mb(step: Callable[[int], object]) -> float:
    """What a step on two images saves beyond one on a single image."""
    one, two = (_saved_bytes(step, images) for images in (1, 2))
    return (two - one) / MB


def _saved_bytes(step: Callable[[int], object], images: int) -> int:
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = step(images)  # until all is counted: a freed storage's address may be another's
    del kept
    return sum(storages.values())


def on_cpu(model: nn.Module, size: int, dtype: torch.dtype) -> float:
    """MB an image of the losses' whole forward pass, by the rules of the CPU's autocast."""

    def step(images: int) -> object:
        torch.manual_seed(0)
        pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8)
        boxes = torch.tensor([[0.1, 0.1, 0.3, 0.4], [0.5, 0.4, 0.9, 0.6]]) * size
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            return model(pixels, [{"boxes": boxes, "labels": torch.tensor([1, 2])}] * images)

    return saved_mb(step)


def by_cuda_rules(model: nn.Module, size: int, dtype: torch.dtype) -> float:
    """MB an image of backbone and heads, by the rules of CUDA's autocast."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = _on_fake_cuda(model)

        def step(images: int) -> object:
            with _cuda_autocast(dtype):
                return _answers(model, torch.empty(images, 3, size, size, device="cuda"))

        return saved_mb(step)


def _answers(model: Any, images: Tensor) -> object:
    maps = list(model.backbone(images).values())
    if not hasattr(model, "rpn"):
        return model.head(maps)
    pooled = torch.empty(PROPOSALS * len(images), maps[0].shape[1], 7, 7, device="cuda", dtype=maps[0].dtype)
    pooled.requires_grad_()
    return model.rpn.head(maps), model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))


def _on_fake_cuda(model: nn.Module) -> nn.Module:
    for module in model.modules():
        for name, one in module._parameters.items():
            if one is not None:
                empty = torch.empty(one.shape, device="cuda")
                module._parameters[name] = nn.Parameter(empty, requires_grad=one.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return model


@contextmanager
def _cuda_autocast(dtype: torch.dtype) -> Iterator[None]:
    """Torch's own context switches itself off where there is no CUDA."""
    torch.set_autocast_enabled("cuda", dtype != torch.float32)
    torch.set_autocast_dtype("cuda", dtype)
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="side of the images in pixels (512)")
    parser.add_argument("--models", nargs="+", choices=list(ARCHITECTURES), default=list(ARCHITECTURES))
    args = parser.parse_args()
    for title, measure in (("On the CPU", on_cpu), ("By CUDA's rules, backbone and heads", by_cuda_rules)):
        print(f"\n{title}, {args.size} px, MB an image:\n")
        print("| detector | float32 | float16 | bfloat16 | largest ratio |\n|---|---|---|---|---|")
        for name in args.models:
            full, *mixed = (measure(detector(name, args.size), args.size, dtype) for dtype in FORMATS)
            cells = " | ".join(f"{value:.1f}" for value in (full, *mixed))
            print(f"| {name} | {cells} | {max(mixed) / full:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
