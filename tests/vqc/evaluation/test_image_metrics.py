"""Escape and overkill per part, against a reference written by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vqc.evaluation.test_coco_metrics import CATEGORIES, random_case, record
from vqc.data.dataset import Split
from vqc.evaluation.image_metrics import part_verdicts, trade_off
from vqc.evaluation.parts import parts_of
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


def grouped(split: Split, *groups: str) -> Split:
    """The split whose k-th image shows the k-th named part."""
    images = zip(split.images, groups, strict=True)
    return replace(split, images=tuple(replace(image, group=group) for image, group in images))


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
                    if score >= np.float32(thresholds[int(label)]):
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
    verdicts = part_verdicts(split, found, thresholds=limits)
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
    verdicts = part_verdicts(split, [found_on(1, (BOX, 0.9, 1))], thresholds=HALF)
    assert (verdicts.unclear, verdicts.overkill.total, verdicts.escape.total) == (1, 1, 1)


def test_a_part_rejected_beside_its_defect_is_counted() -> None:
    split = split_of([(BOX, 1, False)], [(BOX, 1, False)])
    found = [found_on(1, ((100, 100, 150, 150), 0.9, 1)), found_on(2, (BOX, 0.9, 1))]
    verdicts = part_verdicts(split, found, thresholds=HALF)
    assert (verdicts.escape.count, verdicts.beside) == (0, 1)


def test_a_part_is_rejected_if_any_of_its_views_is() -> None:
    split = grouped(split_of([(BOX, 1, False)], [(BOX, 1, False)], [(BOX, 1, False)], [], []), *"aabcc")
    found = [found_on(2, (BOX, 0.9, 1)), found_on(5, (BOX, 0.8, 2))]
    verdicts = part_verdicts(split, found, thresholds=HALF)
    assert (verdicts.escape.count, verdicts.escape.total) == (1, 2)
    assert (verdicts.overkill.count, verdicts.overkill.total) == (1, 1)
    curve = trade_off(split, found)
    assert (curve.defective, curve.good, curve.thresholds) == (2, 1, pytest.approx((0.8, 0.9)))
    assert (curve.escaped, curve.overkilled) == ((1, 1), (1, 0))


def test_a_part_with_one_defective_view_is_defective_and_one_with_crowds_alone_unclear() -> None:
    split = grouped(split_of([(BOX, 1, True)], [(BOX, 1, False)], [(BOX, 1, True)], [], []), *"aabbc")
    parts = parts_of(split)
    assert (parts.defective.tolist(), parts.good.tolist()) == ([True, False, False], [False, False, True])
    assert part_verdicts(split, [], thresholds=HALF).unclear == 1


def test_copies_of_each_image_as_views_change_no_rate_and_no_interval() -> None:
    split, found = random_case(4)
    copies = replace(split, images=(*split.images, *(replace(i, image_id=i.image_id + 5000) for i in split.images)))
    twice = [*found, *(replace(one, image_id=one.image_id + 5000) for one in found)]
    assert part_verdicts(copies, twice, thresholds=HALF) == part_verdicts(split, found, thresholds=HALF)
