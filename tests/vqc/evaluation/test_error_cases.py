"""The parts that an inspector should look at."""

from __future__ import annotations

import pytest

from tests.vqc.evaluation.test_image_metrics import BOX, HALF, found_on, grouped, split_of
from vqc.evaluation.error_cases import false_alarms, misses


def test_worst_cases_put_wrong_verdicts_first() -> None:
    big, small = (0.0, 0.0, 100.0, 100.0), (0.0, 0.0, 20.0, 20.0)
    split = split_of([(big, 1, False)], [(small, 2, False)], [], [])
    found = [
        found_on(1, ((120, 120, 140, 140), 0.95, 1)),
        found_on(2, (small, 0.3, 2)),
        found_on(3, (BOX, 0.6, 3)),
        found_on(4, (BOX, 0.4, 3)),
    ]
    missed = misses(split, found, thresholds=HALF, most=5)
    assert [(case.image_id, case.verdict_wrong) for case in missed] == [(2, True), (1, False)]
    assert missed[0].score == pytest.approx(0.3)
    assert missed[1].score is None
    alarms = false_alarms(split, found, thresholds=HALF, most=5)
    assert [(case.image_id, case.verdict_wrong, case.category) for case in alarms] == [
        (3, True, "stain"),
        (1, False, "scratch"),
    ]
    assert len(misses(split, found, thresholds=HALF, most=1)) == 1


def test_a_part_is_one_case_and_its_views_are_judged_together() -> None:
    big, small = (0.0, 0.0, 100.0, 100.0), (0.0, 0.0, 20.0, 20.0)
    split = grouped(split_of([(small, 1, False)], [(big, 1, False), (small, 2, False)], [], []), *"aabb")
    found = [found_on(1, (small, 0.9, 1)), found_on(3, (BOX, 0.6, 3)), found_on(4, (BOX, 0.8, 3))]
    (missed,) = misses(split, found, thresholds=HALF, most=5)
    assert (missed.image_id, missed.area_px2, missed.verdict_wrong) == (2, 10_000, False)
    (alarm,) = false_alarms(split, found, thresholds=HALF, most=5)
    assert (alarm.image_id, alarm.verdict_wrong) == (4, True)
