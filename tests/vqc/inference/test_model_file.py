"""Photographs in, detections out: the same from torch and ONNX, and ONNX without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests import images
from tests.models import SIZE, calibration, decided, picture, write_models
from vqc.data.image_io import DecodedPicture
from vqc.errors import ModelError
from vqc.hardware.precision import Precision
from vqc.inference.calibration import save_calibration
from vqc.inference.model_file import open_predictor
from vqc.inference.onnx_export import export_onnx
from vqc.inference.photographs import find_photographs, read_photograph
from vqc.inference.torch_backend import torch_predictor
from vqc.models.checkpoint import ModelInfo, save_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    torch.set_num_threads(1)
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def tiny() -> tuple[nn.Module, ModelInfo]:
    return decided("fcos_tiny", SIZE)


@pytest.mark.skipif(sys.platform == "win32", reason="its place on Windows is another")
def test_a_model_that_is_opened_reports_to_nobody(models: tuple[Path, Path], tmp_path: Path) -> None:
    """ONNX Runtime writes what it wants to send into the user's cache first; without CI, where it may be silent."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    code = f"from pathlib import Path; import vqc.inference.model_file as m; m.open_predictor(Path({str(models[1])!r}))"
    subprocess.run([sys.executable, "-c", code], check=True,
                   env={**kept, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)})  # fmt: skip
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_onnx_gives_the_answer_of_torch(models: tuple[Path, Path], tmp_path: Path) -> None:
    images.write_split(tmp_path / "test", count=6, first_seed=0)
    ours, theirs = (open_predictor(path) for path in models)
    assert ours.weights_sha256 == theirs.weights_sha256
    assert (ours.epoch, ours.fingerprint, ours.image_size) == (theirs.epoch, theirs.fingerprint, theirs.image_size)
    pixels = [read_photograph(one) for one in find_photographs(tmp_path / "test/images")]
    pairs = [(ours.detect(one), theirs.detect(one)) for one in pixels]
    assert sum(len(one) for one, _ in pairs) > 50
    for one, two in pairs:
        np.testing.assert_allclose(one.boxes, two.boxes, atol=0.02)
        np.testing.assert_array_equal(one.labels, two.labels)
        np.testing.assert_allclose(one.scores, two.scores, atol=1e-3)


def test_an_exported_detector_needs_no_torch(models: tuple[Path, Path], tmp_path: Path) -> None:
    photo = images.save_picture(tmp_path, seed=3)
    save_calibration(models[1], calibration(models[1]))
    flags = ["--model", str(models[1]), "--images", str(photo)]
    code = (
        f"import sys\nfrom vqc.cli.main import main\nflags = {flags}\n"
        f"done = main(['predict', *flags, '--out', {str(tmp_path / 'out')!r}])\n"
        f"done += main(['explain', *flags, '--masks', '4', '--out', {str(tmp_path / 'why')!r}])\n"
        "print(done, sorted({'torch', 'torchvision', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize("kind", [0, 1], ids=["safetensors", "onnx"])
@pytest.mark.parametrize("alone", [False, True])
def test_one_calibration_serves_both_files_of_a_model(kind: int, alone: bool, tmp_path: Path) -> None:
    models = write_models(tmp_path)
    raw = open_predictor(models[kind]).detect(DecodedPicture.whole(picture(5))).scores
    save_calibration(models[0], calibration(models[0]))
    if alone:
        models[1 - kind].unlink()
    scores = open_predictor(models[kind]).detect(DecodedPicture.whole(picture(5))).scores
    odds = np.sqrt(raw / (1 - raw))
    np.testing.assert_allclose(scores, odds / (1 + odds), atol=1e-5)


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_a_calibration_of_another_model_is_refused(kind: str, tmp_path: Path) -> None:
    """Of the same name, in the same folder, beside the weights that it was fitted to."""
    weights, _ = write_models(tmp_path)
    save_calibration(weights, calibration(weights))
    other, info = decided("fcos_tiny", SIZE)
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    path = tmp_path / f"model.{kind}"
    if kind == "onnx":
        export_onnx(other, info, path)
    else:
        save_model(path, other, info)
    with pytest.raises(ModelError, match=r"calibration\.json: was fitted to other weights than those in model\."):
        open_predictor(path)


@pytest.mark.parametrize("shape", [(96, 128), (333, 51), (40, 700), (1, 1)])
@pytest.mark.parametrize("kind", [0, 1], ids=["safetensors", "onnx"])
def test_boxes_are_in_pixels_of_any_picture(models: tuple[Path, Path], kind: int, shape: tuple[int, int]) -> None:
    found = open_predictor(models[kind]).detect(DecodedPicture.whole(picture(5, shape)), image_id=7)
    height, width = shape
    assert found.image_id == 7
    assert found.boxes.dtype == np.float32
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [width, height, width, height]).all()
    assert (np.diff(found.scores) <= 0).all()


