"""A detector's file -> a ``Predictor``: ``model.onnx`` runs without torch, ``model.safetensors`` in torch.

Both compute in float32, so that they give the same answer.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqc.data.tiles.views import TilePlan
from vqc.errors import ModelError
from vqc.inference.calibration import load_calibration
from vqc.inference.detections import Detections
from vqc.inference.predictor import Predictor, cpu_label, spared_threads

METADATA_PREFIX = "vqc."  # of the keys in an exported file's metadata


@dataclass(frozen=True, kw_only=True, eq=False)
class _OnnxBackend:
    session: Any  # an onnxruntime.InferenceSession
    device: str

    def __call__(self, images: NDArray[np.uint8]) -> list[Detections]:
        batches = np.ascontiguousarray(images.transpose(0, 3, 1, 2))[:, None]  # the graph takes one image at a time
        names = ["boxes", "scores", "labels"]
        return [Detections.from_output(*self.session.run(names, {"images": batch})) for batch in batches]


def open_predictor(path: Path, *, threads: int | None = None) -> Predictor:
    """The detector in a ``.safetensors`` or ``.onnx`` file, with the calibration that lies beside it.

    ``threads`` are onnxruntime's; None: ``spared_threads()``.

    Raises:
        ModelError: the file or its calibration is missing, damaged, or of another kind.
    """
    if path.suffix == ".onnx":
        predictor = _open_onnx(path, threads or spared_threads())
    elif path.suffix == ".safetensors":
        from vqc.inference.torch_backend import torch_predictor
        from vqc.models.checkpoint import load_model

        predictor = torch_predictor(*load_model(path))
    else:
        raise ModelError(f"{path}: expected a model.safetensors or a model.onnx, got '{path.suffix or path.name}'")
    return replace(predictor, calibration=load_calibration(path, weights_sha256=predictor.weights_sha256))


def _open_onnx(path: Path, threads: int) -> Predictor:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it counts this machine and its models for its maker
    import onnxruntime

    if not path.is_file():
        raise ModelError(f"{path}: no such file, expected an exported detector")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: its warnings are about constants that it folds away
    options.intra_op_num_threads = threads
    # Bytes are kept in memory as long as the session; other letters in a path fail on some Windows code pages.
    source = str(path) if str(path).isascii() else path.read_bytes()
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 (the runtime's exceptions share no ancestor but this)
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"{path}: not a whole ONNX file ({reason})") from None
    metadata = session.get_modelmeta().custom_metadata_map
    found = {key.removeprefix(METADATA_PREFIX): text for key, text in metadata.items()}
    try:
        height, width = json.loads(found["image_size"])
        return Predictor(
            detect_fitted=_OnnxBackend(session=session, device=cpu_label(threads)),
            architecture=found["model"],
            categories=tuple((int(id_), str(name)) for id_, name in json.loads(found["categories"])),
            image_size=(height, width),
            tiles=TilePlan.model_validate_json(tiles) if (tiles := found.get("tiles", "null")) != "null" else None,
            fingerprint=found["fingerprint"],
            epoch=int(found["epoch"]),
            weights_sha256=found["weights_sha256"],
        )
    except (KeyError, ValueError, TypeError):
        raise ModelError(
            f"{path}: not exported by this version of the project; its metadata lack the categories, the size or the "
            "weights' sha256"
        ) from None
