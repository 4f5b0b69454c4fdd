"""Recall, FROC and the confusion matrix of defects."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.vqc.evaluation.test_coco_metrics import random_case
from tests.vqc.evaluation.test_image_metrics import BOX, HALF, found_on, grouped, split_of
from vqc.evaluation.detection_metrics import confusion, froc, recall_by_class, recall_by_size, terciles_px2
from vqc.evaluation.matching import ALONE, match


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
def test_terciles_of_too_few_or_equal_defects_do_not_exist(boxes: int) -> None:
    assert terciles_px2(split_of(*[[(BOX, 1, False)]] * boxes)) is None


def test_recall_of_many_views_is_no_surer_than_of_one() -> None:
    views = split_of(*[[(BOX, 1, False)]] * 60)
    found = [found_on(number, (BOX, 0.9, 1)) for number in range(1, 41)]
    apart = recall_by_class(views, found, thresholds=HALF)[0].found
    together = recall_by_class(grouped(views, *(str(k // 4) for k in range(60))), found, thresholds=HALF)[0].found
    assert apart.value == together.value == pytest.approx(2 / 3)
    assert (together.high or 0) - (together.low or 0) > 1.5 * ((apart.high or 0) - (apart.low or 0))