class _FullGpu(str):
    """A device of the CPU's name that passes for a GPU with room for few images."""

    type = "cuda"


class _OnFullGpu(nn.Module):
    def __init__(self, model: nn.Module, room: int) -> None:
        super().__init__()
        self.model, self.transform, self.device, self.room = model, model.transform, "", room
        self.sizes: list[int] = []

    def to(self, device: object, memory_format: object = None) -> _OnFullGpu:  # type: ignore[override]
        self.device = getattr(device, "type", "")
        return self

    def forward(self, batch: torch.Tensor) -> object:
        self.sizes.append(len(batch))
        if self.device == "cuda" and len(batch) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.model(batch)


@pytest.mark.parametrize(("room", "sizes", "ends_on"), [(0, [5, 2] + [1] * 6, "cpu"), (2, [5, 2, 2, 1], "cuda")])
def test_where_the_gpu_is_full_it_takes_fewer_images_and_then_the_cpu(
    room: int, sizes: list[int], ends_on: str, tiny: tuple[nn.Module, ModelInfo]
) -> None:
    model, info = tiny
    cpu = Precision(device=torch.device("cpu"), dtype=torch.float32)
    pictures = np.stack([picture(seed) for seed in range(5)])
    expected = torch_predictor(model, info, precision=cpu).detect_fitted(pictures)
    full = _OnFullGpu(model, room)
    found = torch_predictor(full, info, precision=replace(cpu, device=_FullGpu("cpu"))).detect_fitted(pictures)
    assert full.device == ends_on
    assert full.sizes == sizes
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)


def test_an_image_that_no_memory_holds_is_one_sentence(tiny: tuple[nn.Module, ModelInfo]) -> None:
    class Full(_OnFullGpu):
        def forward(self, batch: torch.Tensor) -> object:
            raise MemoryError

    cpu = Precision(device=torch.device("cpu"), dtype=torch.float32)
    with pytest.raises(ModelError, match="one image of 128 x 96 px does not fit into memory"):
        torch_predictor(Full(tiny[0], 0), tiny[1], precision=cpu).detect(DecodedPicture.whole(picture(1)))


def test_a_file_opens_whatever_letters_its_path_has(models: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "Gehäuse").mkdir()
    path = Path(shutil.copy(models[1], tmp_path / "Gehäuse/model.onnx"))
    assert open_predictor(path).weights_sha256 == open_predictor(models[1]).weights_sha256


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[: len(data) // 2], "not a whole ONNX file"),
        (lambda data: b"", "not a whole ONNX file"),
        (lambda data: data.replace(b"vqc.image_size", b"abc.image_size"), "not exported by this version"),
        (lambda data: data.replace(b"vqc.weights_sha256", b"abc.weights_sha256"), "not exported by this version"),
    ],
    ids=["cut", "empty", "foreign", "old"],
)
def test_a_file_that_is_none_of_ours_is_one_sentence(
    models: tuple[Path, Path], tmp_path: Path, damage: Callable[[bytes], bytes], says: str
) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(damage(models[1].read_bytes()))
    with pytest.raises(ModelError, match=says) as caught:
        open_predictor(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "says"), [("none.onnx", "no such file"), ("a.png", "expected a model.safetensors or a model.onnx")]
)
def test_a_missing_file_is_one_sentence(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=says):
        open_predictor(tmp_path / name)
