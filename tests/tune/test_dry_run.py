"""An epoch is measured at each size before a search begins, and the plan says how long it will take."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.images import write_data
from tests.tables import search_settings
from tune import dry_run as rehearsal
from tune.reporting.eta import whole_search
from vqc.data.dataset import load_data
from vqc.errors import InfeasibleError

SETTINGS = search_settings(
    space={"image_size": {"choices": [96, 64]}, "batch_size": {"choices": [2, 4]}},
    train={"model": "fcos_tiny", "weights": "none", "image_size": 64, "batch_size": 2, "num_epochs": 6},
    trials=10,
)


def test_each_size_is_measured_and_the_whole_search_foretold(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    told: list[int] = []
    costs = list(rehearsal.epoch_costs(SETTINGS, load_data(tmp_path / "data"), on_size=told.append))
    assert [cost.image_size for cost in costs] == told == [64, 96]
    known = [cost.epoch_s for cost in costs if cost.epoch_s is not None]
    assert len(known) == 2
    assert min(known) > 0
    expected = whole_search(SETTINGS, costs)
    assert 0 < expected.low_s < expected.mean_s < expected.high_s
    assert expected.high_s < 10 * 6 * max(known) + 10


def test_tiles_cost_what_their_number_says(tmp_path: Path) -> None:
    write_data(tmp_path / "data", size=(128, 96))
    space = {"image_size": {"choices": [64]}, "tile_px": {"choices": [0, 64, 32]}}
    settings = SETTINGS.model_copy(
        update={"space": search_settings(space=space, train={"model": "fcos_tiny", "image_size": 64}).space}
    )
    costs = list(rehearsal.epoch_costs(settings, load_data(tmp_path / "data")))
    assert [(cost.image_size, cost.tile_px) for cost in costs] == [(64, 0), (64, 32), (64, 64)]
    whole_s, small_s, large_s = (cost.epoch_s or 0.0 for cost in costs)
    assert small_s > large_s > whole_s > 0


def test_a_size_that_does_not_fit_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path / "data")

    def too_large(*_: object, **__: object) -> None:
        raise InfeasibleError("one image does not fit")

    monkeypatch.setattr(rehearsal, "fit", too_large)
    assert [cost.epoch_s for cost in rehearsal.epoch_costs(SETTINGS, load_data(tmp_path / "data"))] == [None, None]
