"""Atomic, checksummed files of a training run: all it needs to go on, and a model alone.

Both are safetensors with a JSON description in the header, so nothing is ever unpickled. A file exists whole
or not at all; one that was damaged afterwards is told by its checksum.
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
from vqc.epoch import EpochReport, Scores
from vqc.errors import ModelError
from vqc.files import write_atomically

__all__ = [
    "LoopState",
    "ModelInfo",
    "Snapshot",
    "load_model",
    "load_state",
    "read_info",
    "read_report",
    "save_model",
    "save_state",
    "snapshot_of",
    "weights_sha256",
]

MODEL, OPTIMIZER = "model.", "optimizer."
T = TypeVar("T")


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

    @property
    def trainable(self) -> list[nn.Parameter]:
        """The parameters that training changes; the optimiser's list, because the model looks its own up each time."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """A run as it was after an epoch, on the host, apart from the run that goes on; any thread may write it."""

    report: EpochReport
    tensors: Mapping[str, torch.Tensor]
    header: Mapping[str, str]

    def write_state(self, path: Path) -> None:
        """Write all that a run needs to go on; whole on the disk when this returns."""
        _write(path, self.tensors, self.header)

    def write_model(self, path: Path) -> None:
        """Write the weights alone, with what is needed to build the detector again."""
        weights = {name: tensor for name, tensor in self.tensors.items() if name.startswith(MODEL)}
        _write(path, weights, {"info": self.header["info"]})


def snapshot_of(state: LoopState, report: EpochReport) -> Snapshot:
    """A copy of the state of a run and its last epoch's report. Waits for the GPU."""
    tensors, header = _described(state, report)
    copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
    return Snapshot(report=report, tensors=copies, header=header)


def save_state(path: Path, state: LoopState, report: EpochReport) -> None:
    """Write the state of a run and its last epoch's report; whole on the disk when this returns. Waits for the GPU."""
    _write(path, *_described(state, report))


def _described(state: LoopState, report: EpochReport) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a state, live, and its other parts as text."""
    tensors = {MODEL + name: tensor for name, tensor in state.model.state_dict().items()}
    for index, slots in state.optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{index}.{name}": tensor for name, tensor in slots.items()}
    header = {
        "info": state.info.model_dump_json(),
        "step": str(state.step),
        "scaler": json.dumps(state.scaler.state_dict()),
        "report": report.model_dump_json(),
    }
    return tensors, header


def load_state(path: Path, state: LoopState) -> None:
    """Put what ``save_state`` wrote back into a state made from the same configuration.

    Raises:
        ModelError: the file is missing, damaged, or of another configuration or data.
    """
    tensors, header = _read(path)
    info = _info(path, header)
    if (_computed(info.config), info.fingerprint) != (_computed(state.info.config), state.info.fingerprint):
        raise ModelError(f"{path}: is of another configuration or of other data; expected the run's own checkpoint")
    if "step" not in header:
        raise ModelError(f"{path}: holds a model alone, expected the state of a training run")
    _load_weights(path, state.model, tensors, info)
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in _under(tensors, OPTIMIZER).items():
        index, _, slot = name.partition(".")
        slots.setdefault(int(index), {})[slot] = tensor
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": slots})
    _lay_out(state.optimizer)
    if scaler := json.loads(header["scaler"]):  # empty where nothing was scaled: another device, another format
        state.scaler.load_state_dict(scaler)
    state.info, state.step = info.model_copy(update={"config": state.info.config}), int(header["step"])


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Order each moment in memory as its parameter is: a fused step walks through both by address.

    A file holds all tensors in rows; the weights of convolutions are channels-last.
    """
    for parameter, slots in optimizer.state.items():
        for name, value in slots.items():
            if value.shape == parameter.shape:
                slots[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def _computed(config: TrainConfig) -> TrainConfig:
    """What of a configuration decides the result: the number of workers does not."""
    return config.model_copy(update={"num_workers": 0})


def read_report(path: Path) -> EpochReport:
    """The report of the last epoch that a state file holds; reads and checks the file as a whole.

    Raises:
        ModelError: the file is missing or damaged.
    """
    _, header = _read(path)
    try:
        return EpochReport.model_validate_json(header.get("report", ""))
    except ValidationError:
        raise ModelError(f"{path}: not the state of a training run") from None


def read_info(path: Path, *, whole: bool = False) -> ModelInfo:
    """What a weights file says of itself; its header alone is read, or the ``whole`` file read and checked.

    Raises:
        ModelError: the file is missing or not a model of this project, or, where it was read whole, damaged.
    """
    if whole:
        return _info(path, _read(path)[1])
    return _info(path, _opened(path, lambda file: file.metadata() or {}))


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
    from vqc.models.build import build_detector

    tensors, header = _read(path)
    info = _info(path, header)
    model = build_detector(info.config, num_classes=len(info.categories), load_backbone=False)
    _load_weights(path, model, tensors, info)
    return model.eval(), info


def weights_sha256(model: nn.Module) -> str:
    """sha256, in hex, of a model's weights alone: equal on every device and in every file that holds them."""
    return _digest({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}, {})


def _load_weights(path: Path, model: nn.Module, tensors: Mapping[str, torch.Tensor], info: ModelInfo) -> None:
    try:
        model.load_state_dict(_under(tensors, MODEL))
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]  # the headline names only torch's class
        raise ModelError(f"{path}: its weights do not fit '{info.config.model}': {first[0].strip():.200}") from None


def _write(path: Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]) -> None:
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}  # waits for the GPU
    write_atomically(path, save(plain, {**header, "sha256": _digest(plain, header)}))


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    def all_of(file: Any) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
        # Copies: the file stays mapped for as long as one of its tensors lives, and Windows replaces no mapped file.
        return file.metadata() or {}, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118

    header, tensors = _opened(path, all_of)
    if header.pop("sha256", None) != _digest(tensors, header):
        raise ModelError(f"{path}: damaged, its checksum does not fit")
    return tensors, header


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
    """sha256 over what is described and what is held, in an order that does not depend on the file's."""
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


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
