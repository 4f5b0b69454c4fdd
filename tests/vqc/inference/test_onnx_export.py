"""The exported file: whole or not there, and complete in itself."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from tests.models import CATEGORIES, SIZE, decided
from vqc.data.letterbox import PAD_VALUE
from vqc.errors import ModelError
from vqc.inference.model_file import open_predictor
from vqc.inference.onnx_export import export_onnx
from vqc.models.checkpoint import weights_sha256


def test_the_file_says_what_its_user_must_know(tmp_path: Path) -> None:
    model, info = decided("fcos_tiny", SIZE)
    export_onnx(model, info, tmp_path / "model.onnx")
    predictor = open_predictor(tmp_path / "model.onnx")
    assert (predictor.categories, predictor.image_size) == (CATEGORIES, SIZE)
    assert (predictor.fingerprint, predictor.weights_sha256) == ("f" * 64, weights_sha256(model))
    assert (predictor.architecture, predictor.epoch) == ("fcos_tiny", 3)
    loaded = onnx.load(tmp_path / "model.onnx")
    props = {item.key: item.value for item in loaded.metadata_props}
    assert props["vqc.pad_value"] == str(PAD_VALUE)
    (images,) = loaded.graph.input
    assert (images.name, images.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert [side.dim_value for side in images.type.tensor_type.shape.dim] == [1, 3, *SIZE]


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
            found = torch.fft.fft(images.float()).real.reshape(-1)
            return [{"boxes": found, "scores": found, "labels": found}]

    with pytest.raises(ModelError, match="cannot be exported to ONNX"):
        export_onnx(Odd(), decided("fcos_tiny", SIZE)[1], tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
