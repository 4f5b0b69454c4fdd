"""The gate between a new detector and the champion: rates by hand, levels and power by simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from tests.vqc.evaluation.test_coco_metrics import CATEGORIES, random_case
from tests.vqc.evaluation.test_image_metrics import BOX, found_on, split_of
from vqc.evaluation.comparison import OVERKILL_LEVEL, Comparison, PairedRate, compare, paired_rate

HALF = {1: 0.5, 2: 0.5, 3: 0.5}
DRAWS = 1000


def counts(only_ours: int, only_theirs: int, *, both: int = 0, total: int = 100) -> PairedRate:
    return PairedRate(
        ours=both + only_ours, theirs=both + only_theirs, only_ours=only_ours, only_theirs=only_theirs, total=total
    )


def mistakes(
    rng: np.random.Generator, parts: int, ours: float, theirs: float, alike: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Mistakes of two detectors with these rates; what is difficult for one is ``alike`` (0..1) so for the other."""
    shared = np.sqrt(alike) * rng.standard_normal(parts)
    own = np.sqrt(1 - alike) * rng.standard_normal((2, parts))
    return shared + own[0] < norm.ppf(ours), shared + own[1] < norm.ppf(theirs)


def exchanged(*, ours: float, theirs: float, seed: int, good: int = 500, defective: int = 100) -> float:
    """The share of draws in which the new detector is better by its overkill, and lets no more pass."""
    rng, count = np.random.default_rng(seed), 0
    for _ in range(DRAWS):
        overkill = paired_rate(*mistakes(rng, good, ours, theirs, 0.5), np.ones(good, bool))
        escape = paired_rate(*mistakes(rng, defective, 0.02, 0.02, 0.5), np.ones(defective, bool))
        count += Comparison(split="test", escape=escape, overkill=overkill, ap=None).better
    return count / DRAWS


def test_equal_detectors_are_rarely_exchanged() -> None:
    assert exchanged(ours=0.05, theirs=0.05, seed=0) <= OVERKILL_LEVEL + 2 * np.sqrt(0.04 * 0.96 / DRAWS)


def test_three_points_less_overkill_on_500_good_parts_are_mostly_enough() -> None:
    assert exchanged(ours=0.02, theirs=0.05, seed=1) >= 0.78  # 0.80 and more, less the error of so many draws


def test_more_escapes_keep_the_champion_whatever_the_overkill() -> None:
    much_better = counts(0, 30, total=500)
    assert Comparison(split="test", escape=counts(0, 0), overkill=much_better, ap=None).better
    worse = Comparison(split="test", escape=counts(4, 0), overkill=much_better, ap=None)
    assert not worse.better
    assert "more escapes than chance explains (p = 0.031)" in worse.reason


def test_without_a_defective_part_nothing_is_known_of_escapes() -> None:
    blind = Comparison(split="test", escape=counts(0, 0, total=0), overkill=counts(0, 30), ap=None)
    assert not blind.better
    assert "no defective part" in blind.reason


@pytest.mark.parametrize(("only_ours", "only_theirs"), [(0, 1), (1, 1), (0, 5), (7, 2), (12, 30)])
def test_the_p_value_lies_half_way_between_two_exact_ones(only_ours: int, only_theirs: int) -> None:
    rate, total = counts(only_ours, only_theirs), only_ours + only_theirs
    exact = binomtest(only_theirs, total, alternative="greater").pvalue
    beyond = binomtest(only_theirs + 1, total, alternative="greater").pvalue if only_ours else 0.0
    assert rate.fewer_p == pytest.approx((exact + beyond) / 2)
    assert rate.fewer_p + rate.more_p == pytest.approx(1)


def test_each_detector_is_judged_at_its_own_threshold() -> None:
    split = split_of([(BOX, 1, False)], [(BOX, 1, False)], [], [])
    ours = [found_on(1, (BOX, 0.9, 1)), found_on(2, (BOX, 0.3, 1)), found_on(3, (BOX, 0.4, 1))]
    theirs = [found_on(1, (BOX, 0.2, 1)), found_on(3, (BOX, 0.2, 1)), found_on(4, (BOX, 0.05, 1))]
    found = compare(split, ours, theirs, thresholds=(HALF, {1: 0.1, 2: 0.1, 3: 0.1}))
    assert (found.escape.ours, found.escape.theirs, found.escape.total) == (1, 1, 2)
    assert (found.overkill.ours, found.overkill.theirs, found.overkill.only_theirs) == (0, 1, 1)


def test_views_of_one_part_count_once() -> None:
    split = split_of(*[[(BOX, 1, False)]] * 4)
    views = replace(split, images=tuple(replace(image, group=str(k // 2)) for k, image in enumerate(split.images)))
    found = compare(views, [], [found_on(1, (BOX, 0.9, 1))], thresholds=(HALF, HALF))
    assert (found.escape.ours, found.escape.theirs, found.escape.total) == (2, 1, 2)


def test_a_higher_ap_beyond_doubt_is_enough() -> None:
    split, theirs = random_case(1, images=60)
    ours = [
        found_on(
            image.image_id,
            *[(tuple(box), 0.9, int(label)) for box, label in zip(image.boxes, image.labels, strict=True)],
        )
        for image in split.images
    ]
    assert len(CATEGORIES) == 3
    always = dict.fromkeys(HALF, 0.0)
    assert compare(split, ours, theirs, thresholds=(always, always)).better
    assert not compare(split, theirs, theirs, thresholds=(always, always)).better
    assert not compare(split, theirs, ours, thresholds=(always, always)).better
