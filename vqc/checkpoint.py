"""Atomic, checksummed files of a training run: all it needs to go on, and a model alone.

Both are safetensors with a JSON description in the header, so nothing is ever unpickled. A file exists whole
or not at all; one that was damaged afterwards is told by its checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from pydantic import Field, ValidationError
from torch import nn

from vqc.config import Record, TrainConfig
from vqc.epoch import Scores
from vqc.errors import ModelError

__all__ = ["LoopState", "ModelInfo", "load_model", "load_state", "save_model", "save_state", "write_atomically"]

MODEL, OPTIMIZER = "model.", "optimizer."


class ModelInfo(Record):
    """What a weights file says of itself."""

    config: TrainConfig
    categories: tuple[tuple[int, str], ...] = Field(description="id and name in the annotations, in label order")
    fingerprint: str = Field(description="of the data it was trained on")
    epoch: int = Field(ge=0, description="finished epochs")
    scores: Scores | None = Field(None, description="on val after that epoch")


@dataclass(kw_only=True)
class LoopState:
    """Everything that training changes: saved whole, loaded whole."""

    info: ModelInfo
    step: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def save_state(path: Path, state: LoopState) -> None:
    """Write the state of a run; it is on the disk, whole, when this returns. Waits for the GPU."""
    tensors = {MODEL + name: tensor for name, tensor in state.model.state_dict().items()}
    for index, slots in state.optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{index}.{name}": tensor for name, tensor in slots.items()}
    header = {
        "info": state.info.model_dump_json(),
        "step": str(state.step),
        "scaler": json.dumps(state.scaler.state_dict()),
    }
    _write(path, tensors, header)


def load_state(path: Path, state: LoopState) -> None:
    """Put what ``save_state`` wrote back into a state made from the same configuration.

    Raises:
        ModelError: the file is missing, damaged, or of another configuration or data.
    """
    tensors, header = _read(path)
    info = _info(path, header)
    if (info.config, info.fingerprint) != (state.info.config, state.info.fingerprint):
        raise ModelError(f"{path}: is of another configuration or of other data; expected the run's own checkpoint")
    state.model.load_state_dict(_under(tensors, MODEL))
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in _under(tensors, OPTIMIZER).items():
        index, _, slot = name.partition(".")
        slots.setdefault(int(index), {})[slot] = tensor
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": slots})
    state.scaler.load_state_dict(json.loads(header["scaler"]))
    state.info, state.step = info, int(header["step"])


def save_model(path: Path, model: nn.Module, info: ModelInfo) -> None:
    """Write the weights alone, with what is needed to build the detector again."""
    _write(
        path, {MODEL + name: tensor for name, tensor in model.state_dict().items()}, {"info": info.model_dump_json()}
    )


def load_model(path: Path) -> tuple[nn.Module, ModelInfo]:
    """The detector of a file written by ``save_model`` or ``save_state``, on the CPU, in evaluation mode.

    Raises:
        ModelError: the file is missing, damaged, or not a model of this project.
    """
    from vqc.detector import build_detector

    tensors, header = _read(path)
    info = _info(path, header)
    model = build_detector(info.config, num_classes=len(info.categories), load_backbone=False)
    try:
        model.load_state_dict(_under(tensors, MODEL))
    except RuntimeError as error:
        raise ModelError(f"{path}: its weights do not fit '{info.config.model}': {error}") from None
    return model.eval(), info


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it exists whole or as it was before: draft, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _write(path: Path, tensors: Mapping[str, torch.Tensor], header: dict[str, str]) -> None:
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}  # waits for the GPU
    write_atomically(path, save(plain, {**header, "sha256": _digest(plain)}))


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"{path}: no such file, expected a checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a whole safetensors file ({error})") from None
    if header.get("sha256") != _digest(tensors):
        raise ModelError(f"{path}: damaged, its checksum does not fit")
    return tensors, header


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _info(path: Path, header: Mapping[str, Any]) -> ModelInfo:
    try:
        return ModelInfo.model_validate_json(header.get("info", ""))
    except ValidationError:
        raise ModelError(f"{path}: not a model of this project, or of another version of it") from None


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
