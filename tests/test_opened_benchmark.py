"""The table of searches that begin cold, and with a portfolio."""

from __future__ import annotations

from tests.benchmarks.opened import table
from tests.benchmarks.photographs import Side


def side(*epochs: tuple[float, float], trials: int = 2) -> Side:
    return Side(name="a", trials=trials, failed=0, wall_s=3600.0, epochs=epochs)


def test_the_table_has_the_best_so_far_and_paired_differences() -> None:
    cold = [side((600, 0.2), (2000, 0.5), (2500, 0.4)), side((100, 0.4), (1700, 0.5), (3700, 0.9), trials=3)]
    opened = [side((600, 0.4), (2000, 0.6)), side((100, 0.5), (1700, 0.7))]
    head, first, second, difference = table(cold, opened, 1.0)
    assert head == ["", "900 s", "1800 s", "2700 s", "3600 s", "end", "trials", "epochs"]
    assert first == ["cold", "0.300 ± 0.100", "0.350 ± 0.150", *2 * ["0.500 ± 0.000"], "0.700 ± 0.200", "2.5", "3.0"]
    assert second[1:3] == ["0.450 ± 0.050", "0.550 ± 0.150"]
    assert difference[:3] == ["difference", "0.150 ± 0.050", "0.200 ± 0.000"]


def test_one_search_has_no_error() -> None:
    assert table([side((1, 0.5))], [side((1, 0.75))], 1.0)[-1][1] == "0.250"
