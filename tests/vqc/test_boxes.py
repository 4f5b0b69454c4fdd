"""Overlaps and conversions of boxes, beside torchvision's and pycocotools' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torchvision.ops import box_iou

from vqc.boxes import areas_px2, iou, share_inside, xywh_to_xyxy, xyxy_to_xywh

edges = st.integers(0, 64).map(lambda quarter: quarter / 4)
boxes = st.lists(st.tuples(edges, edges, edges, edges), max_size=5).map(
    lambda rows: xywh_to_xyxy(np.array(rows, np.float32).reshape(-1, 4))
)


@given(ours=boxes, theirs=boxes)
def test_iou_is_torchvisions_and_0_without_an_area(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    expected = box_iou(torch.from_numpy(ours).double(), torch.from_numpy(theirs).double()).nan_to_num().numpy()
    np.testing.assert_allclose(iou(ours, theirs), expected, atol=1e-12)


@given(ours=boxes, theirs=boxes)
def test_the_share_inside_is_cocos_overlap_with_a_crowd(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    shares = share_inside(ours, theirs)
    assert shares.shape == (len(ours), len(theirs))
    solid = areas_px2(ours) > 0
    if not (solid.any() and len(theirs)):
        assert not shares.any()
        return
    crowds = np.ones(len(theirs), np.uint8)
    rows = (xyxy_to_xywh(some.astype(np.float64)) for some in (ours[solid], theirs))
    np.testing.assert_allclose(shares[solid], coco_mask.iou(*rows, crowds), atol=1e-12)
    assert not shares[~solid].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_conversions_are_each_others_inverse(dtype: type) -> None:
    xyxy = np.array([[1, 2, 11, 22.5], [0, 0, 0, 0]], dtype)
    xywh = xyxy_to_xywh(xyxy)
    assert xywh.tolist() == [[1, 2, 10, 20.5], [0, 0, 0, 0]]
    np.testing.assert_array_equal(xywh_to_xyxy(xywh), xyxy)
    assert xywh.dtype == dtype
