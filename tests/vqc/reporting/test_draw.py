"""Frames, captions and heat over photographs of any size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.images import rgb
from vqc.reporting.draw import BOX_RGB, draw_boxes, draw_heat, save_jpeg


@pytest.mark.parametrize(("size", "factor"), [((64, 48), 10), ((640, 10), 1), ((700, 500), 1), ((300, 320), 2)])
def test_small_pictures_are_enlarged_by_a_whole_factor(size: tuple[int, int], factor: int) -> None:
    image = rgb(1, size)
    drawn = draw_boxes(image, np.zeros((0, 4), np.float32), [])
    assert drawn.shape == (size[1] * factor, size[0] * factor, 3)


def test_a_frame_lies_where_the_box_is() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    drawn = draw_boxes(image, np.array([[100, 200, 300, 400]], np.float32), [""])
    framed = np.argwhere((drawn == BOX_RGB).all(axis=2))
    assert framed.min(axis=0).tolist() == [200, 100]
    assert framed.max(axis=0).tolist() == [400, 300]


@settings(max_examples=30)
@given(corners=st.lists(st.floats(0, 640, width=32), min_size=4, max_size=4), caption=st.text(max_size=30))
def test_any_box_and_caption_can_be_drawn(corners: list[float], caption: str) -> None:
    x0, x1 = sorted(corners[:2])
    y0, y1 = sorted(corners[2:])
    drawn = draw_boxes(np.zeros((640, 640, 3), np.uint8), np.array([[x0, y0, x1, y1]], np.float32), [caption])
    assert drawn.any()


def test_heat_of_zero_leaves_the_photograph() -> None:
    image = rgb(1)
    heat = np.zeros(image.shape[:2], np.float32)
    heat[:10, :10] = 1
    drawn = draw_heat(image, heat)
    np.testing.assert_array_equal(drawn[10:], image[10:])
    assert (drawn[:10, :10, 0] > drawn[:10, :10, 2]).all()  # red


def test_a_picture_is_saved_in_its_colours(tmp_path: Path) -> None:
    red = np.full((16, 16, 3), (200, 20, 20), np.uint8)
    save_jpeg(tmp_path / "a.jpg", red)
    read = cv2.imread(str(tmp_path / "a.jpg"))
    assert read is not None
    np.testing.assert_allclose(read[:, :, ::-1], red, atol=6)
