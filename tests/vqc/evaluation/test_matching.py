"""Which detection found which object."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vqc.evaluation.test_coco_metrics import random_case
from tests.vqc.evaluation.test_image_metrics import BOX, found_on, split_of
from vqc.evaluation.matching import ALONE, IGNORED, match


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
