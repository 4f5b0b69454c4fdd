"""Escape, overkill and what was overlooked, against a reference written by hand; no false zeros."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vqc.evaluation.test_coco_metrics import CATEGORIES, random_case, record
from vqc.data.dataset import Split
from vqc.evaluation.error_cases import false_alarms, misses
from vqc.evaluation.image_metrics import (
    confusion,
    froc,
    per_image,
    recall_by_class,
    recall_by_size,
    terciles_px2,
    trade_off,
)
from vqc.evaluation.intervals import FEWEST, clopper_pearson, parts_needed, rate
from vqc.evaluation.matching import ALONE, IGNORED, match
from vqc.inference.detections import Detections

HALF = {1: 0.5, 2: 0.5, 3: 0.5}
BOX = (10.0, 10.0, 50.0, 50.0)


def found_on(image_id: int, *rows: tuple[tuple[float, float, float, float], float, int]) -> Detections:
    """Detections from rows of box, score, label."""
    return Detections(
        image_id=image_id,
        boxes=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row[1] for row in rows], np.float32),
        labels=np.array([row[2] for row in rows], np.int64),
    )


def split_of(*images: list[tuple[tuple[float, float, float, float], int, bool]]) -> Split:
    """A split whose images 1, 2, ... hold rows of box, label, crowd."""
    records = [
        record(
            number,
            np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
            np.array([row[1] for row in rows]),
            np.array([row[2] for row in rows], bool),
        )
        for number, rows in enumerate(images, start=1)
    ]
    return Split(name="test", categories=CATEGORIES, images=tuple(records))


def verdicts_by_hand(split: Split, found: list[Detections], thresholds: dict[int, float]) -> tuple[int, int, int, int]:
    """Escapes, defective, overkill, good: counted one image at a time, as an inspector would."""
    escaped = defective = overkilled = good = 0
    for image in split.images:
        rejected = False
        for one in found:
            if one.image_id == image.image_id:
                for score, label in zip(one.scores, one.labels, strict=True):
                    if float(score) >= thresholds[int(label)]:
                        rejected = True
        has_defect = False
        for crowd in image.crowd:
            has_defect = has_defect or not crowd
        if has_defect:
            defective += 1
            escaped += not rejected
        elif len(image.boxes) == 0:
            good += 1
            overkilled += rejected
    return escaped, defective, overkilled, good


@given(seed=st.integers(0, 2**31), thresholds=st.tuples(*[st.floats(0, 1)] * 3))
@settings(max_examples=1000)
def test_escape_and_overkill_are_what_a_hand_count_gives(seed: int, thresholds: tuple[float, float, float]) -> None:
    split, found = random_case(seed, images=5)
    limits = dict(enumerate(thresholds, start=1))
    verdicts = per_image(split, found, thresholds=limits)
    escaped, defective, overkilled, good = verdicts_by_hand(split, found, limits)
    assert (verdicts.escape.count, verdicts.escape.total) == (escaped, defective)
    assert (verdicts.overkill.count, verdicts.overkill.total) == (overkilled, good)
    assert verdicts.unclear == len(split.images) - defective - good


@pytest.mark.parametrize("seed", range(5))
def test_the_curve_is_the_verdict_at_each_threshold(seed: int) -> None:
    split, found = random_case(seed)
    curve = trade_off(split, found)
    at_each = [verdicts_by_hand(split, found, dict.fromkeys((1, 2, 3), value)) for value in curve.thresholds]
    assert list(zip(curve.escaped, curve.overkilled, strict=True)) == [(row[0], row[2]) for row in at_each]
    assert (curve.defective, curve.good) == (at_each[0][1], at_each[0][3])
    assert list(curve.thresholds) == sorted(set(curve.thresholds))


def test_an_image_with_crowds_alone_is_neither_good_nor_defective() -> None:
    split = split_of([(BOX, 1, True)], [], [(BOX, 1, False)])
    verdicts = per_image(split, [found_on(1, (BOX, 0.9, 1))], thresholds=HALF)
    assert (verdicts.unclear, verdicts.overkill.total, verdicts.escape.total) == (1, 1, 1)


def test_a_part_rejected_beside_its_defect_is_told() -> None:
    split = split_of([(BOX, 1, False)], [(BOX, 1, False)])
    found = [found_on(1, ((100, 100, 150, 150), 0.9, 1)), found_on(2, (BOX, 0.9, 1))]
    verdicts = per_image(split, found, thresholds=HALF)
    assert (verdicts.escape.count, verdicts.beside) == (0, 1)


@pytest.mark.parametrize("total", [0, 1, FEWEST - 1])
def test_of_too_few_parts_there_is_a_reason_and_no_rate(total: int) -> None:
    found = rate(0, total, of="good images")
    assert found.value is None
    assert "good images" in (found.reason or "")
    assert (found.low is None) == (total == 0)


def test_intervals_are_clopper_and_pearsons() -> None:
    assert clopper_pearson(0, 10) == pytest.approx((0, 1 - 0.025**0.1))
    assert clopper_pearson(10, 10) == pytest.approx((0.025**0.1, 1))
    assert clopper_pearson(3, 20) == pytest.approx((0.0320709, 0.3789268), abs=1e-6)  # R: binom.test(3, 20)


@given(total=st.integers(1, 300), share=st.floats(0, 1))
def test_an_interval_holds_its_rate(total: int, share: float) -> None:
    count = round(share * total)
    low, high = clopper_pearson(count, total)
    assert 0 <= low <= count / total <= high <= 1


@pytest.mark.parametrize("total", [30, 299, 5000])
def test_none_of_n_proves_about_three_nths(total: int) -> None:
    sentence = rate(0, total, of="defective images").sentence or ""
    told = float(sentence.split("below ")[1].split(" %")[0]) / 100
    assert told == pytest.approx(3 / total, rel=0.06)
    assert f"3/{total}" in sentence


def test_one_escape_is_no_case_for_the_rule_of_three() -> None:
    assert rate(1, 50, of="defective images").sentence is None


@pytest.mark.parametrize("highest", [0.1, 0.01, 0.001])
def test_parts_needed_are_as_few_as_prove_it(highest: float) -> None:
    needed = parts_needed(highest)
    assert 1 - (1 - highest) ** needed >= 0.95 > 1 - (1 - highest) ** (needed - 1)


@pytest.mark.parametrize("seed", range(5))
def test_froc_is_recall_and_false_alarms_at_its_thresholds(seed: int) -> None:
    split, found = random_case(seed)
    points = froc(split, found).points
    for point in points[:: max(1, len(points) // 4)]:
        at = dict.fromkeys((1, 2, 3), point.threshold)
        rows = recall_by_class(split, found, thresholds=at)
        assert point.sensitivity == pytest.approx(sum(r.found.count for r in rows) / sum(r.found.total for r in rows))
        by_id = {one.image_id: one for one in found}
        alone = sum(
            int((match(image, by_id[image.image_id].reaching(at), iou=0.5).truth == ALONE).sum())
            for image in split.images
            if image.image_id in by_id
        )
        assert point.false_per_image == pytest.approx(alone / len(split.images))
    assert [p.sensitivity for p in points] == sorted(p.sensitivity for p in points)


def test_without_defects_there_is_no_froc() -> None:
    assert froc(split_of([], []), []).reason == "there are no defects to find"


def test_the_confusion_matrix_counts_every_object_and_detection_once() -> None:
    far = (100.0, 100.0, 150.0, 150.0)
    split = split_of([(BOX, 1, False), (far, 2, False)], [])
    found = [found_on(1, (BOX, 0.9, 2), (BOX, 0.8, 1)), found_on(2, (BOX, 0.7, 3), (BOX, 0.4, 3))]
    expected = np.zeros((4, 4), int)
    expected[0, 1] = 1  # the scratch was called a dent by the surer detection
    expected[3, 0] = 1  # the second on the same object is left over
    expected[1, 3] = 1  # nothing on the dent
    expected[3, 2] = 1  # a stain on a good part; the one below the threshold does not count
    np.testing.assert_array_equal(confusion(split, found, thresholds=HALF), expected)


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_the_confusion_matrix_are_the_objects(seed: int) -> None:
    split, found = random_case(seed)
    table = confusion(split, found, thresholds=HALF)
    assert table[:3].sum(axis=1).tolist() == list(split.boxes_per_category.values())


def test_recall_by_size_divides_at_the_edges() -> None:
    boxes = [(0.0, 0.0, side, side) for side in (31.0, 32.0, 96.0)]
    split = split_of(*[[(box, 1, False)] for box in boxes])
    found = [found_on(number, (box, 0.9, 1)) for number, box in enumerate(boxes[:2], start=1)]
    rows = recall_by_size(split, found, thresholds=HALF)
    assert [(row.name, row.found.count, row.found.total) for row in rows] == [
        ("small", 1, 1),
        ("medium", 1, 1),
        ("large", 0, 1),
    ]
    assert rows[2].high_px2 is None


def test_terciles_divide_defects_in_three() -> None:
    split = split_of(*[[((0.0, 0.0, float(side), 10.0), 1, False)] for side in range(1, 10)])
    low, high = terciles_px2(split) or (math.nan, math.nan)
    rows = recall_by_size(split, [], thresholds=HALF, edges_px2=(low, high))
    assert [row.found.total for row in rows] == [3, 3, 3]


@pytest.mark.parametrize("boxes", [0, 2, 9])
def test_terciles_of_too_few_or_equal_defects_cannot_be_told(boxes: int) -> None:
    assert terciles_px2(split_of(*[[(BOX, 1, False)]] * boxes)) is None


def test_a_detection_takes_the_object_it_overlaps_most_and_a_better_one_takes_it_first() -> None:
    image = split_of([(BOX, 1, False), ((12, 10, 52, 50), 1, False), ((100, 100, 180, 180), 1, True)]).images[0]
    found = found_on(1, (BOX, 0.6, 1), (BOX, 0.9, 1), (BOX, 0.3, 1), ((110, 110, 140, 140), 0.5, 1))
    assert match(image, found, iou=0.5).truth.tolist() == [1, 0, ALONE, IGNORED]
    assert match(image, replace(found, labels=np.full(4, 2)), iou=0.5).truth.tolist() == [ALONE] * 4


@given(seed=st.integers(0, 1000), threshold=st.floats(0, 1))
@settings(max_examples=50)
def test_what_scores_less_never_changes_a_better_match(seed: int, threshold: float) -> None:
    split, found = random_case(seed, images=5)
    by_id = {image.image_id: image for image in split.images}
    for one in found:
        kept = one.reaching(dict.fromkeys((1, 2, 3), threshold))
        whole, part = match(by_id[one.image_id], one, iou=0.5), match(by_id[one.image_id], kept, iou=0.5)
        assert whole.truth[: len(part.truth)].tolist() == part.truth.tolist()


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
