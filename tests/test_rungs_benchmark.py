"""The rank correlation at the rungs, of curves whose ranks are known."""

from __future__ import annotations

import pytest

from tests.benchmarks.rungs import rank_correlations
from tests.tables import add_trial, search_settings, search_started
from tune.history.table import Table


def table_of(curves: list[list[float]]) -> Table:
    settings = search_settings(epochs=3)
    table = Table()
    table.apply(search_started(settings))
    for values in curves:
        add_trial(table, settings, values=values)
    return table


def test_ranks_at_each_epoch_are_compared_with_those_at_the_end() -> None:
    curves = [[0.4, 0.1, 0.2], [0.3, 0.45, 0.5], [0.2, 0.5, 0.7], [0.1, 0.7, 0.9], [0.9]]
    assert rank_correlations(table_of(curves)) == pytest.approx([-1.0, 1.0])


def test_few_whole_trials_say_nothing() -> None:
    assert rank_correlations(table_of([[0.1, 0.2, 0.3]] * 3 + [[0.1]] * 9)) == []
