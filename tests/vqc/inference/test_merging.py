"""Detections on tiles become those of the photograph: nothing twice, no halves, nothing of another class lost."""

from __future__ import annotations

import numpy as np
import pytest

from tests.vqc.evaluation.test_image_metrics import found_on
from vqc.data.tiling import TilePlan, View, views_of
from vqc.inference.detections import Detections
from vqc.inference.merging import MOST_DETECTIONS, merge_views

PLAN = TilePlan(tile_px=64, overlap_px=24, whole=False)
LEFT, RIGHT = views_of(104, 64, (64, 64), PLAN)
Row = tuple[tuple[float, float, float, float], float, int]


def merged(left: list[Row], right: list[Row]) -> Detections:
    found = [(LEFT, found_on(0, *left)), (RIGHT, found_on(0, *right))]
    return merge_views(found, image_id=7, width=104, height=64)


def test_the_two_tiles_overlap_as_planned() -> None:
    assert (LEFT.left, RIGHT.left, RIGHT.width) == (0, 40, 64)


def test_each_box_is_moved_to_its_place() -> None:
    both = merged([((1, 2, 9, 12), 0.5, 1)], [((30, 2, 40, 12), 0.9, 2)])
    assert both.image_id == 7
    assert both.boxes.tolist() == [[70, 2, 80, 12], [1, 2, 9, 12]]
    assert both.labels.tolist() == [2, 1]


def test_a_defect_seen_by_two_tiles_is_counted_once() -> None:
    both = merged([((45, 10, 55, 20), 0.6, 1)], [((5, 10, 15, 20), 0.8, 1)])
    assert both.boxes.tolist() == [[45, 10, 55, 20]]
    assert both.scores.tolist() == [np.float32(0.8)]


def test_a_part_at_a_border_gives_way_to_the_whole_whatever_its_score() -> None:
    both = merged([((56, 10, 64, 20), 0.95, 1)], [((16, 10, 36, 20), 0.4, 1)])
    assert both.boxes.tolist() == [[56, 10, 76, 20]]


def test_a_part_without_a_whole_stays() -> None:
    assert len(merged([((56, 10, 64, 20), 0.95, 1)], [])) == 1


def test_neighbours_and_other_classes_stay() -> None:
    both = merged([((41, 10, 51, 20), 0.9, 1), ((41, 10, 51, 20), 0.7, 2), ((50, 10, 60, 20), 0.8, 1)], [])
    assert len(both) == 3


def test_at_most_a_hundred_remain_the_best() -> None:
    many: list[Row] = [((6 * (k % 10), 6 * (k // 10), 6 * (k % 10) + 4, 6 * (k // 10) + 4), 0.3 + k / 1000, 1)
                       for k in range(100)]  # fmt: skip
    both = merged(many, [((56, 56, 60, 60), 0.99, 1)])
    assert len(both) == MOST_DETECTIONS
    assert both.scores[0] == np.float32(0.99)
    assert both.scores[-1] == np.float32(0.301)


@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_one_whole_view_is_scaled_back_and_clipped(size: tuple[int, int]) -> None:
    (view,) = views_of(100, 50, size, None)
    found = found_on(0, ((3.2, 3.2, 200, 20), 0.9, 1))
    whole = merge_views([(view, found)], image_id=5, width=100, height=50)
    scale = view.scale
    assert whole.boxes[0] == pytest.approx([3.2 / scale, 3.2 / scale, 100, min(50, 20 / scale)])
    assert len(merge_views([(view, Detections.none())], image_id=5, width=100, height=50)) == 0


def test_a_view_with_nothing_is_no_obstacle() -> None:
    view = View(left=0, top=0, width=9, height=9, scale=1.0)
    assert len(merge_views([(view, Detections.none()), (view, Detections.none())], image_id=1, width=9, height=9)) == 0
