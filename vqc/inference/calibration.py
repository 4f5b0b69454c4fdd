"""The calibration of one detector and its operating point, as a file beside the model.

Written by ``vqc calibrate``; read wherever a detector is opened. ``model.safetensors`` and the ``model.onnx`` exported
from it share ``model.calibration.json``, which names the weights that it was fitted to by their sha256. A calibrated
score is the expected overlap (IoU) with a defect of that class, 0 for a false alarm; it is no probability of a defect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from vqc.config import Record
from vqc.errors import ModelError
from vqc.files import write_atomically
from vqc.inference.detections import Detections

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
            # As scipy's logit and expit to the last digit of float32; the server does without scipy's 18 MB.
            inside = raw.clip(EDGE, 1 - EDGE)
            return np.asarray(
                1 / (1 + np.exp(-(self.slope * np.log(inside / (1 - inside)) + self.intercept))), np.float32
            )
        x, y = np.array(self.knots).T
        return np.asarray(np.interp(raw, x, y), np.float32)


class Proportion(Record):
    """``count`` of ``total`` parts."""

    count: int = Field(ge=0)
    total: int = Field(ge=0)


class OperatingPoint(Record):
    """The scores from which a part is rejected, and what they were chosen for on val."""

    max_escape: float = Field(gt=0, lt=1, description="the share of defective parts that may pass")
    confidence: float | None = Field(
        None, gt=0, lt=1, description="that the true escape rate is not higher; None: it is not higher on average"
    )
    thresholds: tuple[float, ...] = Field(description="lowest calibrated score that rejects, per class in label order")
    per_class: bool = Field(description="whether the classes have thresholds of their own")
    tolerated: int = Field(ge=0, description="defective val parts that may pass so that the promise holds")
    reached: bool = Field(description="whether no more than these pass")
    escape: Proportion = Field(description="on val, which chose the thresholds")
    overkill: Proportion = Field(description="on val, which chose the thresholds")


class Calibration(Record):
    """What ``vqc calibrate`` found for one detector."""

    version: Literal[2] = 2
    model_file: str = Field(description="name of the file it was fitted to")
    weights_sha256: str = Field(description="of the weights it was fitted to, whatever file holds them")
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
        return replace(found, scores=apply_curves(self.curves, found.scores, found.labels)).best_first()


def apply_curves(
    curves: Sequence[Curve], scores: NDArray[np.float32], labels: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Raw scores [m] through the curves, [C] in label order, of their classes; ``labels`` [m] in 1..C."""
    calibrated = np.empty_like(scores)
    for label, curve in enumerate(curves, start=1):
        chosen = labels == label
        calibrated[chosen] = curve(scores[chosen])
    return calibrated


def calibration_path(model: Path) -> Path:
    """Where the calibration of a model's file lies: ``model.safetensors`` -> ``model.calibration.json``."""
    return model.with_suffix(".calibration.json")


def save_calibration(model: Path, calibration: Calibration) -> Path:
    """Write the calibration beside the model's file; returns where."""
    path = calibration_path(model)
    write_atomically(path, (calibration.model_dump_json(indent=2) + "\n").encode())
    return path


def load_calibration(model: Path, *, weights_sha256: str) -> Calibration | None:
    """The calibration beside a file of weights or an exported one, or None where there is none.

    Raises:
        ModelError: it is damaged, or was fitted to other weights than those of this sha256.
    """
    path = calibration_path(model)
    if not path.is_file():
        return None
    again = f"vqc calibrate --model {model.with_suffix('.safetensors')} --data DIR"
    try:
        found = Calibration.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        first = str(error).splitlines()[0]
        raise ModelError(f"{path}: no calibration of this version: {first:.120}", command=again) from None
    if found.weights_sha256 != weights_sha256:
        raise ModelError(f"{path}: was fitted to other weights than those in {model.name}", command=again)
    return found
