"""Which weights a detector starts from, decided before a run or a search, so that no trial has to download them.

Torch is imported only where there is something to load.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from vqc.config import TrainConfig
from vqc.errors import ModelError
from vqc.files import file_sha256
from vqc.models.registry import ARCHITECTURES, check_model

PROBE_TIMEOUT_S = 10.0


def resolve_weights(config: TrainConfig) -> tuple[TrainConfig, str]:
    """The configuration with ``weights`` decided, and what was decided, in words.

    Downloads the backbone's weights where they are wanted and missing.

    Raises:
        ModelError: ``weights`` is 'backbone' and they are not available, or a file in their place holds something else.
    """
    check_model(config.model)
    wanted = ARCHITECTURES[config.model].backbone_weights
    if config.weights == "none" or wanted is None:
        if config.weights == "backbone":
            raise ModelError(f"weights: there are no backbone weights for '{config.model}', expected 'none' or 'auto'")
        return config.model_copy(update={"weights": "none"}), "random initial weights"
    problem = _fetch(wanted)
    if problem is None:
        return config.model_copy(update={"weights": "backbone"}), f"backbone weights {wanted}"
    where = f"{wanted} is neither in {_weights_folder()} nor on the network ({problem})"
    if config.weights == "backbone":
        raise ModelError(f"weights: {where}; expected them there, or 'weights': 'none'")
    return config.model_copy(update={"weights": "none"}), f"random initial weights: {where}"


def _weights_folder() -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def _fetch(name: str) -> str | None:
    """Put the named weights into torch's folder; None when they are there, else the reason why not."""
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
        return str(getattr(error, "reason", error))
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
