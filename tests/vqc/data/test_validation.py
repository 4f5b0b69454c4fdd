"""Categories that look like one are reported."""

from __future__ import annotations

import numpy as np
import pytest

from vqc.data.annotations import Category
from vqc.data.findings import Report
from vqc.data.validation import MOST_COMPARED, check_category_names, check_repeated_boxes, close_pairs


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (["scratch", "dent", "stain"], 0),
        (["pin-hole", "Pin hole", "dents", "dent"], 2),
        (["s", "-", "+", "1", "2"], 0),
        ([], 0),
        (["Scratch", "scratches", "hole", "Holes", "boxes", "box"], 3),
    ],
)
def test_categories_that_look_like_one_are_reported(names: list[str], alike: int) -> None:
    report = Report()
    check_category_names([Category(id=number, name=name) for number, name in enumerate(names)], report)
    assert [finding.kind for finding in report.findings] == ["categories alike"] * alike


@pytest.mark.parametrize(
    ("name", "told"), [("Good", True), ("no_defect", True), ("OK", True), ("goodyear logo", False)]
)
def test_a_category_of_good_parts_is_reported(name: str, told: bool) -> None:
    report = Report()
    check_category_names([Category(id=1, name=name), Category(id=2, name="dent")], report)
    assert [finding.kind for finding in report.findings] == ["category of good parts"] * told


def test_two_boxes_at_one_place_are_reported() -> None:
    boxes = np.array(
        [(10, 10, 50, 50), (10, 10, 50, 51), (10, 10, 50, 30), (100, 10, 140, 50), (100, 11, 140, 50)], np.float32
    )
    report = Report()
    check_repeated_boxes("train, a.png", boxes, np.array([1, 1, 1, 1, 2]), ["dent", "spur"], report)
    assert [(finding.kind, finding.where) for finding in report.findings] == [
        ("two boxes at one place", "train, a.png")
    ] * 2
    first, second = (finding.message for finding in report.findings)
    assert first.startswith("two boxes 'dent' at nearly the same place: x 10 to 50, y 10 to 50")
    assert second.startswith("'dent' and 'spur' at nearly")


def test_pairs_are_looked_for_among_few_boxes_alone() -> None:
    same = np.tile(np.array([[1, 1, 9, 9]], np.float32), (MOST_COMPARED + 1, 1))
    assert close_pairs(same) == []
    assert len(close_pairs(same[:3])) == 3
    apart = np.array([[1, 1, 9, 9], [10, 1, 19, 9], [30, 1, 39, 9]], np.float32)
    assert close_pairs(apart) == []
    assert close_pairs(apart, margin_px=0.6) == [(0, 1)]
