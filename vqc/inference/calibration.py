"""Scores that mean something: the calibration of one detector and its operating point, as a file beside the model.

Written by ``vqc calibrate``; read by evaluation, explanation and prediction. ``model.safetensors`` and the
``model.onnx`` exported from it share ``model.calibration.json``; it names the file it was fitted to by its sha256.
A calibrated score is the overlap (IoU) to be expected with a defect of that class, 0 for a false alarm.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from vqc.config import Record
from vqc.errors import ModelError
from vqc.files import file_sha256, write_atomically
from vqc.inference.detections import Detections

__all__ = [
    "Calibration",
    "Curve",
    "Method",
    "OperatingPoint",
    "Proportion",
    "calibration_path",
    "load_calibration",
    "save_calibration",
]

Method = Literal["none", "platt", "isotonic"]
EDGE = 1e-6  # of a score before its logarithm: 0 and 1 have none
Score = Annotated[float, Field(ge=0, le=1)]


class Curve(Record):
    """Raw score -> calibrated score, both 0..1; rises everywhere, so no detection overtakes another of its class.

    ``platt``: the sigmoid of ``slope * logit(score) + intercept``. ``isotonic``: straight lines between the knots.
    """

    method: Method
    slope: float = Field(1.0, gt=0)
    intercept: float = 0.0
    knots: tuple[tuple[Score, Score], ...] = Field((), description="raw and calibrated score, both rising from 0 to 1")

    @model_validator(mode="after")
    def _rising(self) -> Curve:
        pairs = zip(self.knots, self.knots[1:], strict=False)
        if any(x1 <= x0 or y1 <= y0 for (x0, y0), (x1, y1) in pairs):
            raise ValueError("knots: expected raw and calibrated scores that both rise")
        if self.method == "isotonic" and (not self.knots or self.knots[0][0] != 0 or self.knots[-1][0] != 1):
            raise ValueError("knots: expected the first at raw score 0 and the last at 1")
        return self

    def __call__(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated scores [m] for raw ones [m]."""
        raw = scores.astype(np.float64)
        if self.method == "none":
            return scores.astype(np.float32)
        if self.method == "platt":
            inside = np.clip(raw, EDGE, 1 - EDGE)
            odds = self.slope * np.log(inside / (1 - inside)) + self.intercept
            return np.asarray(1 / (1 + np.exp(-odds)), np.float32)
        x, y = np.array(self.knots).T
        return np.asarray(np.interp(raw, x, y), np.float32)


class Proportion(Record):
    """``count`` of ``total`` parts."""

    count: int = Field(ge=0)
    total: int = Field(ge=0)


class OperatingPoint(Record):
    """The scores from which a part is rejected, and what they were chosen for on val."""

    max_escape: float = Field(gt=0, lt=1, description="the share of defective parts that may pass")
    thresholds: tuple[float, ...] = Field(description="lowest calibrated score that rejects, per class in label order")
    per_class: bool = Field(description="whether the classes have thresholds of their own")
    reached: bool = Field(description="whether the escape rate on val is as low as asked")
    escape: Proportion = Field(description="on val, which chose the thresholds")
    overkill: Proportion = Field(description="on val, which chose the thresholds")
    confidence: float | None = Field(
        None, ge=0, le=1, description="that the true escape rate is as asked; None with thresholds per class"
    )
    parts_needed: int = Field(ge=1, description="defective val images, none of them passing, for 95 % confidence")


class Calibration(Record):
    """What ``vqc calibrate`` found for one detector."""

    version: Literal[1] = 1
    model_file: str = Field(description="name of the weights it was fitted to, in the same folder")
    model_sha256: str = Field(description="of that file")
    data_fingerprint: str = Field(description="of the data whose val split it was fitted on")
    categories: tuple[tuple[int, str], ...] = Field(description="id and name, in label order")
    method: Method
    curves: tuple[Curve, ...] = Field(description="one per class, in label order")
    operating_point: OperatingPoint

    @model_validator(mode="after")
    def _complete(self) -> Calibration:
        for name, length in (("curves", len(self.curves)), ("thresholds", len(self.operating_point.thresholds))):
            if length != len(self.categories):
                raise ValueError(f"{name}: got {length}, expected one for each of {len(self.categories)} categories")
        return self

    @property
    def thresholds(self) -> dict[int, float]:
        """Label in 1..C -> lowest calibrated score that rejects a part."""
        return dict(enumerate(self.operating_point.thresholds, start=1))

    def calibrated(self, found: Detections) -> Detections:
        """The same detections with calibrated scores, best first."""
        scores = np.empty_like(found.scores, dtype=np.float32)
        for label, curve in enumerate(self.curves, start=1):
            mine = found.labels == label
            scores[mine] = curve(found.scores[mine])
        return replace(found, scores=scores).best_first()


def calibration_path(model: Path) -> Path:
    """Where the calibration of a model's file lies: ``model.safetensors`` -> ``model.calibration.json``."""
    return model.with_suffix(".calibration.json")


def save_calibration(model: Path, calibration: Calibration) -> Path:
    """Write the calibration beside the model's file; returns where."""
    path = calibration_path(model)
    text = json.dumps(calibration.model_dump(mode="json"), indent=2, allow_nan=False, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode())
    return path


def load_calibration(model: Path) -> Calibration | None:
    """The calibration beside a model's file, or None where there is none.

    Args:
        model: the weights, or the ONNX file exported from them, which must lie in the same folder.

    Raises:
        ModelError: it is damaged, or was fitted to other weights.
    """
    path = calibration_path(model)
    if not path.is_file():
        return None
    again = f"vqc calibrate --model {model.with_suffix('.safetensors')} --data DIR"
    try:
        found = Calibration.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, ValueError, OSError) as error:
        first = str(error).splitlines()[0]
        raise ModelError(f"{path}: not a calibration of this project: {first:.120}", command=again) from None
    fitted_to = model.with_name(Path(found.model_file).name)
    if not fitted_to.is_file() or file_sha256(fitted_to) != found.model_sha256:
        raise ModelError(f"{path}: was fitted to other weights than {fitted_to.name} holds", command=again)
    return found
