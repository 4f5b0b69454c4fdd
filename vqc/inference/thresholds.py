"""From which score a part is rejected: the flag's threshold, else the calibration's, else a default."""

from __future__ import annotations

from vqc.errors import ConfigError
from vqc.inference.predictor import Predictor

DEFAULT_THRESHOLD = 0.5  # where none was chosen; reported as such, and no recommendation


def resolve_thresholds(predictor: Predictor, *, given: float | None) -> tuple[dict[int, float], str]:
    """Label in 1..C -> lowest score that rejects, and a sentence on where it comes from.

    ``given`` is what ``--threshold`` says for all classes; ``ConfigError`` where it is not in 0..1.
    """
    if given is not None and not 0 <= given <= 1:
        raise ConfigError("--threshold", [f"got {given:g}, expected a score from 0 to 1"])
    labels = range(1, len(predictor.categories) + 1)
    calibration = predictor.calibration
    if given is not None:
        scores = "raw scores" if calibration is None else "calibrated scores (expected IoU)"
        return dict.fromkeys(labels, given), f"The threshold {given:g} on {scores} was given."
    if calibration is None:
        source = f"No threshold was chosen for this model: {DEFAULT_THRESHOLD:g} on raw scores is used."
        return dict.fromkeys(labels, DEFAULT_THRESHOLD), source
    point = calibration.operating_point
    source = f"The calibration chose the threshold on the expected IoU for at most {100 * point.max_escape:g} % escapes"
    return calibration.thresholds, f"{source}{'' if point.reached else ', which was not reached on val'}."
