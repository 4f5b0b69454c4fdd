"""Verdicts on parts, and the same in the terms of COCO and of a spreadsheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.models import stub_predictor
from vqc.inference.detections import Detections
from vqc.inference.photographs import Photograph
from vqc.inference.verdicts import Verdict, coco_results, judge, verdicts_csv

PREDICTOR = stub_predictor()
PHOTOGRAPH = Photograph(image_id=4, path=Path("a.png"), file_name="a.png")


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Detections from rows of x0, y0, x1, y1, score, label."""
    return Detections(
        image_id=4,
        boxes=np.array([row[:4] for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row[4] for row in rows], np.float32),
        labels=np.array([row[5] for row in rows], np.int64),
    )


@given(
    scores=st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(1, 3)), max_size=6),
    limits=st.tuples(*[st.floats(0, 1)] * 3),
)
def test_a_part_fails_when_one_score_reaches_its_class_threshold(
    scores: list[tuple[float, int]], limits: tuple[float, float, float]
) -> None:
    ranked = sorted(scores, reverse=True)
    one = found(*[(0, 0, 9, 9, score, label) for score, label in ranked])
    verdict = judge(PHOTOGRAPH, one, PREDICTOR, thresholds=dict(enumerate(limits, start=1)))
    over = [score for score, label in scores if score >= np.float32(limits[label - 1])]
    assert (verdict.verdict, verdict.defects) == ("fail" if over else "pass", len(over))
    assert verdict.worst_score == (round(ranked[0][0], 6) if ranked else None)


def test_results_are_in_coco_terms() -> None:
    assert coco_results(found((1, 2, 11, 22.5, 0.75, 2)), PREDICTOR) == [
        {"image_id": 4, "category_id": 7, "bbox": [1.0, 2.0, 10.0, 20.5], "score": 0.75}
    ]


def test_a_name_is_no_formula_and_nothing_is_no_zero() -> None:
    verdict = Verdict(image_id=1, file_name="=1+1.png", verdict="unreadable", reason="cut off")
    assert verdicts_csv([verdict]).splitlines()[1] == "1,'=1+1.png,unreadable,,,,cut off"
