"""Atomic, checksummed files of tensors, and a detector's weights in one.

Each is safetensors with a JSON description in the header, so nothing is ever unpickled. A file exists whole or not at
all; damage after it was written is found by its checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import Field, ValidationError
from torch import nn

from vqc.config import Record, TrainConfig
from vqc.data.tiles.views import TilePlan
from vqc.epoch import Scores
from vqc.errors import ModelError
from vqc.files import new_file

MODEL = "model."  # what the names of a model's tensors start with
T = TypeVar("T")


class ModelInfo(Record):
    """The description in a weights file."""

    config: TrainConfig
    categories: tuple[tuple[int, str], ...] = Field(description="id and name in the annotations, in label order")
    fingerprint: str = Field(description="of the data it was trained on")
    tiles: TilePlan | None = Field(None, description="how photographs are cut; null: not at all")
    epoch: int = Field(ge=0, description="finished epochs")
    scores: Scores | None = Field(None, description="on val after that epoch")


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """The content of a file whose checksum is right: tensors by name, and the header's text by key."""

    path: Path
    tensors: Mapping[str, torch.Tensor]
    header: Mapping[str, str]

    @property
    def info(self) -> ModelInfo:
        """The description of the model; raises ``ModelError`` where there is none."""
        return _info(self.path, self.header)

    def under(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors whose names start with ``prefix``, by the rest of their names."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}

    def load_weights(self, model: nn.Module, *, but: tuple[str, ...] = ()) -> None:
        """Copy the weights into ``model``, without those whose names start as in ``but``.

        Raises:
            ModelError: names or shapes differ.
        """
        own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(but)}
        stored = {name: tensor for name, tensor in self.under(MODEL).items() if not name.startswith(but)}
        try:
            model.load_state_dict(stored | own)
        except RuntimeError as error:
            first = str(error).splitlines()[1:2] or [str(error)]  # the headline names only torch's class
            raise ModelError(
                f"{self.path}: its weights do not fit '{self.info.config.model}': {first[0].strip():.200}"
            ) from None


def read_info(path: Path, *, whole: bool = False) -> ModelInfo:
    """The description in a weights file; only its header is read, or the ``whole`` file is read and checked.

    Raises:
        ModelError: the file is missing or not a model of this project, or, where it was read whole, damaged.
    """
    if whole:
        return read_checkpoint(path).info
    return _info(path, _opened(path, lambda file: file.metadata() or {}))


def save_model(path: Path, model: nn.Module, info: ModelInfo) -> None:
    """Write the weights, with what is needed to build the detector again."""
    tensors = {MODEL + name: tensor for name, tensor in model.state_dict().items()}
    write_checkpoint(path, tensors, {"info": info.model_dump_json()})


def load_model(path: Path) -> tuple[nn.Module, ModelInfo]:
    """The detector of a weights file or of a training state, on the CPU, in evaluation mode.

    Raises:
        ModelError: the file is missing, damaged, or not a model of this project.
    """
    from vqc.models.build import build_detector

    found = read_checkpoint(path)
    info = found.info
    model = build_detector(info.config, num_classes=len(info.categories), load_backbone=False)
    found.load_weights(model)
    return model.eval(), info


def weights_sha256(model: nn.Module) -> str:
    """sha256, in hex, of a model's weights alone: equal on every device and in every file that holds them."""
    return _digest({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}, {})


def write_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]) -> None:
    """Write tensors and a header with their checksum; whole on the disk when this returns. Waits for the GPU.

    Tensors that lie in rows on the host are not copied, and other threads of Python run meanwhile.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with new_file(path) as draft:
        try:
            save_file(plain, draft, {**header, "sha256": _digest(plain, header)})
        except SafetensorError as error:  # a full disk, where Python would raise this
            raise OSError(str(error)) from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a whole file and verify its checksum.

    Raises:
        ModelError: the file is missing, damaged, or no safetensors file.
    """

    def all_of(file: Any) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
        # Copies: the file stays mapped for as long as one of its tensors lives, and Windows replaces no mapped file.
        return file.metadata() or {}, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118

    header, tensors = _opened(path, all_of)
    if header.pop("sha256", None) != _digest(tensors, header):
        raise ModelError(f"{path}: damaged, its checksum does not fit")
    return Checkpoint(path=path, tensors=tensors, header=header)


def _opened(path: Path, read: Callable[[Any], T]) -> T:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"{path}: no such file, expected a checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            return read(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a whole safetensors file ({error})") from None


def _digest(tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]) -> str:
    """sha256 over the header and the tensors, sorted by name."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _info(path: Path, header: Mapping[str, Any]) -> ModelInfo:
    try:
        return ModelInfo.model_validate_json(header.get("info", ""))
    except ValidationError:
        raise ModelError(f"{path}: not a model of this project, or of another version of it") from None
