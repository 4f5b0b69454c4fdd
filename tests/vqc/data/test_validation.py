"""Defects that a detector's input makes too small are reported, and categories that look like one."""

from __future__ import annotations

import numpy as np
import pytest

from vqc.data.annotations import Category
from vqc.data.findings import Report
from vqc.data.validation import check_category_names, check_defect_size


def messages(sides_px: list[float], size: tuple[int, int] = (512, 512)) -> list[str]:
    report = Report()
    check_defect_size(np.array(sides_px, dtype=np.float32), size=size, report=report)
    assert all((finding.severity, finding.kind) == ("warning", "small defects") for finding in report.findings)
    return [finding.message for finding in report.findings]


@pytest.mark.parametrize("sides_px", [[], [8], [40] * 95 + [2] * 5], ids=["none", "just enough", "few"])
def test_data_with_defects_of_enough_pixels_has_no_finding(sides_px: list[float]) -> None:
    assert messages(sides_px) == []


def test_an_image_size_that_is_enough_is_named() -> None:
    (message,) = messages([40] * 50 + [4] * 50, size=(320, 512))
    assert "at an input of 320 x 512 px, 10% of 100 defects have a shorter side of at most 4.0 px" in message
    assert "an image size of 640 x 1024 px would be enough" in message


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (["scratch", "dent", "stain"], 0),
        (["pin-hole", "Pin hole", "dents", "dent"], 2),
        (["s", "-", "+", "1", "2"], 0),
        ([], 0),
    ],
)
def test_categories_that_look_like_one_are_reported(names: list[str], alike: int) -> None:
    report = Report()
    check_category_names([Category(id=number, name=name) for number, name in enumerate(names)], report)
    assert [finding.kind for finding in report.findings] == ["categories alike"] * alike
