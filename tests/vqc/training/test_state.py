"""The state of a run: written, read back, and refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.builders import epoch_report
from vqc.config import TrainConfig
from vqc.errors import ModelError
from vqc.hardware.memory import reserve_optimizer_state
from vqc.models.build import build_detector
from vqc.models.checkpoint import ModelInfo, read_info, save_model
from vqc.training.ema import first_average
from vqc.training.state import LoopState, checkpoint_bytes, load_state, read_report, snapshot_of

CONFIG = TrainConfig(model="fcos_tiny", weights="none", image_size=64, seed=5)
INFO = ModelInfo(config=CONFIG, categories=((3, "scratch"), (7, "dent")), fingerprint="ab" * 32, epoch=2)
REPORT = epoch_report(2, ap50=0.5)


def fresh_state(info: ModelInfo = INFO) -> LoopState:
    """A small model with every kind of tensor that a detector has, not yet stepped."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return LoopState(
        info=info, step=0, model=model, optimizer=optimizer, scaler=torch.amp.GradScaler("cpu", enabled=False)
    )


def stepped(state: LoopState, steps: int = 3) -> LoopState:
    for _ in range(steps):
        state.model(torch.randn(2, 3, 3, 3)).square().sum().backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
    return state


def content(state: LoopState) -> dict[str, object]:
    slots = state.optimizer.state_dict()["state"]
    tensors = {**state.model.state_dict(), **{f"{i}.{k}": v for i, row in slots.items() for k, v in row.items()}}
    return {"step": state.step, "info": state.info, **{name: tensor.tolist() for name, tensor in tensors.items()}}


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, LoopState]:
    state = stepped(fresh_state())
    snapshot_of(state, REPORT).write_state(tmp_path / "last.safetensors")
    return tmp_path / "last.safetensors", state


def test_a_state_comes_back_whole(saved: tuple[Path, LoopState]) -> None:
    path, state = saved
    back = fresh_state()
    load_state(path, back)
    assert content(back) == content(state)


def test_the_same_state_gives_the_same_tensors_after_more_steps(saved: tuple[Path, LoopState]) -> None:
    path, state = saved
    back = fresh_state()
    load_state(path, back)
    results = []
    for one in (state, back):
        torch.manual_seed(1)
        results.append(content(stepped(one)))
    assert results[0] == results[1]


def test_a_state_that_never_stepped(tmp_path: Path) -> None:
    snapshot_of(fresh_state(), REPORT).write_state(tmp_path / "first")
    back = fresh_state()
    load_state(tmp_path / "first", back)
    assert content(back) == content(fresh_state())


def test_what_was_loaded_does_not_hang_on_the_file(saved: tuple[Path, LoopState]) -> None:
    """Windows replaces no file that is mapped into memory."""
    path, state = saved
    back = fresh_state()
    load_state(path, back)
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert content(back) == content(state)


def test_the_report_and_the_description_are_in_the_file(saved: tuple[Path, LoopState]) -> None:
    assert read_report(saved[0]) == REPORT
    assert read_info(saved[0]) == INFO


@pytest.mark.parametrize("change", [{"num_workers": 8}, {"num_epochs": CONFIG.num_epochs - 1}], ids=str)
def test_the_number_of_workers_may_change_and_a_run_be_shortened(
    saved: tuple[Path, LoopState], change: dict[str, int]
) -> None:
    config = CONFIG.model_copy(update=change)
    back = fresh_state(INFO.model_copy(update={"config": config, "epoch": 0}))
    load_state(saved[0], back)
    assert (back.info.config, back.info.epoch) == (config, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"config": CONFIG.model_copy(update={"learning_rate": 0.5})},
        {"config": CONFIG.model_copy(update={"num_epochs": CONFIG.num_epochs + 1})},
        {"fingerprint": "cd" * 32},
    ],
    ids=["rate", "longer", "data"],
)
def test_a_state_of_another_run_is_refused_untouched(saved: tuple[Path, LoopState], change: dict[str, object]) -> None:
    back = fresh_state(INFO.model_copy(update=change))
    before = content(back)
    with pytest.raises(ModelError, match="of another configuration or of other data"):
        load_state(saved[0], back)
    assert content(back) == before


