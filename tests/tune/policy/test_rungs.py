"""Rungs: the epochs at which a trial may pause."""

from __future__ import annotations

import pytest

from tests.tables import search_settings
from tune.policy.rungs import rung_epochs


@pytest.mark.parametrize(("epochs", "rungs"), [(52, [5, 9, 26]), (12, [3, 6]), (8, [2, 4]), (4, [1, 2])])
def test_rungs_are_shares_of_the_epochs_but_none_is_in_the_noise(epochs: int, rungs: list[int]) -> None:
    assert rung_epochs(search_settings(epochs=epochs)) == rungs


@pytest.mark.parametrize("epochs", [2, 3, 5, 12, 50, 52, 300])
def test_rungs_are_rising_epochs_before_the_last(epochs: int) -> None:
    rungs = rung_epochs(search_settings(epochs=epochs))
    assert rungs
    assert rungs == sorted(set(rungs))
    assert 1 <= rungs[0] <= rungs[-1] < epochs


def test_one_epoch_has_no_rung() -> None:
    assert rung_epochs(search_settings(epochs=1)) == []
