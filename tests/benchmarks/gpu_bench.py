"""What the cases of ``gpu.py`` share: how much is measured, data, stand-in weights, states. Without Ray and MLflow."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from vqc.config import TrainConfig
from vqc.data.dataset import Data, load_data
from vqc.data.loader import Batch, FittedImages, training_batches
from vqc.data.synthetic import write_sample
from vqc.hardware.memory import reserve_optimizer_state
from vqc.hardware.precision import Precision
from vqc.models.build import build_detector, move_detector
from vqc.models.checkpoint import ModelInfo
from vqc.models.registry import ARCHITECTURES, OFFERED
from vqc.training.state import LoopState

Row: TypeAlias = dict[str, Any]  # ``table`` names its table, the other keys are columns
Case: TypeAlias = Callable[["Bench"], Iterator[Row]]
LIGHT = "fasterrcnn_mobilenet_v3_large_320_fpn"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured."""

    models: tuple[str, ...]
    speed_models: tuple[str, ...]
    exact_model: str  # the parts of its batch add up exactly
    size: int  # of images, in pixels
    batch: int
    sizes: tuple[tuple[int, int], ...]  # pixels and images in a batch, of the memory tables
    budgets_gb: tuple[float, ...]
    epochs: int  # of training before formats are compared
    images: dict[str, int]
    together: tuple[int, ...]


FULL = Scale(
    models=OFFERED,
    speed_models=("fasterrcnn_resnet50_fpn", LIGHT, "retinanet_resnet50_fpn", "fcos_resnet50_fpn",
                  "ssdlite320_mobilenet_v3_large"),
    exact_model="retinanet_resnet50_fpn",
    size=512,
    batch=8,
    sizes=((512, 8), (640, 6), (1024, 2)),
    budgets_gb=(6.0, 4.0, 3.0),
    epochs=4,
    images={"train": 160, "val": 40, "test": 1},
    together=(1, 2, 3),
)  # fmt: skip
REHEARSAL = Scale(
    models=("fcos_tiny",),
    speed_models=("fcos_tiny",),
    exact_model="fcos_tiny",
    size=64,
    batch=4,
    sizes=((64, 4),),
    budgets_gb=(6.0,),
    epochs=2,
    images={"train": 8, "val": 4, "test": 1},
    together=(2,),
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and with how much a case measures; its folder is shared by all cases of a run."""

    scale: Scale
    folder: Path
    rehearsal: bool

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.rehearsal else "cuda")

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def formats(self) -> tuple[str, ...]:
        return ("float32", "bfloat16") if self.rehearsal else ("float32", "float16", "bfloat16")

    def config(self, model: str, *, size: int = 0, batch: int = 0, epochs: int = 1, **gpu: Any) -> TrainConfig:
        """As users train it: frozen where it starts from pretrained weights. ``gpu``: of ``gpu_optimization``."""
        weights = "backbone" if _weights_of(model) else "none"
        values = {"image_size": size or self.scale.size, "batch_size": batch or self.scale.batch, "num_epochs": epochs}
        return TrainConfig.model_validate({"model": model, "weights": weights, "gpu_optimization": gpu, **values})

    def data(self, *, train: int | None = None, val: int | None = None) -> Data:
        """The generated sample, or its first images."""
        whole = load_data(self.folder / "data")
        few = {"train": train, "val": val}
        cut = {
            name: dataclasses.replace(whole.split(name), images=whole.split(name).images[:n]) for name, n in few.items()
        }
        return dataclasses.replace(whole, **cut)

    def batch(self, config: TrainConfig, data: Data) -> Batch:
        """The first one of training."""
        images = FittedImages(data, "train", size=config.image_size, cache=self.cache)
        return next(iter(training_batches(images, config, epoch=1)))

    def prepare(self) -> None:
        """Write the sample and the stand-in weights where they are missing, and point torch to them."""
        write_sample(self.folder / "data", images=self.scale.images)
        os.environ["TORCH_HOME"] = str(self.folder / "torch")
        for model in {*self.scale.models, *self.scale.speed_models, self.scale.exact_model}:
            if name := _weights_of(model):
                _stand_in(name, self.folder / "torch" / "hub" / "checkpoints")


def _weights_of(model: str) -> str | None:
    """The weights' name where they are torchvision's; None where a detector must start from random ones here."""
    name = ARCHITECTURES[model].backbone_weights
    return name if name and name.startswith(("ResNet50", "MobileNet_V3_Large")) else None


def _stand_in(name: str, folder: Path) -> None:
    """Random weights in the place of ImageNet's, which need a network: the structure is the one that users train.

    The statistics of batch norm are those of noise, so that frozen layers keep activations near one.
    """
    from torchvision.models import get_model, get_weight

    path = folder / Path(get_weight(name).url).name
    if path.exists():
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_model(name.partition("_Weights")[0].lower(), weights=None).train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            model(torch.randn(4, 3, 224, 224))
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)


def state_of(config: TrainConfig, *, num_classes: int, device: torch.device) -> LoopState:
    """A run before its first step, its moments allocated."""
    model = move_detector(build_detector(config, num_classes=num_classes), device)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], fused=True)
    reserve_optimizer_state(optimizer)
    categories = tuple((number, f"category {number}") for number in range(1, num_classes + 1))
    info = ModelInfo(config=config, categories=categories, fingerprint="none", epoch=1)
    scaler = Precision(device=device, dtype=torch.float32).scaler()
    return LoopState(info=info, step=0, model=model, optimizer=optimizer, scaler=scaler)


def flat(tensors: Iterator[torch.Tensor | None]) -> torch.Tensor:
    """All values of these tensors, float32 on the CPU."""
    return torch.cat([one.detach().float().cpu().flatten() for one in tensors if one is not None])


def deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference, as a share of the norm of what is expected."""
    difference = float((found - expected).norm())
    return difference / float(expected.norm()) if difference else 0.0  # both may be empty: nothing was detected
