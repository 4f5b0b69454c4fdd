"""What a detector that is usually right disagrees with is suspected, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vqc.evaluation.test_coco_metrics import random_case
from tests.vqc.evaluation.test_image_metrics import BOX, found_on, split_of
from vqc.data.dataset import Split
from vqc.evaluation.label_errors import Suspect, suspects_in
from vqc.inference.detections import Detections

FAR = (120.0, 120.0, 160.0, 160.0)
BESIDE = (30.0, 10.0, 70.0, 50.0)  # overlaps BOX by a third
Judged = tuple[Split, list[Detections]]


def judged(
    last_boxes: list[tuple[tuple[float, ...], int, bool]], *last_found: tuple[tuple[float, ...], float, int]
) -> Judged:
    """Nineteen images on which detector and annotations agree, and a last one."""
    agreed = [[(BOX, 1 + k % 2, False)] for k in range(19)]
    found = [found_on(k, (BOX, 0.9, 1 + (k - 1) % 2)) for k in range(1, 20)]
    return split_of(*agreed, last_boxes), [*found, found_on(20, *last_found)]


def of_last(pair: Judged) -> list[Suspect]:
    """The suspects; all are on the last image."""
    suspects = suspects_in([pair])
    assert {one.image_id for one in suspects} <= {20}
    assert all(0.5 <= one.suspicion <= 1 for one in suspects)
    return suspects


def test_where_both_agree_nothing_is_suspected() -> None:
    assert of_last(judged([(BOX, 1, False)], (BOX, 0.8, 1))) == []
    assert of_last(judged([])) == []


def test_a_clear_detection_without_a_box() -> None:
    (one,) = of_last(judged([(BOX, 1, False)], (BOX, 0.9, 1), (FAR, 0.9, 2)))
    assert (one.kind, one.annotated, one.detected, one.detected_box) == ("no box", None, "dent", FAR)
    assert one.suspicion == pytest.approx(20 / 21)  # of the detections with that score lie on a box
    assert one.sentence == "a dent is detected (score 0.90), and there is no box"


def test_a_box_that_is_not_found() -> None:
    (one,) = of_last(judged([(BOX, 1, False), (FAR, 1, False)], (BOX, 0.9, 1)))
    assert (one.kind, one.annotated, one.annotated_box, one.score) == ("not found", "scratch", FAR, None)
    assert one.suspicion == pytest.approx(11 / 12)  # of the scratches are found


def test_a_box_of_another_class() -> None:
    (one,) = of_last(judged([(BOX, 1, False)], (BOX, 0.9, 2)))
    assert (one.kind, one.annotated, one.detected) == ("other class", "scratch", "dent")


def test_a_box_beside_the_detection_is_one_suspect() -> None:
    (one,) = of_last(judged([(BESIDE, 1, False)], (BOX, 0.9, 1)))
    assert (one.kind, one.annotated_box, one.detected_box) == ("other place", BESIDE, BOX)


def test_what_a_weak_detector_says_is_no_suspicion() -> None:
    """It finds a third of the boxes, and a third of what it finds is one."""
    boxes = [[(BOX, 1, False)]] * 12
    found = [found_on(k, (BOX if k % 3 == 0 else FAR, 0.5, 1)) for k in range(1, 13)]
    assert suspects_in([(split_of(*boxes), found)]) == []


@pytest.mark.parametrize(
    "place", [(12, 12, 30, 30), (8, 8, 90, 90)], ids=["a part of the defect", "the defect and more"]
)
def test_a_second_detection_of_a_found_defect_is_no_suspicion(place: tuple[float, ...]) -> None:
    assert of_last(judged([(BOX, 1, False)], (BOX, 0.9, 1), (place, 0.9, 1))) == []


def test_crowd_regions_are_neither_right_nor_wrong() -> None:
    assert of_last(judged([(BOX, 1, False), (FAR, 1, True)], (BOX, 0.9, 1), ((125, 125, 150, 150), 0.9, 1))) == []


@given(seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_the_order_of_images_and_of_detections_does_not_matter(seed: int) -> None:
    split, found = random_case(seed, images=6)
    found = [replace(one, scores=one.scores - np.arange(len(one), dtype=np.float32) / 1000) for one in found]  # no ties
    backward = replace(split, images=split.images[::-1])

    def sentences(suspects: list[Suspect]) -> list[str]:
        return sorted(f"{one.image_id} {one.sentence} {one.suspicion:.6f}" for one in suspects)

    assert sentences(suspects_in([(split, found)])) == sentences(
        suspects_in([(backward, [one[::-1] for one in reversed(found)])])
    )
