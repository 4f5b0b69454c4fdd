"""Calibration: measures against sums by hand, curves that rise, thresholds that keep their promise."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.vqc.evaluation.test_coco_metrics import random_case
from tests.vqc.evaluation.test_image_metrics import BOX, found_on, split_of
from vqc.errors import ModelError
from vqc.evaluation.calibration_fit import (
    Samples,
    choose_curves,
    errors,
    fit_curve,
    folds,
    reliability,
    samples_of,
)
from vqc.evaluation.coco_metrics import coco_scores
from vqc.inference.calibration import (
    Calibration,
    Curve,
    OperatingPoint,
    Proportion,
    calibration_path,
    load_calibration,
    save_calibration,
)


def overconfident(seed: int, count: int = 3000, *, classes: int = 2) -> Samples:
    """Detections whose overlap is the square of their score, on average."""
    rng = np.random.default_rng(seed)
    score = rng.uniform(0.05, 1, count)
    hit = rng.random(count) < score
    overlap = np.where(hit, np.clip(score + rng.normal(0, 0.02, count), 0.01, 1), 0)
    return Samples(
        part=rng.integers(0, 100, count),
        label=rng.integers(1, classes + 1, count),
        score=score,
        overlap=overlap,
        correct=overlap >= 0.5,
        objects=np.full(classes, count),
        parts=100,
    )


def test_errors_are_the_sums_by_hand() -> None:
    samples = Samples(
        part=np.zeros(4, np.int64),
        label=np.array([1, 1, 1, 2]),
        score=np.array([0.81, 0.83, 0.2, 0.6]),  # the first two share a bin of a 25th
        overlap=np.array([0.9, 0.0, 0.0, 0.7]),
        correct=np.array([True, False, False, True]),
        objects=np.array([2, 1, 5]),
        parts=1,
    )
    found = errors(samples)
    first = (abs(0.82 - 0.45) * 2 + 0.2 * 1) / 3
    assert found.laece0 == pytest.approx((first + 0.1) / 2)
    assert found.dece == pytest.approx((abs(0.82 - 0.5) * 2 + 0.2 + 0.4) / 4)
    assert found.detections == 4


def test_without_detections_there_is_no_error() -> None:
    found = errors(samples_of(split_of([(BOX, 1, False)]), []))
    assert (found.laece0, found.dece, found.detections) == (None, None, 0)


def test_samples_know_overlap_and_leave_crowds_and_noise_out() -> None:
    split = split_of([(BOX, 1, False), ((100, 100, 180, 180), 1, True)])
    rows = ((BOX, 0.9, 1), ((10, 10, 50, 22), 0.8, 2), ((110, 110, 130, 130), 0.7, 1), (BOX, 0.04, 1), (BOX, 0.5, 1))
    samples = samples_of(split, [found_on(1, *rows)])
    assert samples.score == pytest.approx([0.9, 0.8, 0.5])
    assert samples.overlap.tolist() == [1, 0, 0]
    assert samples.correct.tolist() == [True, False, False]
    assert samples.objects.tolist() == [1, 0, 0]


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibration_mends_what_is_overconfident(method: str) -> None:
    told, new = overconfident(0), overconfident(1)
    curve = fit_curve(method, told.score, told.overlap)  # type: ignore[arg-type]
    after = errors(new.calibrated([curve, curve])).laece0
    before = errors(new).laece0
    assert after is not None
    assert before is not None
    assert after < 0.6 * before


def test_the_choice_is_made_on_held_out_parts_and_the_best_wins() -> None:
    choice = choose_curves(overconfident(0))
    assert choice.method == min(choice.squared_error, key=lambda name: choice.squared_error[name])
    assert choice.squared_error["isotonic"] < choice.squared_error["none"]
    assert choice.curves[0] != choice.curves[1]


def test_true_scores_are_left_alone_or_nearly() -> None:
    rng = np.random.default_rng(0)
    score = rng.uniform(0.05, 0.95, 4000)
    true = replace(overconfident(0, 4000), score=score, overlap=np.where(rng.random(4000) < score, 1.0, 0.0))
    curves = choose_curves(true).curves
    assert np.abs(true.calibrated(curves).score - score).mean() < 0.03


def test_of_too_few_detections_nothing_is_fitted() -> None:
    few = overconfident(0)[np.arange(3000) < 10]
    choice = choose_curves(few)
    assert (choice.method, choice.squared_error) == ("none", {})
    assert {curve.method for curve in choice.curves} == {"none"}


def test_a_class_with_few_detections_shares_the_curve_of_all() -> None:
    samples = overconfident(0, classes=3)
    rare = samples[(samples.label != 3) | (np.arange(3000) < 30)]
    curves = choose_curves(rare).curves
    shared = fit_curve(choose_curves(rare).method, rare.score, rare.overlap)
    assert curves[2] == shared
    assert curves[0] != shared


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=20, max_size=60),
    st.sampled_from(["platt", "isotonic"]),
)
def test_curves_rise_from_0_to_1_whatever_they_were_fitted_to(pairs: list[tuple[float, float]], method: str) -> None:
    scores, targets = np.array(pairs).T
    curve = fit_curve(method, scores, targets)  # type: ignore[arg-type]
    values = curve(np.linspace(0.001, 0.999, 300, dtype=np.float32))
    assert ((values >= 0) & (values <= 1)).all()
    assert (np.diff(values) >= 0).all()
    assert Curve.model_validate_json(curve.model_dump_json()) == curve


def test_isotonic_knots_are_the_pools_centres() -> None:
    scores = np.repeat([0.2, 0.4, 0.6, 0.8], 10)
    targets = np.repeat([0.1, 0.5, 0.3, 0.9], 10)  # the middle two are pooled
    curve = fit_curve("isotonic", scores, targets)
    np.testing.assert_allclose(curve.knots, [(0, 0), (0.2, 0.1), (0.5, 0.4), (0.8, 0.9), (1, 1)], atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_reliability_bins_hold_every_detection(seed: int) -> None:
    samples = overconfident(seed)
    bins = reliability(samples)
    assert sum(one.detections for one in bins) == len(samples.score)
    assert all(one.low < (one.mean_score or one.high) <= one.high for one in bins)


def test_folds_are_even_and_the_same_each_time() -> None:
    assert np.bincount(folds(23)).tolist() == [5, 5, 5, 4, 4]
    np.testing.assert_array_equal(folds(23), folds(23))


def calibration(model: Path, *, slope: float = 2.0) -> Calibration:
    nothing = Proportion(count=0, total=0)
    point = OperatingPoint(max_escape=0.01, thresholds=(0.3, 0.3, 0.4), per_class=True, tolerated=0, reached=True,
                           escape=nothing, overkill=nothing)  # fmt: skip
    return Calibration(
        model_file=model.name,
        weights_sha256="a" * 64,
        data_fingerprint="f" * 64,
        categories=((3, "scratch"), (7, "dent"), (90, "stain")),
        method="platt",
        curves=(Curve(method="platt", slope=slope, intercept=-1),) * 3,
        operating_point=point,
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


def test_a_calibration_comes_back_whole_for_weights_and_export(model: Path) -> None:
    path = save_calibration(model, calibration(model))
    assert path == calibration_path(model.with_suffix(".onnx"))
    for file in (model, model.with_suffix(".onnx")):
        assert load_calibration(file, weights_sha256="a" * 64) == calibration(model)
    assert calibration(model).thresholds == {1: 0.3, 2: 0.3, 3: 0.4}


def test_without_a_file_there_is_no_calibration(model: Path) -> None:
    assert load_calibration(model, weights_sha256="a" * 64) is None


@pytest.mark.parametrize("change", ["other weights", "cut", "not rising"])
def test_a_calibration_of_something_else_is_refused_in_a_sentence(model: Path, change: str) -> None:
    path = save_calibration(model, calibration(model))
    text = path.read_text(encoding="utf-8")
    if change != "other weights":
        path.write_text(
            text[:99] if change == "cut" else text.replace('"slope": 2.0', '"slope": -2.0'), encoding="utf-8"
        )
    with pytest.raises(ModelError, match=r"model\.calibration\.json: .*\n  next: vqc calibrate --model"):
        load_calibration(model, weights_sha256=("b" if change == "other weights" else "a") * 64)


@pytest.mark.parametrize(
    "knots", [(), ((0, 0), (0.5, 0.4), (0.5, 0.6), (1, 1)), ((0, 0), (0.5, 0)), ((0.1, 0), (1, 1))]
)
def test_knots_must_rise_from_end_to_end(knots: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValidationError, match="knots"):
        Curve(method="isotonic", knots=knots)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_leaves_average_precision_alone(seed: int, model: Path) -> None:
    split, found = random_case(seed)
    after = [calibration(model).calibrated(one) for one in found]
    assert coco_scores(split, after).ap == pytest.approx(coco_scores(split, found).ap, abs=1e-9)
    assert all((np.diff(one.scores) <= 0).all() for one in after)


def test_curves_of_pairs_rise() -> None:
    curve = fit_curve("isotonic", *np.random.default_rng(0).uniform(0, 1, (2, 500)))
    assert all(x0 < x1 and y0 < y1 for (x0, y0), (x1, y1) in pairwise(curve.knots))
