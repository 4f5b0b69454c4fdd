"""Searches over recorded trainings, of a surface that is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.detectors import CURVES, MARKS_S, recorded, search_settings, simulate
from tests.benchmarks.policy import OPENED, OURS, RIVALS
from vqc.files import whole_lines


def known_curve(rate: float, batch_size: int) -> list[float]:
    """Best at 1e-3 and the smallest batch; half as high after half of ten epochs."""
    end = 0.7 - 0.2 * math.log10(rate / 1e-3) ** 2 - 0.02 * batch_size
    return [round(end * epoch / 10, 4) for epoch in range(1, 11)]


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "curves.jsonl"
    lines = [
        {"params": {"learning_rate": rate, "batch_size": batch_size, "image_size": size}, "seed": 0,
         "cpu_s": size / 2, "ap50": known_curve(rate, batch_size)}
        for rate in (3e-4, 6e-4, 1.2e-3, 2.4e-3, 4.8e-3, 1e-2) for batch_size in (2, 4, 8, 16) for size in (224, 448)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_what_was_recorded_is_found_again_between_the_grids_points(curves: Path) -> None:
    known = recorded(curves)
    params = {"learning_rate": 9e-4, "batch_size": 4, "image_size": 320}
    assert known.curve(params) == pytest.approx(known_curve(9e-4, 4), abs=0.01)
    assert known.epoch_s(params) == pytest.approx(16, rel=0.05)
    assert known.best == pytest.approx(0.66, abs=0.01)
    assert np.abs(known.residuals).max() < 0.01


@pytest.mark.parametrize("label", [OURS, OPENED])
def test_a_search_comes_near_the_best_in_less_than_all_epochs(curves: Path, label: str) -> None:
    rival = next(rival for rival in RIVALS if rival.label == label)
    found = simulate(rival, 0, curves=curves)
    assert found == simulate(rival, 0, curves=curves)
    assert -0.001 < found.proposed <= found.completed <= found.end + 1e-9
    assert found.end < 0.03 < found.short[0]
    assert len(found.short) == len(MARKS_S)
    assert 30 < found.epochs < 300


def test_the_recorded_trainings_are_of_the_space_that_is_searched() -> None:
    space = search_settings().space
    lines = [json.loads(line) for line in whole_lines(CURVES)]
    assert {len(line["ap50"]) for line in lines} == {search_settings().train.num_epochs}
    for name in ("batch_size", "image_size"):
        assert {line["params"][name] for line in lines} == set(space[name].choices or ())
    rates = [line["params"]["learning_rate"] for line in lines]
    assert (min(rates), max(rates)) == (space["learning_rate"].low, space["learning_rate"].high)
