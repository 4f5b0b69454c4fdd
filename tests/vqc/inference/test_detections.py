"""The one record of detections: clipped, best first, and with one rule for what reaches a threshold."""

from __future__ import annotations

import numpy as np
import pytest

from vqc.inference.detections import Detections


def test_background_is_left_out_and_the_best_comes_first() -> None:
    boxes = np.arange(16, dtype=np.float32).reshape(4, 4)
    found = Detections.from_output(boxes, np.array([0.2, 0.9, 0.5, 0.5], np.float32), np.array([1, 0, 2, 3]))
    assert found.labels.tolist() == [2, 3, 1]
    assert found.boxes[:, 0].tolist() == [8, 12, 0]


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
def test_a_score_equal_to_the_threshold_reaches_it(threshold: float) -> None:
    """0.7 as float32 is a little less than 0.7 as float64."""
    one = Detections(boxes=np.zeros((1, 4), np.float32), scores=np.array([threshold], np.float32), labels=np.array([1]))
    assert len(one.reaching({1: threshold})) == 1
    assert len(one.reaching({1: float(np.nextafter(np.float32(threshold), np.float32(1)))})) == 0
