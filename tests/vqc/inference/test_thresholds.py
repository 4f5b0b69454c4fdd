"""One place says from which score a part is rejected: the flag, else the calibration, else the default."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.models import calibration, write_models
from vqc.inference.model_file import open_predictor
from vqc.inference.thresholds import resolve_thresholds


@pytest.mark.parametrize(
    ("given", "calibrated", "thresholds", "says"),
    [
        (0.3, False, [0.3] * 3, "The threshold 0.3 on raw scores was given."),
        (0.0, True, [0.0] * 3, "The threshold 0 on calibrated scores (expected IoU) was given."),
        (None, False, [0.5] * 3, "No threshold was chosen for this model: 0.5 on raw scores is used."),
        (
            None,
            True,
            [0.9, 0.8, 0.7],
            "The calibration chose the threshold on the expected IoU for at most 1 % escapes.",
        ),
    ],
)
def test_the_flag_comes_first_then_the_calibration(
    given: float | None, calibrated: bool, thresholds: list[float], says: str, tmp_path: Path
) -> None:
    weights, _ = write_models(tmp_path)
    predictor = open_predictor(weights)
    if calibrated:
        predictor = replace(predictor, calibration=calibration(weights, thresholds=(0.9, 0.8, 0.7)))
    assert resolve_thresholds(predictor, given=given) == (dict(enumerate(thresholds, start=1)), says)
