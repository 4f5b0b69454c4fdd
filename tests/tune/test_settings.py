"""Settings of one search: the declared space against the configuration it varies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tune.settings import Budget, Dimension, SearchSettings, load_settings, scaled_to_data, with_params
from vqc.config import TrainConfig, parse_record
from vqc.errors import ConfigError

SPACE = {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}, "batch_size": {"choices": [4, 8]}}


def told(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_record(SearchSettings, {"train": {}, "space": SPACE, **values}, source="search.json")
    return str(caught.value)


def write(path: Path, **values: Any) -> Path:
    path.write_text(json.dumps({"train": {"num_epochs": 5}, "space": SPACE, **values}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        ({}, "space: "),
        ({"weights": {"choices": ["none", "backbone"]}}, "space.weights: cannot be searched"),
        ({"lerning_rate": {"choices": [1e-3]}}, "space.lerning_rate: not a field of the training configuration; did"),
        ({"learning_rate": {"low": 1e-5, "hgih": 1}}, "space.learning_rate.hgih: unknown key; did you mean 'high'?"),
        ({"learning_rate": {"low": 1e-5}}, "space.learning_rate: expected either low and high, or choices"),
        ({"learning_rate": {"low": 1e-5, "choices": [1e-3]}}, "expected either low and high, or choices"),
        ({"learning_rate": {}}, "space.learning_rate: expected either low and high, or choices"),
        ({"learning_rate": {"low": 1e-2, "high": 1e-2}}, "expected low < high, got 0.01 and 0.01"),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "expected low > 0 on a logarithmic scale, got 0.0"),
        ({"learning_rate": {"low": 1e-5, "high": 11}}, "learning_rate: got 11.0, expected less than or equal to 10"),
        ({"learning_rate": {"low": True, "high": 2}}, "space.learning_rate.low: got True, expected a valid number"),
        ({"batch_size": {"choices": []}}, "space.batch_size.choices: "),
        ({"batch_size": {"choices": [4, 4]}}, "space.batch_size: expected choices that differ"),
        ({"batch_size": {"choices": [4, "many"]}}, "batch_size: got 'many', expected a valid integer"),
        ({"batch_size": {"low": 2, "high": 8}}, "batch_size: got 2.0, expected a valid integer"),
        ({"image_size": {"choices": [320, 333]}}, "image_size.0: got 333, expected a multiple of 32"),
        ({"image_size": {"low": 320, "high": 640, "integer": True}}, "got 321, expected a multiple of 32"),
    ],
    ids=str,
)
def test_a_space_that_cannot_work(space: dict[str, Any], problem: str) -> None:
    assert problem in told({"space": space})


@pytest.mark.parametrize("rungs", [[0.5, 0.2], [0.5, 0.5], [0.0, 0.5], [0.5, 1.0], [-1]])
def test_rungs_must_rise_between_0_and_1(rungs: list[float]) -> None:
    assert "rungs: got [" in told({"rungs": rungs})


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"budget": {"trials": 0}}, "budget.trials: got 0, expected greater than or equal to 1"),
        ({"budget": {"trials": True}}, "budget.trials: got True, expected a valid integer"),
        ({"budget": {"hours": 0}}, "budget.hours: got 0, expected greater than 0"),
        ({"budget": {}}, "budget: expected trials, hours, or both"),
        ({"gpus_per_trial": 2}, "gpus_per_trial: got 2, expected 'auto' or a share above 0 and at most 1"),
        ({"metric": "map"}, "metric: got 'map', expected 'ap', 'ap50', 'ap75' or 'ar'"),
        ({"confrim": 3}, "confrim: unknown key; did you mean 'confirm'?"),
        ({"train": {"batchsize": 3}}, "train.batchsize: unknown key; did you mean 'batch_size'?"),
        ({"train": 3}, "train: got 3"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_work(values: dict[str, Any], problem: str) -> None:
    assert problem in told(values)


def test_problems_of_the_space_are_told_one_by_one_without_the_whole_file() -> None:
    space = {"batchsize": {"choices": [4]}, "image_size": {"choices": [100]}, "seed": {"choices": [-1]}}
    lines = told({"space": space, "rungs": [2]}).splitlines()
    assert lines[0] == "search.json: 4 problems"
    assert [line.split(":")[0] for line in lines[1:]] == [
        "  - space.batchsize",
        "  - space.image_size",
        "  - space.seed",
        "  - rungs",
    ]


@pytest.mark.parametrize(
    ("dimension", "corners"),
    [
        ({"low": 1e-4, "high": 1e-2, "log": True}, (1e-4, 1e-2)),
        ({"low": 0, "high": 0.5}, (0.0, 0.5)),
        ({"low": 2, "high": 9, "integer": True}, (2, 9)),
        ({"choices": [1, 2.5, "auto"]}, (1, 2.5, "auto")),
    ],
    ids=str,
)
def test_corners(dimension: dict[str, Any], corners: tuple[object, ...]) -> None:
    found = parse_record(Dimension, dimension, source="test").corners()
    assert found == corners
    assert [type(corner) for corner in found] == [type(corner) for corner in corners]


def test_params_are_put_into_the_base() -> None:
    config = with_params(TrainConfig(num_epochs=7), {"image_size": 320, "learning_rate": 0.5})
    assert (config.num_epochs, config.image_size, config.learning_rate) == (7, (320, 320), 0.5)


def test_params_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="batch_size: got 0"):
        with_params(TrainConfig(), {"batch_size": 0})


def test_flags_go_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "search.json", budget={"trials": 9}, seed=3)
    settings = load_settings(path, {"budget.trials": 2, "train.model": "fcos_tiny"})
    assert (settings.budget, settings.seed) == (Budget(trials=2), 3)
    assert (settings.train.model, settings.train.num_epochs) == ("fcos_tiny", 5)


def test_the_training_file_lies_beside_the_search_file(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"$schema": "x", "num_epochs": 11}', encoding="utf-8")
    assert load_settings(write(tmp_path / "search.json", train="mine.json"), {}).train.num_epochs == 11


def test_a_training_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.json: no such file"):
        load_settings(write(tmp_path / "search.json", train="absent.json"), {})


@pytest.mark.parametrize(
    ("in_file", "flags", "expected"),
    [
        ({"trials": 9, "hours": 8.0}, {}, Budget(trials=9, hours=8.0)),
        ({"trials": 9, "hours": 8.0}, {"budget.trials": 2}, Budget(trials=2)),
        ({"trials": 9}, {"budget.hours": 6.0}, Budget(hours=6.0)),
        ({"trials": 9}, {"budget.hours": 6.0, "budget.trials": 5}, Budget(trials=5, hours=6.0)),
    ],
    ids=str,
)
def test_a_limit_that_is_given_takes_the_place_of_the_files_budget(
    tmp_path: Path, in_file: dict[str, float], flags: dict[str, float], expected: Budget
) -> None:
    assert load_settings(write(tmp_path / "search.json", budget=in_file), flags).budget == expected


@pytest.mark.parametrize("key", ["trials", "hours"])
def test_a_settings_file_of_version_1_is_told_where_its_budget_belongs(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f'{key}: expected inside "budget"'):
        load_settings(write(tmp_path / "search.json", **{key: 9}), {})


@pytest.mark.parametrize(
    ("space", "sizes"),
    [({"batch_size": {"choices": [2, 4]}}, [128]), ({"image_size": {"choices": [160, 96]}}, [96, 160])],
)
def test_image_sizes_are_those_of_the_space_or_the_one_size(space: dict[str, Any], sizes: list[int]) -> None:
    settings = parse_record(SearchSettings, {"train": {"image_size": 128}, "space": space}, source="test")
    assert settings.image_sizes() == sizes


@pytest.mark.parametrize(
    ("steps", "images", "train", "epochs"),
    [
        (None, 850, {}, 50),
        (3000, 850, {}, 28),  # 107 steps an epoch
        (3000, 850, {"batch_size": 4}, 14),
        (3000, 850, {"gradient_accumulation_steps": 2}, 56),
        (3000, 20, {}, 100),
        (3000, 100_000, {}, 6),
    ],
)
def test_epochs_are_what_a_full_training_takes_on_the_data(
    steps: int | None, images: int, train: dict[str, int], epochs: int
) -> None:
    values = {"train": train, "space": SPACE, "full_training_steps": steps}
    settings = SearchSettings.model_validate(values)
    assert scaled_to_data(settings, images).train.num_epochs == epochs