def test_a_scaler_of_another_format_starts_anew(saved: tuple[Path, LoopState]) -> None:
    back = fresh_state()
    back.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=True)
    load_state(saved[0], back)
    assert back.scaler.get_scale() == 8.0


def test_a_scaler_comes_back(tmp_path: Path) -> None:
    state, back = fresh_state(), fresh_state()
    state.scaler = torch.amp.GradScaler("cpu", init_scale=512.0, enabled=True)
    back.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=True)
    snapshot_of(state, REPORT).write_state(tmp_path / "last")
    load_state(tmp_path / "last", back)
    assert back.scaler.get_scale() == 512.0


@pytest.mark.parametrize("fused", [False, True])
def test_a_channels_last_run_goes_on_as_if_never_stopped(tmp_path: Path, fused: bool) -> None:
    """A fused step of AdamW goes by addresses: moments in another order than their weights would be mixed up."""

    def state() -> LoopState:
        made = fresh_state()
        made.model.to(memory_format=torch.channels_last)
        made.optimizer = torch.optim.AdamW(made.model.parameters(), lr=1e-3, fused=fused)
        return made

    torch.manual_seed(1)
    straight = stepped(state())
    snapshot_of(straight, REPORT).write_state(tmp_path / "last.safetensors")
    resumed = state()
    load_state(tmp_path / "last.safetensors", resumed)
    for one in (straight, resumed):
        torch.manual_seed(2)
        stepped(one)
    assert content(resumed) == content(straight)


@pytest.mark.parametrize(
    ("model", "weights", "ema_decay"),
    [("fcos_tiny", "none", 0.0), ("fcos_tiny", "none", 0.999), ("ssdlite320_mobilenet_v3_large", "backbone", 0.0)],
)
def test_the_size_of_a_state_is_known_before_it_is_written(
    tmp_path: Path, model: str, weights: str, ema_decay: float
) -> None:
    config = TrainConfig(model=model, weights=weights, image_size=64, ema_decay=ema_decay)
    info = INFO.model_copy(update={"config": config})
    detector = build_detector(config, num_classes=2, load_backbone=False)
    optimizer = torch.optim.AdamW([one for one in detector.parameters() if one.requires_grad], fused=True)
    reserve_optimizer_state(optimizer)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = LoopState(info=info, step=1, model=detector, optimizer=optimizer, scaler=scaler)
    state.average = first_average(detector) if ema_decay else None
    snapshot = snapshot_of(state, REPORT)
    snapshot.write_state(tmp_path / "last")
    snapshot.write_model(tmp_path / "best")
    written = [(tmp_path / name).stat().st_size for name in ("last", "best")]
    assert checkpoint_bytes(config, num_classes=2) == tuple(pytest.approx(size, rel=0.03) for size in written)


def read_state(path: Path) -> None:
    load_state(path, fresh_state())


@pytest.mark.parametrize("read", [read_state, read_report])
@pytest.mark.parametrize("content", [None, b"", b"\x80\x04K\x01.", b"{}"], ids=str)
def test_what_is_no_checkpoint(tmp_path: Path, read: Callable[[Path], object], content: bytes | None) -> None:
    path = tmp_path / "last.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="no such file, expected a checkpoint|not a whole safetensors file"):
        read(path)


@pytest.mark.parametrize(("read", "told"), [(read_state, "holds a model alone"), (read_report, "not the state of a")])
def test_a_model_alone_is_no_state(tmp_path: Path, read: Callable[[Path], object], told: str) -> None:
    save_model(tmp_path / "best", fresh_state().model, INFO)
    with pytest.raises(ModelError, match=told):
        read(tmp_path / "best")
