"""Detections on tiles become those of the photograph: nothing twice, no halves, nothing of another class lost."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.vqc.evaluation.test_image_metrics import found_on
from vqc.boxes import iou
from vqc.data.tiles.views import TilePlan, View, boxes_in_view, plan_tiles, views_of
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


Boxes = NDArray[np.float32]
PHOTOGRAPH = (420, 300)


def scattered(rng: np.random.Generator, *, longest: int) -> Boxes:
    """Defects of 4 px to ``longest`` that do not touch, on a photograph."""
    found = np.zeros((0, 4), np.float32)
    for _ in range(80):
        sides = rng.integers(4, longest + 1, 2)
        corner = rng.integers(0, np.array(PHOTOGRAPH) - sides + 1)
        box = np.concatenate([corner, corner + sides]).astype(np.float32)[None]
        if not iou(box, found).any():
            found = np.vstack([found, box])
    return found


def perfect(boxes: Boxes, view: View, *, parts: bool) -> Detections:
    """All that a tile shows of the defects; with ``parts`` also what is too small to be annotated, and surer of it."""
    kept, _, rests = boxes_in_view(boxes, view)
    rows = [(tuple(map(float, box)), 0.6, 1) for box in kept]
    return found_on(0, *rows, *((tuple(map(float, rest)), 0.9, 1) for rest in rests if parts))


def are_cut(boxes: Boxes, tiles: list[View]) -> NDArray[np.bool_]:
    """Which defects a border of some tile cuts."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    edges = np.array([view.box for view in tiles])[None]
    shown = ((low < edges[..., 2:]) & (edges[..., :2] < high)).all(axis=2)
    inside = ((edges[..., :2] <= low) & (high <= edges[..., 2:])).all(axis=2)
    return (shown & ~inside).any(axis=1)


def recalls(boxes: Boxes, plan: TilePlan, *, parts: bool) -> Iterator[tuple[bool, bool]]:
    """Of each defect, whether a border cuts it and whether it is found at IoU 0.5 on the photograph."""
    views = views_of(*PHOTOGRAPH, (96, 96), plan)
    found = [(view, perfect(boxes, view, parts=parts and view.tile)) for view in views]
    merged_ = merge_views(found, image_id=0, width=PHOTOGRAPH[0], height=PHOTOGRAPH[1])
    cut = are_cut(boxes, [view for view in views if view.tile])
    yield from zip(cut.tolist(), (iou(boxes, merged_.boxes).max(axis=1, initial=0) >= 0.5).tolist(), strict=True)


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("longest", [16, 40, 90])
def test_defects_at_borders_are_found_as_often_as_the_others(longest: int, parts: bool) -> None:
    """By a detector that finds all that a tile shows; a twentieth of the defects is longer than the overlap."""
    rows: list[tuple[bool, bool]] = []
    for seed in range(12):
        boxes = scattered(np.random.default_rng(seed), longest=longest)
        rows += recalls(boxes, plan_tiles(96, boxes[:, 2:] - boxes[:, :2]), parts=parts)
    at_border, elsewhere = ([found for cut, found in rows if cut is kind] for kind in (True, False))
    assert len(at_border) > 50
    assert elsewhere
    assert np.mean(at_border) >= 0.95 * np.mean(elsewhere)
    assert np.mean(elsewhere) > 0.95
