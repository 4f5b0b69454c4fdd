"""The clock that stands still while the machine sleeps."""

from __future__ import annotations

import pytest

from tune.execution.clock import AwakeClock


@pytest.mark.parametrize(
    ("readings_s", "awake_s"),
    [
        ([100.0, 100.1, 101.0], 1.0),
        ([100.0, 110.0, 120.0], 20.0),  # a busy machine
        ([100.0, 101.0, 3701.0, 3702.0], 2.0),  # an hour of sleep
        ([100.0, 3700.0, 7300.0], 0.0),
    ],
)
def test_gaps_do_not_count(readings_s: list[float], awake_s: float) -> None:
    readings = iter(readings_s)
    clock_s = AwakeClock(lambda: next(readings))
    assert [clock_s() for _ in readings_s[1:]][-1] == pytest.approx(awake_s)
