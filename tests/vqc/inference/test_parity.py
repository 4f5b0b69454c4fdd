"""ONNX beside torch: the same detections, and other weights are noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.models import SIZE, decided, picture, stub_predictor
from vqc.data.image_io import DecodedPicture
from vqc.data.tiles.views import TilePlan
from vqc.hardware.precision import Precision
from vqc.inference import parity
from vqc.inference.detections import Detections
from vqc.inference.model_file import open_predictor
from vqc.inference.onnx_export import export_onnx
from vqc.inference.parity import ParityReport, check_parity
from vqc.inference.predictor import Predictor
from vqc.inference.torch_backend import torch_predictor
from vqc.models.checkpoint import ModelInfo

HEAVY = (
    "fcos_lite0_fine",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large",
)
EXACT = Precision(device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def both(model: nn.Module, info: ModelInfo, folder: Path) -> tuple[Predictor, Predictor]:
    """The model and its exported file."""
    export_onnx(model, info, folder / "model.onnx")
    return torch_predictor(model, info, precision=EXACT), open_predictor(folder / "model.onnx")


@pytest.mark.parametrize("name", ["fcos_lite0", "fcos_tiny"])
def test_onnx_finds_what_torch_finds(name: str, tmp_path: Path) -> None:
    report = check_parity(*both(*decided(name, SIZE), tmp_path), [picture(seed) for seed in range(10, 14)])
    assert report.passed
    assert report.images == 4
    assert report.detections > 50
    assert report.unmatched == 0
    assert report.worst_iou is not None
    assert report.worst_iou > 0.999


def test_the_exported_file_cuts_photographs_by_itself(tmp_path: Path) -> None:
    model, info = decided("fcos_tiny", SIZE)
    info = info.model_copy(update={"tiles": TilePlan(tile_px=80, overlap_px=20, whole=True)})
    ours, theirs = both(model, info, tmp_path)
    assert theirs.tiles == info.tiles
    photograph = DecodedPicture.whole(picture(3, (150, 200)))
    expected, found = ours.detect(photograph), theirs.detect(photograph)
    assert len(expected) == len(found) == 100
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert expected.boxes[:, 2].max() > 120  # beyond the first tile


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_every_family_is_exported(name: str, tmp_path: Path) -> None:
    size = (320, 320) if "ssdlite" in name else (128, 160)
    report = check_parity(*both(*decided(name, size), tmp_path), [picture(seed, size) for seed in range(10, 14)])
    assert report.detections > 50
    assert report.passed, report


def test_other_weights_are_found_out(tmp_path: Path) -> None:
    _, exported = both(*decided("fcos_tiny", SIZE), tmp_path)
    other, info = decided("fcos_tiny", SIZE)
    with torch.no_grad():
        for weights in other.head.parameters():  # type: ignore[union-attr,operator]
            weights *= 1.02
    assert not check_parity(torch_predictor(other, info, precision=EXACT), exported, [picture(10)]).passed


def test_a_picture_without_defects_is_no_failure() -> None:
    report = check_parity(stub_predictor(), stub_predictor(), [picture(1)])
    assert report == ParityReport(images=1, detections=0, unmatched=0, worst_iou=None, worst_score_difference=None)
    assert report.passed


@given(
    unmatched=st.integers(0, 1000),
    detections=st.integers(0, 1000),
    difference=st.none() | st.floats(0, 1, allow_nan=False),
)
def test_parity_allows_ties_and_no_more(unmatched: int, detections: int, difference: float | None) -> None:
    report = ParityReport(
        images=1, detections=detections, unmatched=unmatched, worst_iou=None, worst_score_difference=difference
    )
    assert report.passed == (100 * unmatched <= detections and (difference or 0) <= 1e-3)


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Detections from rows of x0, y0, x1, y1, score, label."""
    return Detections(
        boxes=np.array([row[:4] for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row[4] for row in rows], np.float32),
        labels=np.array([row[5] for row in rows], np.int64),
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [
        (found(), found(), []),
        (found((0, 0, 9, 9, 0.9, 1)), found(), []),
        (found((0, 0, 9, 9, 0.9, 1)), found((0, 0, 9, 9, 0.9, 2)), []),
        (found((0, 0, 9, 9, 0.9, 1)), found((0, 0, 9, 8, 0.9, 1)), []),
        (found((5, 0, 5, 9, 0.9, 1)), found((5, 0, 5, 9, 0.9, 1)), [(0, 0)]),  # no area, and yet the same
        (found((0, 0, 9, 9, 0.9, 1), (0, 0, 9, 9, 0.8, 1)), found((0, 0, 9, 9, 0.9, 1)), [(0, 0)]),
        (
            found((0, 0, 9, 9, 0.9, 1), (20, 20, 29, 29, 0.9, 1)),
            found((20, 20, 29, 29, 0.9, 1), (0, 0, 9, 9, 0.9, 1)),
            [(0, 1), (1, 0)],
        ),
    ],
)
def test_partners_are_found_one_to_one(ours: Detections, theirs: Detections, pairs: list[tuple[int, int]]) -> None:
    assert [(i, k) for i, k, _ in parity._partners(ours, theirs)] == pairs
