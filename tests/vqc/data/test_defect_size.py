"""Defects that a detector's input makes too small are found, with what would make them large enough."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqc.data.defect_size import Defects, DetectorInput, check_defect_size, size_table, sizes_at
from vqc.data.findings import Report


def defects(sides_px: list[float], photograph: tuple[int, int] = (2000, 1000)) -> Defects:
    """Squares of these sides, on photographs of one width and height."""
    sides = np.array(sides_px, np.float32).reshape(-1, 1).repeat(2, axis=1)
    return Defects(sides_px=sides, photographs_px=np.array([photograph] * len(sides), np.float32).reshape(-1, 2))


def seen(size: tuple[int, int] = (512, 512), *, tile_px: int = 0, stride_px: int = 4) -> DetectorInput:
    return DetectorInput(size=size, tile_px=tile_px, stride_px=stride_px)


def messages(found: Defects, where: DetectorInput) -> list[str]:
    report = Report()
    check_defect_size(found, where, report)
    assert all((finding.severity, finding.kind) == ("warning", "small defects") for finding in report.findings)
    return [finding.message for finding in report.findings]


def test_sizes_are_those_of_the_photographs_and_of_each_input() -> None:
    table = size_table(defects([20, 40, 80]), [seen(), seen((500, 500)), seen((1024, 1024), tile_px=256)])
    assert [one.sides_px[1] for one in table] == [40, 10.24, 10, 160]
    assert [one.place for one in table] == [
        "in the photographs", "at 512 x 512 px", "at 500 x 500 px", "at 1024 x 1024 px, tiles of 256 px",
    ]  # fmt: skip
    assert [one.enlargement > 1 for one in table] == [False, True, True, False]


def test_an_input_that_is_not_square_is_fitted_by_its_narrower_way() -> None:
    assert sizes_at(defects([40], (1000, 2000)), seen((1000, 1000))).sides_px[1] == 20
    assert sizes_at(defects([40], (2000, 1000)), seen((320, 512))).sides_px[1] == 10.24


@pytest.mark.parametrize("sides_px", [[], [32], [160] * 95 + [8] * 5], ids=["none", "just enough", "few"])
def test_defects_of_enough_pixels_are_no_finding(sides_px: list[float]) -> None:
    assert messages(defects(sides_px), seen((500, 500))) == []


def test_small_defects_are_told_with_what_to_do() -> None:
    (message,) = messages(defects([160] * 50 + [16] * 50), seen((500, 500)))
    assert message.startswith(
        "at an input of 500 x 500 px, 10% of 100 defects have a shorter side of at most 4.0 px, expected at least 8: "
    )
    assert message.endswith(
        'tiles of 992 px of the photograph ("tile_px": 992) or an image size of 1024 x 1024 px would be enough'
    )


def test_half_of_the_defects_need_two_cells_of_the_finest_feature_map() -> None:
    (message,) = messages(defects([48] * 100), seen((500, 500), stride_px=8))
    assert "half of 100 defects have a shorter side of at most 12.0 px, expected at least 16, two cells" in message
    assert message.endswith("or a detector with finer feature maps (vqc models) would be enough")
    assert messages(defects([48] * 100), seen((500, 500), stride_px=4)) == []


def test_photographs_that_are_not_reduced_gain_nothing_from_tiles() -> None:
    (message,) = messages(defects([5], (64, 64)), seen((64, 64)))
    assert "tiles" not in message
    assert message.endswith("an image size of 128 x 128 px would be enough")


def test_what_no_input_can_show_needs_other_photographs() -> None:
    (message,) = messages(defects([0.01], (64, 64)), seen((64, 64)))
    assert message.endswith("photographs taken from nearer are needed")


@given(
    sides=st.lists(st.floats(0.5, 400), min_size=1, max_size=20),
    size=st.sampled_from([320, 512, 640]),
    stride=st.sampled_from([4, 8, 16]),
)
def test_what_is_advised_is_enough(sides: list[float], size: int, stride: int) -> None:
    found, where = defects(sides), seen((size, size), stride_px=stride)
    for message in messages(found, where):
        for tile_px in re.findall(r'"tile_px": (\d+)', message):
            assert messages(found, where.model_copy(update={"tile_px": int(tile_px)})) == []
        for side in re.findall(r"image size of (\d+) x", message):
            assert messages(found, where.model_copy(update={"size": (int(side), int(side))})) == []
