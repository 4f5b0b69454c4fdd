"""The gate to the registry: a real MLflow database with a champion, and newcomers that find more or the same."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.images import write_data
from tests.models import decided
from tune.champion import MODEL_NAME, Newcomer, Verdict, judge, register
from vqc.data.dataset import Data, load_data
from vqc.evaluation.calibrate import fit_calibration
from vqc.evaluation.evaluate import Evaluated, evaluate
from vqc.evaluation.operating_point import Goal
from vqc.inference.calibration import calibration_path, load_calibration, save_calibration
from vqc.inference.detections import Detections
from vqc.inference.model_file import open_predictor
from vqc.inference.torch_backend import torch_predictor
from vqc.models.checkpoint import save_model
from vqc.tracking.mlflow_client import Tracker, TrackingError, default_uri


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return load_data(write_data(tmp_path_factory.mktemp("gate") / "parts", train=3, val=6, test=30))


@pytest.fixture(scope="module")
def bundle(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The champion's: a detector with random weights."""
    model, info = decided("fcos_tiny", (96, 96), categories=tuple((c.id, c.name) for c in data.categories))
    folder = tmp_path_factory.mktemp("bundle")
    path = folder / "model.safetensors"
    save_model(path, model, info)
    calibration, _, _ = fit_calibration(torch_predictor(model, info), path.name, data, goal=Goal(max_escape=0.3))
    save_calibration(path, calibration)
    return folder


@pytest.fixture(scope="module")
def measured(bundle: Path, data: Data) -> Evaluated:
    return evaluate(bundle / "model.safetensors", data, split="test")


@pytest.fixture
def registry(bundle: Path, tmp_path: Path) -> Tracker:
    """A registry in which the bundle is champion."""
    tracker = Tracker(default_uri(tmp_path), artifacts=tmp_path / "files")
    return registered(tracker, bundle)


def registered(tracker: Tracker, bundle: Path) -> Tracker:
    run_id = tracker.create("trial", tags={}, start_ms=0)
    tags = {"vqc.search_id": "old", "vqc.trial": "1"}
    first = Verdict(decision="first", reason="")
    assert register(bundle, first, tracker, run_id=run_id, metrics={}, tags=tags).version
    return tracker


def newcomer(bundle: Path, data: Data, tested: Evaluated | None, *, trial: int = 2, promise: float = 0.3) -> Newcomer:
    path = bundle / "model.safetensors"
    calibration = load_calibration(path, weights_sha256=open_predictor(path).weights_sha256)
    assert calibration is not None
    point = calibration.operating_point.model_copy(update={"max_escape": promise})
    calibration = calibration.model_copy(update={"operating_point": point})
    return Newcomer(search_id="old", trial=trial, data=data, calibration=calibration, tested=tested)


def perfect(measured: Evaluated) -> Evaluated:
    """As if every defect had been found exactly, and nothing else."""
    found = [
        Detections(image_id=one.image_id, boxes=one.boxes, scores=np.ones(len(one.boxes), np.float32),
                   labels=one.labels)
        for one in measured.split.images
    ]  # fmt: skip
    return replace(measured, detections=tuple(found))


def test_the_first_is_champion_without_a_comparison(bundle: Path, data: Data, tmp_path: Path) -> None:
    tracker = Tracker(default_uri(tmp_path), artifacts=tmp_path / "files")
    verdict = judge(newcomer(bundle, data, None), tracker, force=False)
    assert (verdict.decision, verdict.champion, verdict.comparison) == ("first", True, None)


@pytest.mark.parametrize("force", [False, True])
def test_a_better_one_replaces_the_champion(
    registry: Tracker, bundle: Path, data: Data, measured: Evaluated, force: bool
) -> None:
    verdict = judge(newcomer(bundle, data, perfect(measured)), registry, force=force)
    assert (verdict.decision, verdict.champion) == ("better", True)
    assert verdict.comparison is not None
    assert verdict.comparison.escape.ours == 0
    assert "version 1: on test escapes 0 of 20 against" in verdict.reason


