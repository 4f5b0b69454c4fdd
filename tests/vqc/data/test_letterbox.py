"""The arithmetic of fitting; what a fitted picture looks like is in ``test_loader``."""

from __future__ import annotations

import pytest

from vqc.data.letterbox import fit_scale


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [(640, 640, 0.5), (640, 320, 0.5), (320, 640, 0.5), (160, 80, 2.0), (3000, 2000, 0.1067)],
)
def test_the_longer_side_decides_the_scale(width: int, height: int, scale: float) -> None:
    assert fit_scale(width, height, (320, 320)) == pytest.approx(scale, abs=1e-4)
