"""Intervals of COCO scores: against pycocotools on copied images, and against the truth over many splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.vqc.evaluation.test_coco_metrics import CATEGORIES, random_case, record
from vqc.data.dataset import Split
from vqc.evaluation.bootstrap import resampled_scores, score_difference, score_intervals
from vqc.evaluation.coco_metrics import Detections, coco_scores

METRICS = ("ap", "ap50", "ap75", "ar")


def pycocotools_scores(split: Split, found: Sequence[Detections]) -> list[float | None]:
    scores = coco_scores(split, found)
    return [getattr(scores, name) for name in METRICS]


def without_ties(found: Sequence[Detections], seed: int) -> list[Detections]:
    """The same boxes with scores that all differ: in which order pycocotools counts equal ones is chance."""
    rng = np.random.default_rng(seed)
    return [replace(one, scores=-np.sort(-rng.random(len(one.scores))).astype(np.float32)) for one in found]


def copied(split: Split, found: Sequence[Detections], times: Sequence[int]) -> tuple[Split, list[Detections]]:
    """The split whose k-th image is there so many times."""
    by_id = {one.image_id: one for one in found}
    records, copies = [], []
    for image, count in zip(split.images, times, strict=True):
        for copy in range(count):
            image_id = 10_000 * (copy + 1) + image.image_id
            records.append(replace(image, image_id=image_id))
            if image.image_id in by_id:
                copies.append(replace(by_id[image.image_id], image_id=image_id))
    return replace(split, images=tuple(records)), copies


@pytest.mark.parametrize("seed", range(8))
def test_the_split_itself_scores_what_pycocotools_gives(seed: int) -> None:
    split, found = random_case(seed)
    assert resampled_scores(split, found, resamples=0)[0] == pytest.approx(pycocotools_scores(split, found), abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_a_resample_scores_what_pycocotools_gives_for_the_copied_images(seed: int) -> None:
    split, found = random_case(seed, images=12)
    found = without_ties(found, seed)
    scores = resampled_scores(split, found, resamples=3, seed=seed)
    draws = np.random.default_rng(seed).multinomial(12, np.full(12, 1 / 12), size=3)
    groups = sorted(image.group for image in split.images)
    for row, draw in zip(scores[1:], draws, strict=True):
        times = [draw[groups.index(image.group)] for image in split.images]
        assert row == pytest.approx(pycocotools_scores(*copied(split, found, times)), abs=1e-9)


def test_views_of_one_part_are_drawn_together() -> None:
    split, found = random_case(2, images=20)
    pairs = replace(split, images=tuple(replace(image, group=str(k // 2)) for k, image in enumerate(split.images)))
    assert score_intervals(pairs, found).parts == 10
    apart, together = score_intervals(split, found).ap, score_intervals(pairs, found).ap
    assert apart is not None
    assert together is not None
    assert together != apart


def test_copies_of_each_part_as_views_do_not_narrow_the_interval() -> None:
    split, found = random_case(5, images=20)
    views, copies = copied(split, found, [4] * 20)
    one, four = score_intervals(split, found).ap, score_intervals(views, copies).ap
    assert one is not None
    assert four is not None
    assert four.high - four.low == pytest.approx(one.high - one.low, rel=0.15)


def seen(rng: np.random.Generator, parts: int, chance: float) -> tuple[Split, list[Detections]]:
    """Parts with one defect each, found exactly with a given chance: AP50 is a little above the share found."""
    box = np.array([[10, 10, 60, 60]], np.float32)
    records = [record(k, box, np.ones(1), np.zeros(1, bool)) for k in range(1, parts + 1)]
    found = [
        Detections(image_id=k, boxes=box, scores=rng.random(1).astype(np.float32), labels=np.ones(1, np.int64))
        for k in range(1, parts + 1)
        if rng.random() < chance
    ]
    return Split(name="test", categories=CATEGORIES[:1], images=tuple(records)), found


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [score_intervals(*seen(rng, 60, 0.7)).ar for _ in range(60)]
    held = sum(one is not None and one.low <= 0.7 <= one.high for one in intervals)
    assert held / 60 >= 0.86  # 95 % less three standard deviations of 60 draws


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    split, found = random_case(1, images=40)
    worse = [replace(one, boxes=one.boxes + np.float32(5)) for one in found]
    gap = score_difference(split, found, worse, metric="ap")
    assert gap is not None
    ours, theirs = coco_scores(split, found).ap, coco_scores(split, worse).ap
    assert gap.value == pytest.approx((ours or 0) - (theirs or 0), abs=1e-9)
    assert gap.interval is not None
    assert gap.better
    alone = score_intervals(split, found).ap
    assert alone is not None
    assert gap.interval.high - gap.interval.low < alone.high - alone.low


def test_a_detector_is_no_better_than_itself() -> None:
    split, found = random_case(1)
    gap = score_difference(split, found, found, metric="ap50")
    assert gap is not None
    assert gap.interval is not None
    assert (gap.value, gap.interval.low, gap.interval.high, gap.better) == (0, 0, 0, False)


@pytest.mark.parametrize("parts", [0, 1, 9])
def test_too_few_parts_have_no_interval(parts: int) -> None:
    split, found = seen(np.random.default_rng(0), parts, 0.5)
    assert score_intervals(split, found).ap is None


def test_without_objects_there_is_neither_interval_nor_difference() -> None:
    nothing = np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, bool)
    split = Split(name="test", categories=CATEGORIES, images=tuple(record(k, *nothing) for k in range(12)))
    assert score_intervals(split, []).ap is None
    assert score_difference(split, [], [], metric="ap") is None
