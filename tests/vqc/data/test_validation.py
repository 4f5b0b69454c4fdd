"""Categories that look like one are reported."""

from __future__ import annotations

import pytest

from vqc.data.annotations import Category
from vqc.data.findings import Report
from vqc.data.validation import check_category_names


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
