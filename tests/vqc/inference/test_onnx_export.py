"""ONNX beside torch: the same detections, a file that can be used alone, and honest clocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from tests.models import CATEGORIES, SIZE, Pixels, decided, picture
from vqc.data.letterbox import PAD_VALUE
from vqc.errors import ModelError
from vqc.hardware.precision import Precision
from vqc.inference import onnx_export as export
from vqc.inference.detections import Detections
from vqc.inference.onnx_export import (
    OnnxDetector,
    ParityReport,
    check_parity,
    export_onnx,
    measure_latency,
    onnx_detector,
)
from vqc.models.checkpoint import ModelInfo

HEAVY = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large",
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


Exported = tuple[nn.Module, ModelInfo, Path]


@pytest.fixture(scope="module")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model, info = decided("fcos_tiny", SIZE)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(model, info, path)
    return model, info, path


@pytest.fixture
def detector(tiny_export: Exported) -> OnnxDetector:
    return onnx_detector(tiny_export[2], threads=1)


def test_onnx_finds_what_torch_finds(tiny_export: Exported, detector: OnnxDetector) -> None:
    report = check_parity(tiny_export[0], detector, [picture(seed) for seed in range(10, 14)])
    assert report.passed
    assert report.images == 4
    assert report.detections > 50
    assert report.unmatched == 0
    assert report.worst_iou is not None
    assert report.worst_iou > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_every_family_is_exported(name: str, tmp_path: Path) -> None:
    size = (320, 320) if "ssdlite" in name else (128, 160)
    model, info = decided(name, size)
    export_onnx(model, info, tmp_path / "model.onnx")
    detector = onnx_detector(tmp_path / "model.onnx", threads=1)
    report = check_parity(model, detector, [picture(seed, size) for seed in range(10, 14)])
    assert report.detections > 50
    assert report.passed, report


def test_other_weights_are_found_out(tiny_export: Exported, detector: OnnxDetector) -> None:
    other, _ = decided("fcos_tiny", SIZE)
    with torch.no_grad():
        for weights in other.head.parameters():  # type: ignore[union-attr,operator]
            weights *= 1.02
    report = check_parity(other, detector, [picture(10)])
    assert not report.passed


def test_the_file_says_what_its_user_must_know(tiny_export: Exported, detector: OnnxDetector) -> None:
    assert (detector.categories, detector.size, detector.fingerprint) == (CATEGORIES, SIZE, "f" * 64)
    props = {item.key: item.value for item in onnx.load(tiny_export[2]).metadata_props}
    assert props["vqc.pad_value"] == str(PAD_VALUE)
    assert (props["vqc.model"], props["vqc.epoch"]) == ("fcos_tiny", "3")
    (images,) = detector.session.get_inputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", [1, 3, *SIZE])


@pytest.mark.parametrize("shape", [(96, 128), (333, 51), (40, 700), (1, 1)])
def test_boxes_are_in_pixels_of_any_picture(
    tiny_export: Exported, detector: OnnxDetector, shape: tuple[int, int]
) -> None:
    image = picture(5, shape)
    ours = detector(image)
    height, width = shape
    assert ours.boxes.dtype == np.float32
    assert (ours.boxes >= 0).all()
    assert (ours.boxes <= [width, height, width, height]).all()
    assert (np.diff(ours.scores) <= 0).all()
    precision = Precision(device=torch.device("cpu"), dtype=torch.float32)
    theirs = export.torch_detector(tiny_export[0], size=SIZE, precision=precision)(image)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)


class _FullGpu(str):
    """A device of the CPU's name that passes for a GPU without free memory."""

    type = "cuda"


