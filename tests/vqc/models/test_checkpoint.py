"""Files of a training run: whole or refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from tests.builders import epoch_report
from vqc.config import TrainConfig
from vqc.epoch import Scores
from vqc.errors import ModelError
from vqc.files import write_atomically
from vqc.models.build import build_detector
from vqc.models.checkpoint import ModelInfo, load_model, read_info, save_model
from vqc.training.state import LoopState, load_state, read_report, snapshot_of

CONFIG = TrainConfig(model="fcos_tiny", weights="none", image_size=64, seed=5)
SCORES = Scores(ap=0.25, ap50=0.5, ap75=None, ar=0.4, class_ap={"scratch": 0.25, "Grübchen": None})
INFO = ModelInfo(
    config=CONFIG, categories=((3, "scratch"), (7, "Grübchen")), fingerprint="ab" * 32, epoch=2, scores=SCORES
)
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


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a detector's weights file."""
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    save_model(path, build_detector(CONFIG, num_classes=2), INFO)
    return path.read_bytes()


# There and back


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


def test_the_number_of_workers_may_change(saved: tuple[Path, LoopState]) -> None:
    config = CONFIG.model_copy(update={"num_workers": 8})
    back = fresh_state(INFO.model_copy(update={"config": config, "epoch": 0}))
    load_state(saved[0], back)
    assert (back.info.config, back.info.epoch) == (config, 2)


@pytest.mark.parametrize(
    "change", [{"config": CONFIG.model_copy(update={"learning_rate": 0.5})}, {"fingerprint": "cd" * 32}], ids=str
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


def test_a_model_comes_back_as_it_was(tmp_path: Path, weights: bytes) -> None:
    (tmp_path / "best.safetensors").write_bytes(weights)
    model, info = load_model(tmp_path / "best.safetensors")
    expected = build_detector(CONFIG, num_classes=2)
    assert info == INFO
    assert not model.training
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in model.state_dict().items())


# Refused


def refusal(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read(path)
    assert caught.value.what.startswith(f"{path}: ")
    assert "\n" not in caught.value.what
    return caught.value.what


def read_state(path: Path) -> None:
    load_state(path, fresh_state())


READERS = pytest.mark.parametrize("read", [load_model, read_state, read_report, read_info])


@READERS
def test_a_missing_file(tmp_path: Path, read: Callable[[Path], object]) -> None:
    assert "no such file, expected a checkpoint" in refusal(read, tmp_path / "none.safetensors")


@READERS
def test_a_folder(tmp_path: Path, read: Callable[[Path], object]) -> None:
    assert "no such file, expected a checkpoint" in refusal(read, tmp_path)


@READERS
@pytest.mark.parametrize("junk", [b"", b"\x80\x04K\x01.", b"{}", b"\xff" * 100])
def test_no_safetensors_at_all(tmp_path: Path, read: Callable[[Path], object], junk: bytes) -> None:
    (tmp_path / "junk").write_bytes(junk)
    assert "not a whole safetensors file" in refusal(read, tmp_path / "junk")


@READERS
def test_a_file_of_another_program(tmp_path: Path, read: Callable[[Path], object]) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    refusal(read, tmp_path / "foreign.safetensors")


@pytest.mark.parametrize(("read", "told"), [(read_state, "holds a model alone"), (read_report, "not the state of a")])
def test_a_model_alone_is_no_state(tmp_path: Path, read: Callable[[Path], object], told: str) -> None:
    save_model(tmp_path / "best", fresh_state().model, INFO)
    assert told in refusal(read, tmp_path / "best")


def test_weights_of_another_model(tmp_path: Path) -> None:
    save_model(tmp_path / "best", nn.Linear(2, 2), INFO)
    assert "its weights do not fit 'fcos_tiny'" in refusal(load_model, tmp_path / "best")


@given(st.data())
def test_a_file_cut_short_anywhere(
    tmp_path_factory: pytest.TempPathFactory, weights: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "best"
    path.write_bytes(weights[: data.draw(st.integers(0, len(weights) - 1))])
    refusal(load_model, path)
    path.unlink()


@given(st.data())
def test_a_bit_flipped_anywhere(tmp_path_factory: pytest.TempPathFactory, weights: bytes, data: st.DataObject) -> None:
    """As often in the header, where names, shapes and figures stand, as in the numbers."""
    header = 8 + int.from_bytes(weights[:8], "little")
    at = data.draw(st.integers(0, header - 1) | st.integers(header, len(weights) - 1))
    flipped = bytearray(weights)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flipped") / "best"
    path.write_bytes(flipped)
    refusal(load_model, path)
    path.unlink()


@pytest.mark.parametrize(
    ("true", "false"), [(b'ap50\\":0.5', b'ap50\\":0.9'), (b"scratch", b"scrotch"), (b'epoch\\":2', b'epoch\\":8')]
)
def test_a_description_that_was_changed(tmp_path: Path, weights: bytes, true: bytes, false: bytes) -> None:
    assert weights.count(true) >= 1
    (tmp_path / "best").write_bytes(weights.replace(true, false, 1))
    assert "damaged, its checksum does not fit" in refusal(load_model, tmp_path / "best")


# Writing


def test_writing_replaces_the_whole_file_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomically(path, b"a long first content")
    write_atomically(path, b"short")
    assert path.read_bytes() == b"short"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").touch()
    with pytest.raises(OSError, match="taken"):
        write_atomically(tmp_path / "taken", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


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
