"""Manifest, golden images and reference statistics of a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.images import rgb, save_picture
from tests.models import StubBackend, stub_predictor
from vqc.data.image_io import DecodedPicture
from vqc.errors import ModelError
from vqc.inference.bundle import (
    appearance,
    champion_of,
    check_bundle,
    choose_golden,
    name_champion,
    reference_stats,
    write_golden,
    write_manifest,
)
from vqc.inference.detections import Detections

FOUND = Detections(
    boxes=np.array([[3, 4, 20, 30], [5, 5, 9, 9]], np.float32),
    scores=np.array([0.9, 0.2], np.float32),
    labels=np.array([1, 2]),
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "code").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "code" / "part.py").write_text("")
    pictures = [save_picture(tmp_path, seed=1), save_picture(tmp_path, "jpeg", seed=2)]
    write_golden(folder, pictures, stub_predictor(StubBackend(FOUND)))
    write_manifest(folder)
    return folder


def test_a_whole_bundle_passes(bundle: Path) -> None:
    check_bundle(bundle, stub_predictor(StubBackend(FOUND)))
    assert sorted(path.name for path in (bundle / "golden").iterdir()) == ["0.png", "1.jpg", "golden.json"]


SPOILT: dict[str, Callable[[Path], object]] = {
    "model.onnx": lambda bundle: (bundle / "model.onnx").write_bytes(b"grapf"),
    "part.py": lambda bundle: (bundle / "code" / "part.py").unlink(),
    "extra.bin": lambda bundle: (bundle / "extra.bin").write_bytes(b""),
    "not a whole bundle": lambda bundle: (bundle / "manifest.json").unlink(),
    "whole bundle": lambda bundle: (bundle / "golden" / "golden.json").write_text("[{}]"),
}


@pytest.mark.parametrize("says", SPOILT)
def test_a_changed_file_is_named(bundle: Path, says: str) -> None:
    SPOILT[says](bundle)
    with pytest.raises(ModelError, match=says):
        check_bundle(bundle, stub_predictor(StubBackend(FOUND)))


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        ({"scores": FOUND.scores + np.float32(5e-4)}, True),
        ({"scores": FOUND.scores + np.float32(5e-3)}, False),
        ({"boxes": FOUND.boxes + np.float32(0.3)}, False),
        ({"labels": FOUND.labels[::-1].copy()}, False),
    ],
)
def test_other_detections_on_a_golden_image_are_noticed(bundle: Path, change: dict[str, object], passes: bool) -> None:
    predictor = stub_predictor(StubBackend(replace(FOUND, **change)))  # type: ignore[arg-type]
    if passes:
        check_bundle(bundle, predictor)
        return
    with pytest.raises(ModelError, match=r"golden.0\.png: the detection with score 0\.9"):
        check_bundle(bundle, predictor)


def test_a_detection_more_is_noticed_too(bundle: Path) -> None:
    more = Detections(boxes=np.vstack([FOUND.boxes, [[30, 30, 40, 40]]]).astype(np.float32),
                      scores=np.array([0.9, 0.2, 0.6], np.float32), labels=np.array([1, 2, 1]))  # fmt: skip
    with pytest.raises(ModelError, match=r"score 0\.6000"):
        check_bundle(bundle, stub_predictor(StubBackend(more)))


@pytest.mark.parametrize(
    ("defective", "chosen"),
    [("dddd", "0123"), ("gggg", "0123"), ("dgdgdg", "0213"), ("dddddg", "0125"), ("dgg", "012"), ("d", "0")],
)
def test_both_kinds_of_parts_are_among_the_golden(defective: str, chosen: str) -> None:
    photographs = [(Path(str(k)), letter == "d") for k, letter in enumerate(defective)]
    assert "".join(path.name for path in choose_golden(photographs)) == chosen


def test_the_statistics_tell_light_and_focus() -> None:
    pixels = rgb(1)
    brighter = np.clip(pixels.astype(int) + 30, 0, 255).astype(np.uint8)
    noisy = np.clip(pixels + np.random.default_rng(0).normal(0, 20, pixels.shape), 0, 255).astype(np.uint8)
    assert appearance(brighter)[0] > appearance(pixels)[0] + 15
    assert appearance(noisy)[2] > 10 * appearance(pixels)[2]
    stats = reference_stats(map(DecodedPicture.whole, [pixels, brighter]), [0.25, 0.75])
    assert (stats.images, stats.score.mean, stats.width_px.quantiles[0]) == (2, 0.5, 64)
    assert len(stats.brightness.quantiles) == 21
    assert list(stats.brightness.quantiles) == sorted(stats.brightness.quantiles)


def test_the_champion_is_found_beside_the_bundles_or_elsewhere(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(ModelError, match="no champion yet"):
        champion_of(tmp_path)
    for promoted in (tmp_path, tmp_path / "elsewhere"):
        name_champion(promoted, bundle)
        assert champion_of(promoted) == bundle