def test_an_equal_one_does_not(registry: Tracker, bundle: Path, data: Data, measured: Evaluated) -> None:
    verdict = judge(newcomer(bundle, data, measured), registry, force=False)
    assert (verdict.decision, verdict.champion) == ("kept", False)
    assert verdict.comparison is not None
    assert verdict.comparison.escape.only_ours == verdict.comparison.escape.only_theirs == 0
    assert verdict.comparison.ap is not None
    assert verdict.comparison.ap.value == pytest.approx(0, abs=1e-9)


def test_a_looser_promise_does_not(registry: Tracker, bundle: Path, data: Data, measured: Evaluated) -> None:
    verdict = judge(newcomer(bundle, data, perfect(measured), promise=0.4), registry, force=False)
    assert verdict.decision == "kept"
    assert "it promises 40.0 % escapes, version 1 30.0 %" in verdict.reason


def test_force_replaces_it_and_says_so(registry: Tracker, bundle: Path, data: Data, measured: Evaluated) -> None:
    verdict = judge(newcomer(bundle, data, measured), registry, force=True)
    assert (verdict.decision, verdict.champion) == ("forced", True)
    assert verdict.reason.startswith("--force replaced version 1: ")


def test_the_champion_itself_is_known(registry: Tracker, bundle: Path, data: Data, measured: Evaluated) -> None:
    verdict = judge(newcomer(bundle, data, measured, trial=1), registry, force=True)
    assert (verdict.decision, verdict.version, verdict.champion) == ("already", "1", True)


def test_without_a_test_split_they_cannot_be_compared(registry: Tracker, bundle: Path, data: Data) -> None:
    verdict = judge(newcomer(bundle, data, None), registry, force=False)
    assert (verdict.decision, verdict.champion) == ("incomparable", False)
    assert "no test split" in verdict.reason


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("no calibration", "has no operating point"),
        ("a damaged calibration", "cannot be used"),
        ("no weights", "cannot be used"),
    ],
)
def test_a_champion_that_cannot_be_run_stays(
    bundle: Path, data: Data, measured: Evaluated, tmp_path: Path, spoil: str, says: str
) -> None:
    old = tmp_path / "old"
    shutil.copytree(bundle, old)
    weights = old / "model.safetensors"
    if spoil == "a damaged calibration":
        calibration_path(weights).write_text("{", encoding="utf-8")
    else:
        (weights if spoil == "no weights" else calibration_path(weights)).unlink()
    tracker = registered(Tracker(default_uri(tmp_path), artifacts=tmp_path / "files"), old)
    verdict = judge(newcomer(bundle, data, perfect(measured)), tracker, force=False)
    assert (verdict.decision, verdict.champion) == ("incomparable", False)
    assert says in verdict.reason
    assert tempfile.gettempdir() not in verdict.reason


def test_a_champion_of_other_categories_stays(
    registry: Tracker, bundle: Path, data: Data, measured: Evaluated, capfd: pytest.CaptureFixture[str]
) -> None:
    renamed = tuple(replace(one, name=f"{one.name} 2") for one in data.categories)
    other = replace(data, train=replace(data.train, categories=renamed))
    verdict = judge(newcomer(bundle, other, perfect(measured)), registry, force=False)
    assert (verdict.decision, verdict.champion) == ("incomparable", False)
    assert verdict.reason.startswith("version 1 cannot be used: model.safetensors: finds ")
    assert capfd.readouterr() == ("", "")  # MLflow would show the progress of its downloads


def test_a_failure_while_registering_keeps_the_champion(
    registry: Tracker, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every call to MLflow: the alias is set last."""
    client, calls = registry._client, []
    for name in ("log_artifacts", "create_model_version", "set_registered_model_alias"):

        def fails(*_: object, name: str = name, **__: object) -> None:
            calls.append(name)
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(client, name, fails)
            with pytest.raises(TrackingError, match="No space left"):
                register(bundle, Verdict(decision="better", reason=""), registry,
                         run_id=registry.create("t", tags={}, start_ms=0), metrics={}, tags={})  # fmt: skip
        present = registry.champion(MODEL_NAME)
        assert present is not None
        assert present.version == "1"
    assert calls == ["log_artifacts", "create_model_version", "set_registered_model_alias"]
