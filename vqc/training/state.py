"""All that training changes, in one record: copied, written, and read back to go on.

Its file is a checkpoint (``vqc.models.checkpoint``) that also holds the optimiser, the gradient scaler and the report
of the last epoch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from vqc.config import TrainConfig
from vqc.epoch import EpochReport
from vqc.errors import ModelError
from vqc.models.checkpoint import MODEL, ModelInfo, read_checkpoint, write_checkpoint

OPTIMIZER = "optimizer."
TRAINED = "trained."  # the model that training changes, where its average is the one under MODEL


@dataclass(kw_only=True)
class LoopState:
    """Everything that training changes: saved whole, loaded whole.

    ``average`` is the moving average of ``model`` (``vqc.training.ema``), None without one.
    """

    info: ModelInfo
    step: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: nn.Module | None = None

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and kept: the average where there is one."""
        return self.model if self.average is None else self.average

    @property
    def trainable(self) -> list[nn.Parameter]:
        """The parameters that training changes; from the optimiser, because the model searches its own each time."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """A run as it was after an epoch, copied to the host; any thread may write it."""

    report: EpochReport
    tensors: Mapping[str, torch.Tensor]
    header: Mapping[str, str]

    def write_state(self, path: Path) -> None:
        """Write all that a run needs to go on; whole on the disk when this returns."""
        write_checkpoint(path, self.tensors, self.header)

    def write_model(self, path: Path) -> None:
        """Write the weights alone, with what is needed to build the detector again."""
        weights = {name: tensor for name, tensor in self.tensors.items() if name.startswith(MODEL)}
        write_checkpoint(path, weights, {"info": self.header["info"]})


def snapshot_of(state: LoopState, report: EpochReport) -> Snapshot:
    """A copy of the state of a run and its last epoch's report. Waits for the GPU."""
    tensors = {MODEL + name: tensor for name, tensor in state.evaluated.state_dict().items()}
    if state.average is not None:
        tensors |= {TRAINED + name: tensor for name, tensor in state.model.state_dict().items()}
    for index, slots in state.optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{index}.{name}": tensor for name, tensor in slots.items()}
    return Snapshot(
        report=report,
        tensors={name: _host_copy(tensor) for name, tensor in tensors.items()},
        header={
            "info": state.info.model_dump_json(),
            "step": str(state.step),
            "scaler": json.dumps(state.scaler.state_dict()),
            "report": report.model_dump_json(),
        },
    )


def checkpoint_bytes(config: TrainConfig, *, num_classes: int) -> tuple[int, int]:
    """What the file of a run's state takes, and that of its weights alone; their headers are not counted.

    Args:
        config: with ``weights`` decided.
        num_classes: categories, the background not counted.
    """
    from vqc.models.build import build_detector

    with torch.device("meta"):  # shapes without memory
        model = build_detector(config, num_classes=num_classes, load_backbone=False)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    moments = sum(2 * parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    models = 2 if config.ema_decay else 1
    return models * weights + moments, weights


def _host_copy(tensor: torch.Tensor) -> torch.Tensor:
    """In rows, as a file holds it, whatever its order in memory was."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def load_state(path: Path, state: LoopState) -> None:
    """Put what ``Snapshot.write_state`` wrote back into a state made from the same configuration, or of fewer epochs.

    The learning rate of the steps to come is then that of the shorter run.

    Raises:
        ModelError: the file is missing, damaged, or of another configuration or data.
    """
    found = read_checkpoint(path)
    info = found.info
    epochs = max(state.info.config.num_epochs, info.config.num_epochs)  # a run may be left fewer than it began with
    begun = state.info.config.model_copy(update={"num_epochs": epochs})
    if (_computed(info.config), info.fingerprint) != (_computed(begun), state.info.fingerprint):
        raise ModelError(f"{path}: is of another configuration or of other data; expected the run's own checkpoint")
    if "step" not in found.header:
        raise ModelError(f"{path}: holds a model alone, expected the state of a training run")
    found.load_weights(state.evaluated)
    if state.average is not None:
        state.model.load_state_dict(found.under(TRAINED))
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in found.under(OPTIMIZER).items():
        index, _, slot = name.partition(".")
        slots.setdefault(int(index), {})[slot] = tensor
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": slots})
    _lay_out(state.optimizer)
    if scaler := json.loads(found.header["scaler"]):  # empty where nothing was scaled: another device, another format
        state.scaler.load_state_dict(scaler)
    state.info, state.step = info.model_copy(update={"config": state.info.config}), int(found.header["step"])


def read_report(path: Path) -> EpochReport:
    """The report of the last epoch in a state file; reads and checks the whole file.

    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        return EpochReport.model_validate_json(read_checkpoint(path).header.get("report", ""))
    except ValidationError:
        raise ModelError(f"{path}: not the state of a training run") from None


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Order each moment in memory as its parameter is: a fused step goes through both by address.

    A file holds all tensors in rows; the weights of convolutions are channels-last.
    """
    for parameter, slots in optimizer.state.items():
        for name, value in slots.items():
            if value.shape == parameter.shape:
                slots[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def _computed(config: TrainConfig) -> TrainConfig:
    """The part of a configuration that decides the result: the number of workers does not."""
    return config.model_copy(update={"num_workers": 0})
