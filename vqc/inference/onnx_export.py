"""A trained detector -> one ONNX file that can be used alone.

The exported graph takes one fitted image, ``images`` uint8 [1, 3, H, W] RGB, and returns ``boxes`` float32 [m, 4] xyxy
in pixels of the fitted image, ``scores`` float32 [m] in 0..1 and ``labels`` int64 [m] in 1..C. Its metadata hold what a
user of the file alone must know: categories, input size, padding, data, and the sha256 of the weights.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vqc.data.letterbox import PAD_VALUE
from vqc.errors import ModelError
from vqc.files import write_atomically
from vqc.inference.model_file import METADATA_PREFIX
from vqc.models.checkpoint import ModelInfo, weights_sha256

OPSET = 17  # the newest that needs no rewriting of these graphs, and old enough for TensorRT 8 and OpenVINO


class _OneImage(nn.Module):
    """The detector as the exported file runs it: a batch of one in, three plain tensors out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (found,) = self.model(images)
        return found["boxes"], found["scores"], found["labels"]


def export_onnx(model: nn.Module, info: ModelInfo, path: Path) -> None:
    """Write a detector on the CPU as one ONNX file, in float32; it exists whole or not at all.

    The model is left in evaluation mode.

    Raises:
        ModelError: torch cannot export it, or the result breaks ONNX's own rules.
    """
    import onnx

    height, width = info.config.image_size
    pixels = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    graph = io.BytesIO()
    metadata = {
        "model": info.config.model,
        "epoch": str(info.epoch),
        "categories": json.dumps(info.categories),
        "image_size": json.dumps(info.config.image_size),
        "tiles": "null" if info.tiles is None else info.tiles.model_dump_json(),
        "pad_value": str(PAD_VALUE),
        "fingerprint": info.fingerprint,
        "weights_sha256": weights_sha256(model),
        "input": "uint8 RGB; scaled to fit the top left corner of image_size (height, width), the rest pad_value; "
        "without tiles a JPEG is decoded at 1/8, 1/4 or 1/2 if twice the fitted size is left",
        "output": "boxes xyxy in pixels of the fitted image, scores 0..1, labels 1.. in the order of categories",
    }
    try:
        # torch warns of its own exporter, and of sizes that tracing makes constant: they are constant here. The parity
        # check finds anything else that became so.
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _OneImage(model).eval(),
                (pixels,),
                cast(Any, graph),  # this exporter takes a file object; the annotation is of the other one
                dynamo=False,  # the newer exporter fails on every detector of torchvision
                opset_version=OPSET,
                input_names=["images"],
                output_names=["boxes", "scores", "labels"],
                dynamic_axes={name: {0: "detections"} for name in ("boxes", "scores", "labels")},
            )
        exported = onnx.load_from_string(graph.getvalue())
        onnx.helper.set_model_props(exported, {METADATA_PREFIX + name: value for name, value in metadata.items()})
        onnx.checker.check_model(exported)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path}: '{info.config.model}' cannot be exported to ONNX: {error}") from error
    write_atomically(path, exported.SerializeToString())
