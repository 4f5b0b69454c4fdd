"""What an epoch gives to the detector: photographs, or the tiles that were counted when the search began."""

from __future__ import annotations

import pytest

from tune.history.workload import epoch_px, views_of_epoch

OLD = {"images": {"train": 10, "val": 4}}
NEW = {**OLD, "views": {"0": [10, 4], "640": [70, 160], "1280": [30, 40]}}


@pytest.mark.parametrize(
    ("data", "tile_px", "views"),
    [
        ({}, 0, (1, 1)),
        (OLD, 0, (10, 4)),
        (OLD, 640, (10, 4)),
        (NEW, 0, (10, 4)),
        (NEW, 640, (70, 160)),
        (NEW, 1280, (30, 40)),
        (NEW, 700, (70, 160)),  # from a range: the nearest that was counted
        (NEW, 32, (70, 160)),
        ({**OLD, "views": {"0": [10, 4]}}, 640, (10, 4)),
    ],
)
def test_views_are_those_that_were_counted(data: dict[str, object], tile_px: int, views: tuple[int, int]) -> None:
    assert views_of_epoch(data, tile_px) == views


def test_an_epoch_costs_the_pixels_of_its_views() -> None:
    whole = epoch_px(NEW, image_size=(320, 320), tile_px=0)
    assert epoch_px(NEW, image_size=(640, 640), tile_px=0) == 4 * whole
    assert epoch_px(NEW, image_size=(320, 320), tile_px=640) == whole * (3 * 70 + 160) / (3 * 10 + 4)
