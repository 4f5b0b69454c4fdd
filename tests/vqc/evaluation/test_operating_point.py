"""Thresholds that keep their promise on new parts, and thresholds per class only where they are tested."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vqc.evaluation.test_coco_metrics import random_case
from tests.vqc.evaluation.test_image_metrics import BOX, found_on, split_of
from vqc.data.dataset import Split
from vqc.errors import DataError
from vqc.evaluation.operating_point import Goal, check_parts, choose_operating_point, choose_thresholds
from vqc.evaluation.parts import parts_of
from vqc.inference.detections import Detections


def parts(defective: list[float], good: list[float]) -> tuple[Split, list[Detections]]:
    """Images with one detection of class 1 each, of the score given; 0: none."""
    scores = [*defective, *good]
    split = split_of(*[[(BOX, 1, False)]] * len(defective), *[[] for _ in good])
    found = [found_on(number, *([(BOX, score, 1)] if score else [])) for number, score in enumerate(scores, start=1)]
    return split, found


@pytest.mark.parametrize(
    ("max_escape", "threshold", "escaped", "overkilled"),
    [(0.1, 0.25, 0, 2), (0.2, 0.45, 1, 1), (0.3, 0.7, 2, 0)],
)
def test_the_threshold_spares_most_good_parts_for_the_misses_tolerated(
    max_escape: float, threshold: float, escaped: int, overkilled: int
) -> None:
    split, found = parts([0.3, 0.5, *[0.8] * 8], [0.2, 0.4, 0.6])
    point = choose_operating_point(split, found, goal=Goal(max_escape=max_escape))
    assert point.thresholds == pytest.approx((threshold,) * 3)  # half-way to the next lower score
    assert (point.escape.count, point.overkill.count) == (escaped, overkilled)
    assert (point.tolerated, point.reached) == (escaped, True)


@given(seed=st.integers(0, 10_000), max_escape=st.floats(0.2, 0.6), confidence=st.sampled_from([None, 0.5]))
def test_no_more_escape_than_tolerated_if_that_is_possible(
    seed: int, max_escape: float, confidence: float | None
) -> None:
    split, found = random_case(seed, images=20)
    point = choose_operating_point(split, found, goal=Goal(max_escape=max_escape, confidence=confidence))
    seen = {one.image_id for one in found if len(one)}
    unseen = sum(image.defective and image.image_id not in seen for image in split.images)
    assert point.escape.count <= max(point.tolerated, unseen)
    assert point.reached == (point.escape.count <= point.tolerated)


def test_a_goal_out_of_reach_is_not_reached() -> None:
    split, found = parts([0, 0, 0.5, 0.6], [0.1])
    point = choose_operating_point(split, found, goal=Goal(max_escape=0.25))
    assert not point.reached
    assert (point.escape.count, point.tolerated) == (2, 0)
    assert point.thresholds[0] == pytest.approx(0.3)


def test_without_good_parts_there_is_no_overkill() -> None:
    split, found = parts([0.5] * 12, [])
    assert choose_operating_point(split, found, goal=Goal(max_escape=0.1)).overkill.total == 0


@pytest.mark.parametrize(
    ("count", "goal", "problem", "possible"),
    [
        (
            50,
            Goal(max_escape=0.01),
            "50 defective parts, expected at least 99 to promise at most 1.0 % escapes",
            "0.02",
        ),
        (
            99,
            Goal(max_escape=0.01, confidence=0.95),
            "99 defective parts, expected at least 299 to promise at most 1.0 % escapes with 95.0 % confidence",
            "0.03 --confidence 0.95",
        ),
    ],
)
def test_too_few_parts_are_refused_with_the_number_needed_and_what_is_possible(
    count: int, goal: Goal, problem: str, possible: str
) -> None:
    split, _ = parts([0.5] * count, [0.1])
    with pytest.raises(DataError) as caught:
        check_parts(split, goal, command="vqc calibrate")
    assert problem in caught.value.what
    assert caught.value.command == f"vqc calibrate --max-escape {possible}"
    check_parts(split, replace(goal, max_escape=float(possible.split()[0])), command="")


def test_without_defects_no_threshold_can_be_chosen() -> None:
    with pytest.raises(DataError, match="no part with a defect"):
        check_parts(parts([], [0.5])[0], Goal(max_escape=0.5), command="")


def test_views_of_one_part_do_not_make_up_the_number_needed() -> None:
    split, _ = parts([0.5] * 20, [])
    views = replace(split, images=tuple(replace(i, group=str(i.image_id // 2)) for i in split.images))
    check_parts(split, Goal(max_escape=0.05), command="")
    with pytest.raises(DataError, match="11 defective parts, expected at least 19"):
        check_parts(views, Goal(max_escape=0.05), command="")
    assert len(parts_of(views).good) == 11


# Simulations: scores are uniform, so that the share of new defective parts below a threshold is the threshold


def true_escapes(goal: Goal, *, defective: int, rounds: int) -> np.ndarray:
    """The escape rate on new parts of thresholds that were chosen on so many; good parts lie close to every score."""
    rng = np.random.default_rng(0)
    escapes = []
    for _ in range(rounds):
        scores = rng.random((defective + 200, 1))
        is_defective = np.arange(len(scores)) < defective
        thresholds, _ = choose_thresholds(scores, defective=is_defective, good=~is_defective, goal=goal)
        escapes.append(thresholds[0])
    return np.array(escapes)


@pytest.mark.parametrize(("defective", "max_escape"), [(30, 0.05), (39, 0.05), (99, 0.01), (50, 0.1)])
def test_the_expected_escape_is_at_most_what_was_asked(defective: int, max_escape: float) -> None:
    escapes = true_escapes(Goal(max_escape=max_escape), defective=defective, rounds=400)
    assert escapes.mean() <= max_escape + 3 * escapes.std() / 20


@pytest.mark.parametrize(("defective", "max_escape"), [(59, 0.05), (100, 0.1)])
def test_with_a_confidence_the_escape_is_that_often_at_most_what_was_asked(defective: int, max_escape: float) -> None:
    escapes = true_escapes(Goal(max_escape=max_escape, confidence=0.95), defective=defective, rounds=400)
    assert (escapes <= max_escape).mean() >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 400)


def two_classes(rng: np.random.Generator, *, defective: int, good: int, noise: float) -> np.ndarray:
    """Scores [P, 2]: defects are of class 1, from 0.3 to 0.9; class 2 is ``noise`` on good parts."""
    defects = np.stack([rng.uniform(0.3, 0.9, defective), rng.uniform(0, 0.1, defective)], axis=1)
    return np.concatenate([defects, np.stack([rng.uniform(0, 0.4, good), rng.uniform(0, noise, good)], axis=1)])


def test_a_noisy_class_gets_a_threshold_of_its_own() -> None:
    scores = two_classes(np.random.default_rng(0), defective=60, good=60, noise=0.9)
    defective = np.arange(120) < 60
    goal = Goal(max_escape=0.05)
    thresholds, per_class = choose_thresholds(scores, defective=defective, good=~defective, goal=goal)
    assert per_class
    assert thresholds[1] > thresholds[0] + 0.2
    rejects = (scores >= thresholds).any(axis=1)
    assert (~rejects[:60]).sum() <= goal.tolerated(60)
    one, _ = choose_thresholds(scores[:, :1], defective=defective, good=~defective, goal=goal)
    assert rejects[60:].sum() < 0.8 * (scores[60:] >= one).any(axis=1).sum()


def test_thresholds_per_class_keep_the_promise() -> None:
    rng, goal = np.random.default_rng(0), Goal(max_escape=0.05)
    escapes, separate = [], 0
    for _ in range(200):
        scores, new = (two_classes(rng, defective=count, good=80, noise=0.9) for count in (30, 2000))
        defective = np.arange(110) < 30
        thresholds, per_class = choose_thresholds(scores, defective=defective, good=~defective, goal=goal)
        escapes.append(float((~(new[:2000] >= thresholds).any(axis=1)).mean()))
        separate += per_class
    assert separate > 150
    assert np.mean(escapes) <= goal.max_escape + 3 * np.std(escapes) / np.sqrt(200)


def test_where_the_classes_are_alike_one_threshold_stays() -> None:
    rng = np.random.default_rng(0)
    separate = 0
    for _ in range(100):
        defective = np.arange(110) < 30
        scores = np.where(defective[:, None], rng.uniform(0.3, 1, (110, 2)), rng.uniform(0, 0.6, (110, 2)))
        separate += choose_thresholds(scores, defective=defective, good=~defective, goal=Goal(max_escape=0.05))[1]
    assert separate <= 5 + 3 * np.sqrt(100 * 0.05 * 0.95)


def test_two_good_parts_are_no_reason_for_thresholds_per_class() -> None:
    defective = np.arange(100) < 60
    scores = np.zeros((100, 2))
    scores[:60, 0] = np.linspace(0.5, 0.9, 60)
    scores[60:, 0] = np.linspace(0.05, 0.2, 40)
    scores[60:62, 1] = 0.95  # the only good parts that one threshold rejects
    thresholds, per_class = choose_thresholds(scores, defective=defective, good=~defective, goal=Goal(max_escape=0.05))
    assert not per_class
    assert thresholds[0] == thresholds[1]
