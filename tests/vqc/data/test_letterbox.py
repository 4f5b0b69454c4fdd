"""The arithmetic of fitting; what a fitted picture looks like is in ``test_loader``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqc.data.letterbox import fit_scale, inner_size, reduction


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [(640, 640, 0.5), (640, 320, 0.5), (320, 640, 0.5), (160, 80, 2.0), (3000, 2000, 0.1067)],
)
def test_the_longer_side_decides_the_scale(width: int, height: int, scale: float) -> None:
    assert fit_scale(width, height, (320, 320)) == pytest.approx(scale, abs=1e-4)


@pytest.mark.parametrize(
    ("width", "height", "factor"),
    [(4000, 3000, 4), (3000, 4000, 4), (5120, 100, 8), (1280, 1280, 2), (1279, 900, 1), (320, 320, 1), (20, 10, 1)],
)
def test_what_is_much_too_large_may_be_reduced(width: int, height: int, factor: int) -> None:
    assert reduction(width, height, (320, 320)) == factor


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(32, 1280), st.integers(32, 1280))
def test_twice_the_fitted_resolution_is_left(width: int, height: int, high: int, wide: int) -> None:
    factor = reduction(width, height, (high, wide))
    rows, columns = inner_size(width, height, (high, wide))
    if factor > 1:
        assert height / factor >= 2 * (rows - 1)
        assert width / factor >= 2 * (columns - 1)
