"""Tiles are searched where whole photographs show defects too small, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.images import annotation, edit_json, write_data
from tune.settings import SearchSettings
from tune.tile_choices import detector_inputs, searched_tiles, view_counts, with_useful_tiles
from vqc.data.dataset import Data, load_data

RATE = {"low": 1e-4, "high": 1e-2, "log": True}
BOXES = {"small": (8, 8, 5, 5), "large": (8, 8, 100, 90)}


def data_of(folder: Path, box: str, size: tuple[int, int] = (256, 192)) -> Data:
    """Photographs whose defects are all alike."""
    write_data(folder, size=size)
    for split in ("train", "val", "test"):
        edit_json(folder / split / "annotations.json", lambda content: _resize(content, BOXES[box]))
    return load_data(folder)


def _resize(content: dict[str, Any], box: tuple[int, ...]) -> None:
    content["annotations"] = [annotation(one["id"], one["image_id"], box) for one in content["annotations"]]


def settings(
    *, choices: Sequence[int] = (0, 128, 64), train: dict[str, Any] | None = None, **values: Any
) -> SearchSettings:
    values = {
        "space": {"learning_rate": RATE, "image_size": {"choices": [64, 96]}, "tile_px": {"choices": choices}}
    } | values
    return SearchSettings.model_validate({"train": {"model": "fcos_tiny", "image_size": 64, **(train or {})}, **values})


def test_small_defects_are_searched_in_tiles(tmp_path: Path) -> None:
    found, said = with_useful_tiles(settings(), data_of(tmp_path / "data", "small"))
    assert (found, said) == (settings(), "")


@pytest.mark.parametrize(
    ("box", "size", "choices", "why"),
    [
        ("large", (256, 192), (0, 128, 64), "at 96 x 96 px show the defects large enough"),
        ("small", (64, 48), (0, 32), "at 96 x 96 px are not reduced"),
        ("small", (256, 192), (0, 512, 256), "at 96 x 96 px are no larger than a tile (256 px)"),
    ],
)
def test_where_whole_photographs_lose_nothing_tiles_are_dropped_and_that_is_said(
    tmp_path: Path, box: str, size: tuple[int, int], choices: tuple[int, ...], why: str
) -> None:
    points = ({"learning_rate": 1e-3, "image_size": 64, "tile_px": choices[1]},)
    found, said = with_useful_tiles(
        settings(choices=choices, initial_points=points), data_of(tmp_path / "data", box, size)
    )
    assert said == f"Tiles are not tried: whole photographs {why}."
    assert list(found.space) == ["learning_rate", "image_size"]
    assert found.initial_points == ({"learning_rate": 1e-3, "image_size": 64},)
    assert SearchSettings.model_validate(found.model_dump()) == found


def test_tiles_larger_than_the_photographs_are_left_out(tmp_path: Path) -> None:
    found, said = with_useful_tiles(settings(choices=(0, 512, 64)), data_of(tmp_path / "data", "small"))
    assert found.space["tile_px"].choices == (0, 64)
    assert said == ""


@pytest.mark.parametrize(
    "values",
    [{"train": {"tile_px": 64}}, {"space": {"tile_px": {"choices": [0, 64]}}}, {"space": {"learning_rate": RATE}}],
)
def test_what_the_user_decided_stays(tmp_path: Path, values: dict[str, Any]) -> None:
    given = settings(**values)
    assert with_useful_tiles(given, data_of(tmp_path / "data", "large")) == (given, "")


def test_the_inputs_are_each_image_size_and_each_tile() -> None:
    assert searched_tiles(settings()) == [0, 64, 128]
    assert list(map(str, detector_inputs(settings()))) == [
        "64 x 64 px", "96 x 96 px", "64 x 64 px, tiles of 64 px", "64 x 64 px, tiles of 128 px",
    ]  # fmt: skip
    fixed = settings(space={"learning_rate": RATE}, train={"image_size": [64, 96]})
    assert list(map(str, detector_inputs(fixed))) == ["64 x 96 px"]


def test_views_are_counted_for_each_tile(tmp_path: Path) -> None:
    data = data_of(tmp_path / "data", "small")
    counts = view_counts(settings(), data)
    assert counts["0"] == (len(data.train.images), len(data.val.images))
    assert counts["128"][1] == len(data.val.images) * 3 * 2
    assert counts["64"][1] > counts["128"][1]
    assert counts["64"][0] > len(data.train.images)
