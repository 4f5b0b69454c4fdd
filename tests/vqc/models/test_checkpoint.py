"""Weights files: whole or refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from vqc.config import TrainConfig
from vqc.epoch import Scores
from vqc.errors import ModelError
from vqc.files import write_atomically
from vqc.models.build import build_detector
from vqc.models.checkpoint import ModelInfo, load_model, read_info, save_model

CONFIG = TrainConfig(model="fcos_tiny", weights="none", image_size=64, seed=5)
SCORES = Scores(ap=0.25, ap50=0.5, ap75=None, ar=0.4, class_ap={"scratch": 0.25, "Grübchen": None})
INFO = ModelInfo(
    config=CONFIG, categories=((3, "scratch"), (7, "Grübchen")), fingerprint="ab" * 32, epoch=2, scores=SCORES
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a detector's weights file."""
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    save_model(path, build_detector(CONFIG, num_classes=2), INFO)
    return path.read_bytes()


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


READERS = pytest.mark.parametrize("read", [load_model, read_info])


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