class _OnFullGpu(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.transform, self.device = model, model.transform, ""

    def to(self, device: object, memory_format: object = None) -> _OnFullGpu:  # type: ignore[override]
        self.device = getattr(device, "type", "")
        return self

    def forward(self, images: torch.Tensor) -> object:
        if self.device == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.model(images)


def test_where_the_gpu_is_full_a_picture_is_looked_at_on_the_cpu(tiny_export: Exported) -> None:
    cpu = Precision(device=torch.device("cpu"), dtype=torch.float32)
    full = replace(cpu, device=_FullGpu("cpu"), dtype=torch.float32)
    model = _OnFullGpu(tiny_export[0])
    found = export.torch_detector(model, size=SIZE, precision=full)(picture(5))
    assert model.device == "cpu"
    expected = export.torch_detector(tiny_export[0], size=SIZE, precision=cpu)(picture(5))
    np.testing.assert_array_equal(found.boxes, expected.boxes)


def test_a_picture_without_defects_is_no_failure(tiny_export: Exported, detector: OnnxDetector) -> None:
    model, _ = decided("fcos_tiny", SIZE)
    model.score_thresh = 2.0  # type: ignore[assignment]
    silent = replace(detector, session=_Silent())
    report = check_parity(model, silent, [picture(1)])
    assert report == ParityReport(images=1, detections=0, unmatched=0, worst_iou=None, worst_score_difference=None)
    assert report.passed


class _Silent:
    def run(self, _names: object, _inputs: object) -> tuple[Pixels, Pixels, NDArray[np.int64]]:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)  # type: ignore[return-value]


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


Raw = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


def raw(*rows: tuple[float, float, float, float, float, int]) -> Raw:
    """Boxes, scores and labels from rows of x0, y0, x1, y1, score, label."""
    boxes = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    return boxes, np.array([row[4] for row in rows], np.float32), np.array([row[5] for row in rows], np.int64)


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [
        (raw(), raw(), []),
        (raw((0, 0, 9, 9, 0.9, 1)), raw(), []),
        (raw((0, 0, 9, 9, 0.9, 1)), raw((0, 0, 9, 9, 0.9, 2)), []),
        (raw((0, 0, 9, 9, 0.9, 1)), raw((0, 0, 9, 8, 0.9, 1)), []),
        (raw((5, 0, 5, 9, 0.9, 1)), raw((5, 0, 5, 9, 0.9, 1)), [(0, 0)]),  # no area, and yet the same
        (raw((0, 0, 9, 9, 0.9, 1), (0, 0, 9, 9, 0.8, 1)), raw((0, 0, 9, 9, 0.9, 1)), [(0, 0)]),
        (
            raw((0, 0, 9, 9, 0.9, 1), (20, 20, 29, 29, 0.9, 1)),
            raw((20, 20, 29, 29, 0.9, 1), (0, 0, 9, 9, 0.9, 1)),
            [(0, 1), (1, 0)],
        ),
    ],
)
def test_partners_are_found_one_to_one(ours: Raw, theirs: Raw, pairs: list[tuple[int, int]]) -> None:
    assert [(i, k) for i, k, _ in export._partners(ours, theirs)] == pairs


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[: len(data) // 2], "not a whole ONNX file"),
        (lambda data: b"", "not a whole ONNX file"),
        (lambda data: data.replace(b"vqc.image_size", b"abc.image_size"), "not exported by this project"),
    ],
    ids=["cut", "empty", "foreign"],
)
def test_a_file_that_is_none_of_ours_is_one_sentence(
    tiny_export: Exported, tmp_path: Path, damage: Callable[[bytes], bytes], says: str
) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(damage(tiny_export[2].read_bytes()))
    with pytest.raises(ModelError, match=says) as caught:
        onnx_detector(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        onnx_detector(tmp_path / "none.onnx")


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path, tiny_export: Exported) -> None:
    class Odd(nn.Module):
        def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
            found = torch.fft.fft(images.float()).real.reshape(-1)
            return [{"boxes": found, "scores": found, "labels": found}]

    with pytest.raises(ModelError, match="cannot be exported to ONNX"):
        export_onnx(Odd(), tiny_export[1], tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_latency_leaves_the_warm_up_out() -> None:
    calls = 0

    def slow_at_first(_image: Pixels) -> Detections:
        nonlocal calls
        calls += 1
        time.sleep(0.05 if calls <= export.WARM_UP_RUNS else 0.001)
        return Detections(image_id=0, boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32),
                          labels=np.zeros(0, np.int64))  # fmt: skip

    latency = measure_latency(slow_at_first, [picture(1)])
    assert calls == export.WARM_UP_RUNS + latency.runs
    assert latency.runs == export.TIMED_RUNS
    assert 1.0 <= latency.p50_ms <= latency.p95_ms
    assert latency.p50_ms < 40
