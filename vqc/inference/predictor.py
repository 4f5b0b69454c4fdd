"""A detector's file, ready to run: the one way from a picture to its detections.

Prediction, evaluation, explanation, latency and the parity check all use a ``Predictor``. A ``model.onnx`` is run by
onnxruntime and loads no torch; a ``model.safetensors`` is run by ``vqc.inference.torch_backend``. Both compute in
float32, so that they give the same answer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vqc.data.letterbox import fit_image
from vqc.errors import ModelError
from vqc.inference.calibration import Calibration, load_calibration
from vqc.inference.detections import Detections

if TYPE_CHECKING:
    from torch import nn

__all__ = ["METADATA_PREFIX", "Backend", "Category", "Predictor", "cpu_label", "open_predictor", "spared_threads"]

METADATA_PREFIX = "vqc."  # of the keys in an exported file's metadata

Category = tuple[int, str]  # id and name in the training annotations


class Backend(Protocol):
    """A detector on images that are fitted already: uint8 [N, H, W, 3] RGB -> N detections in pixels of these."""

    @property
    def device(self) -> str:
        """Where it runs at present, such as "CPU, 2 threads" or the name of a GPU."""

    def __call__(self, images: NDArray[np.uint8]) -> list[Detections]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """A detector and what a user of it must know.

    Attributes:
        detect_fitted: its backend; raw scores.
        architecture: name of the detector.
        categories: in the order of the labels 1..C.
        image_size: height and width in pixels that images are fitted to.
        fingerprint: of the data it was trained on.
        epoch: finished epochs of its training.
        weights_sha256: of the weights, in hex; equal in a file of weights and the ONNX file exported from them.
        calibration: of these weights; None without one.
        model: the torch module, for gradients; None for an ONNX file.
    """

    detect_fitted: Backend
    architecture: str
    categories: tuple[Category, ...]
    image_size: tuple[int, int]
    fingerprint: str
    epoch: int
    weights_sha256: str
    calibration: Calibration | None = None
    model: nn.Module | None = None

    def detect(self, image: NDArray[np.uint8], *, image_id: int = 0) -> Detections:
        """Detections on a picture [h, w, 3] RGB, in its pixels; scores are calibrated where a calibration is known."""
        height, width = image.shape[:2]
        (fitted,) = self.detect_fitted(fit_image(image, self.image_size)[None])
        return self.calibrated(fitted.in_image(image_id, width=width, height=height, size=self.image_size))

    def calibrated(self, raw: Detections) -> Detections:
        """The same detections with calibrated scores where a calibration is known."""
        return raw if self.calibration is None else self.calibration.calibrated(raw)

    def category(self, label: int) -> Category:
        """Id and name of a label in 1..C."""
        return self.categories[label - 1]


@dataclass(frozen=True, kw_only=True, eq=False)
class _OnnxBackend:
    session: Any  # an onnxruntime.InferenceSession
    threads: int

    @property
    def device(self) -> str:
        return cpu_label(self.threads)

    def __call__(self, images: NDArray[np.uint8]) -> list[Detections]:
        batches = np.ascontiguousarray(images.transpose(0, 3, 1, 2))[:, None]  # the graph takes one image at a time
        names = ["boxes", "scores", "labels"]
        return [Detections.from_output(*self.session.run(names, {"images": batch})) for batch in batches]


def open_predictor(path: Path, *, threads: int | None = None) -> Predictor:
    """The detector in a ``.safetensors`` or ``.onnx`` file, with the calibration that lies beside it.

    Args:
        threads: of onnxruntime; None: ``spared_threads()``.

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
    import onnxruntime

    if not path.is_file():
        raise ModelError(f"{path}: no such file, expected an exported detector")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: its warnings are about constants that it folds away
    options.intra_op_num_threads = threads
    try:
        # From bytes: the runtime would open the path itself, which fails on some Windows code pages.
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 (the runtime's exceptions share no ancestor but this)
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"{path}: not a whole ONNX file ({reason})") from None
    metadata: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    found = {key.removeprefix(METADATA_PREFIX): text for key, text in metadata.items()}
    try:
        height, width = json.loads(found["image_size"])
        return Predictor(
            detect_fitted=_OnnxBackend(session=session, threads=threads),
            architecture=found["model"],
            categories=tuple((int(id_), str(name)) for id_, name in json.loads(found["categories"])),
            image_size=(height, width),
            fingerprint=found["fingerprint"],
            epoch=int(found["epoch"]),
            weights_sha256=found["weights_sha256"],
        )
    except (KeyError, ValueError, TypeError):
        raise ModelError(
            f"{path}: not exported by this version of the project; its metadata lack the categories, the size or the "
            "weights' sha256"
        ) from None


def spared_threads() -> int:
    """One thread less than there are cores, at least one.

    Two threads that share a core with something else wait for each other, fifty times longer than alone.
    """
    return max(1, (os.cpu_count() or 1) - 1)


def cpu_label(threads: int) -> str:
    """A CPU as reports name it: "CPU, 1 thread"."""
    return f"CPU, {threads} thread{'s' * (threads != 1)}"
