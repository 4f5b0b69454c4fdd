"""Weights are decided before a run begins, with or without a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vqc.config import TrainConfig
from vqc.errors import ModelError
from vqc.models.pretrained import resolve_weights


def config(name: str = "fcos_tiny", **values: object) -> TrainConfig:
    return TrainConfig.model_validate({"model": name, "weights": "none", "image_size": (64, 96), **values})


def test_offline_auto_starts_from_random_weights_and_says_why(offline: None) -> None:
    decided, told = resolve_weights(config("fasterrcnn_resnet50_fpn", weights="auto"))
    assert decided == config("fasterrcnn_resnet50_fpn", weights="none")
    assert told.startswith("random initial weights: ResNet50_Weights.IMAGENET1K_V1 is neither in ")
    assert "\n" not in told


def test_offline_weights_that_are_asked_for_are_an_error(offline: None) -> None:
    with pytest.raises(
        ModelError, match="neither in .* nor on the network .*; expected them there, or 'weights': 'none'"
    ):
        resolve_weights(config("fasterrcnn_resnet50_fpn", weights="backbone"))


@pytest.fixture
def stored(offline: None, tmp_path: Path) -> Path:
    """A file where torch keeps ResNet-50's weights; it holds something else."""
    path = tmp_path / "torch" / "hub" / "checkpoints" / "resnet50-0676ba61.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no weights")
    return path


def test_weights_on_the_disk_need_no_network(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "vqc.models.pretrained.file_sha256", lambda path: "0676ba61" + "0" * 56
    )  # the real file is 98 MB
    decided, told = resolve_weights(config("fasterrcnn_resnet50_fpn", weights="auto"))
    assert (decided.weights, told) == ("backbone", "backbone weights ResNet50_Weights.IMAGENET1K_V1")


def test_a_file_that_is_not_what_its_name_says_is_refused(stored: Path) -> None:
    with pytest.raises(ModelError, match=r"0676ba61\.pth: damaged, or not .* sha256 of 0676ba61\.\.\., got .*; delete"):
        resolve_weights(config("fasterrcnn_resnet50_fpn", weights="auto"))


@pytest.mark.parametrize("weights", ["auto", "none"])
def test_a_detector_without_backbone_weights(weights: str) -> None:
    assert resolve_weights(config(weights=weights)) == (config(), "random initial weights")


def test_lite0_has_its_weights_without_a_network(offline: None) -> None:
    decided, told = resolve_weights(config("fcos_lite0", weights="auto"))
    assert (decided.weights, told) == ("backbone", "backbone weights EfficientNet_Lite0_Weights.IMAGENET1K")


def test_backbone_weights_that_do_not_exist() -> None:
    with pytest.raises(ModelError, match="there are no backbone weights for 'fcos_tiny', expected 'none' or 'auto'"):
        resolve_weights(config(weights="backbone"))


def test_deciding_on_random_weights_does_not_import_torch() -> None:
    code = (
        "import sys; from vqc.config import TrainConfig; from vqc.models.pretrained import resolve_weights;"
        "resolve_weights(TrainConfig(model='fcos_tiny', weights='auto')); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
