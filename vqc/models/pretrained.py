"""Which weights a detector starts from, decided before a run or a search, so that no trial has to download them.

Torch is imported only where there is something to load.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vqc.config import STARTS, InitialModel, TrainConfig
from vqc.errors import ModelError
from vqc.files import file_sha256
from vqc.models.registry import ARCHITECTURES, check_model

if TYPE_CHECKING:
    from torch import nn

PROBE_TIMEOUT_S = 10.0


def resolve_weights(config: TrainConfig, categories: Sequence[str] = ()) -> tuple[TrainConfig, str]:
    """The configuration with ``weights`` decided, and what was decided, in words.

    Downloads torchvision's weights where they are wanted and missing.

    Args:
        categories: names in the data, in label order; only an own model's are compared with them.

    Raises:
        ModelError: the weights that are asked for are not available, or a file in their place holds something else.
    """
    check_model(config.model)
    if config.initial_model is not None:
        check_initial_model(config)
        return config, f"the weights of {config.initial_model.path}"
    if config.weights not in STARTS:
        return _from_own_model(config, Path(config.weights), categories)
    known = ARCHITECTURES[config.model]
    named = {"coco": known.coco_weights, "backbone": known.backbone_weights}
    if config.weights in named and named[config.weights] is None:
        raise ModelError(f"weights: there are no {config.weights} weights for '{config.model}', expected 'auto'")
    problems = list[str]()
    for kind, name in named.items():
        if name is None or config.weights not in ("auto", kind):
            continue
        if (problem := _fetch(name)) is None:
            _check_frozen_stages(config, kind)
            return config.model_copy(update={"weights": kind}), "; ".join([f"{kind} weights {name}", *problems])
        problems.append(problem)
    if problems and config.weights != "auto":
        raise ModelError(f"weights: {problems[0]}; expected it there, or 'weights': 'none'")
    return config.model_copy(update={"weights": "none"}), "; ".join(["random initial weights", *problems])


def _check_frozen_stages(config: TrainConfig, kind: str) -> None:
    if kind == "coco" and config.frozen_stages and config.model == "ssdlite320_mobilenet_v3_large":
        raise ModelError(
            f"frozen_stages: got {config.frozen_stages}, expected 0: torchvision's COCO SSDlite is trained whole"
        )


def _from_own_model(config: TrainConfig, path: Path, categories: Sequence[str]) -> tuple[TrainConfig, str]:
    """Go on from a model of this project: built as that one was, whatever that one started from."""
    from vqc.models.checkpoint import read_info

    path = path / "model.safetensors" if path.is_dir() else path
    info = read_info(path, whole=True)
    if info.config.model != config.model:
        raise ModelError(f"weights: {path} is of '{info.config.model}', expected one of '{config.model}'")
    same = [name for _, name in info.categories] == list(categories)
    start = InitialModel(path=str(path.resolve()), sha256=file_sha256(path), same_categories=same)
    said = f"the weights of {path}" + ("" if same else ", but for what tells its categories: the data has others")
    return config.model_copy(update={"weights": info.config.weights, "initial_model": start}), said


def check_initial_model(config: TrainConfig) -> None:
    """Raise ``ModelError`` where the file that a run goes on from is missing or another one than when it began."""
    if (start := config.initial_model) is None:
        return
    try:
        found = file_sha256(Path(start.path))
    except OSError as error:
        raise ModelError(f"weights: {start.path}: cannot be read: {error.strerror or error}") from None
    if found != start.sha256:
        raise ModelError(
            f"weights: {start.path} changed: expected a sha256 of {start.sha256[:8]}..., got {found[:8]}...; "
            "put the former file back"
        )


def load_initial_model(model: nn.Module, config: TrainConfig) -> None:
    """Load the weights of the own model that a run goes on from, where it does; other categories' are left as they are.

    Raises:
        ModelError: the file is missing, changed or does not fit.
    """
    if (start := config.initial_model) is None:
        return
    from vqc.models.build import HEADS
    from vqc.models.checkpoint import read_checkpoint

    check_initial_model(config)
    read_checkpoint(Path(start.path)).load_weights(model, but=() if start.same_categories else HEADS)


def _weights_folder() -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def _fetch(name: str) -> str | None:
    """Put the named weights into torch's folder; None when they are there, else why not."""
    if name.startswith("EfficientNet_Lite0"):
        return None  # a package that is always installed holds them
    from torchvision.models import get_weight

    weights = get_weight(name)
    path = _weights_folder() / weights.url.rsplit("/", 1)[-1]
    if path.exists():
        _check(path)
        return None
    try:
        with urllib.request.urlopen(urllib.request.Request(weights.url, method="HEAD"), timeout=PROBE_TIMEOUT_S):
            pass
        weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        reason = str(getattr(error, "reason", error))
        return f"{path.name} is neither in {path.parent} nor on the network ({reason})"
    return None


def _check(path: Path) -> None:
    """The last part of such a file's name is the start of its sha256; torch checks it only after a download."""
    begins = path.stem.rpartition("-")[2]
    try:
        sha256 = file_sha256(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not sha256.startswith(begins):
        raise ModelError(
            f"{path}: damaged, or not what its name says: expected a sha256 of {begins}..., got {sha256[:8]}...; "
            "delete it"
        )
