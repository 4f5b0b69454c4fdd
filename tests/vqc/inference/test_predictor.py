"""Photographs in, verdicts out: the same from torch and ONNX, and no part passes unseen."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import images
from tests.models import CATEGORIES, write_models
from vqc.cli.main import main
from vqc.errors import DataError
from vqc.files import file_sha256
from vqc.inference.calibration import Calibration, Curve, OperatingPoint, Proportion, save_calibration
from vqc.inference.detections import Detections
from vqc.inference.predictor import (
    OpenedDetector,
    Photograph,
    Verdict,
    coco_results,
    find_photographs,
    judge,
    open_detector,
    predict,
    read_photograph,
    verdicts_csv,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    torch.set_num_threads(1)
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split of six photographs; one lies below a folder of its own."""
    folder = images.write_split(tmp_path_factory.mktemp("parts") / "test", count=6, first_seed=0)
    images.save_picture(folder / "images", "grey16", seed=50)
    return folder


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Detections from rows of x0, y0, x1, y1, score, label."""
    return Detections(
        image_id=4,
        boxes=np.array([row[:4] for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row[4] for row in rows], np.float32),
        labels=np.array([row[5] for row in rows], np.int64),
    )


DETECTOR = OpenedDetector(
    path=Path("model.onnx"),
    detect=lambda image: found(),
    calibration=None,
    categories=CATEGORIES,
    runtime="onnxruntime",
)
PHOTOGRAPH = Photograph(image_id=4, path=Path("a.png"), file_name="a.png")


def test_onnx_gives_the_answer_of_torch(models: tuple[Path, Path], parts: Path) -> None:
    ours, theirs = (open_detector(path, threads=1) for path in models)
    assert (ours.runtime, theirs.runtime) == ("torch", "onnxruntime")
    photographs = find_photographs(parts / "images")
    pairs = list(zip(predict(ours, photographs), predict(theirs, photographs), strict=True))
    boxes = np.concatenate([one[2].boxes for one, _ in pairs if isinstance(one[2], Detections)])
    others = np.concatenate([two[2].boxes for _, two in pairs if isinstance(two[2], Detections)])
    assert len(boxes) > 50
    np.testing.assert_allclose(boxes, others, atol=0.02)
    for (_, _, one), (_, _, two) in pairs:
        assert isinstance(one, Detections)
        assert isinstance(two, Detections)
        np.testing.assert_array_equal(one.labels, two.labels)
        np.testing.assert_allclose(one.scores, two.scores, atol=1e-3)


def test_the_command_writes_what_coco_reads(
    models: tuple[Path, Path], parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pycocotools.coco import COCO

    truth, out = parts / "annotations.json", tmp_path / "out"
    flags = ["--images", str(parts / "images"), "--annotations", str(truth), "--threshold", "0.3", "--out", str(out)]
    assert main(["predict", "--model", str(models[1]), *flags]) == 0
    loaded = COCO(str(truth)).loadRes(str(out / "detections.json"))
    assert {row["category_id"] for row in loaded.anns.values()} <= {id_ for id_, _ in CATEGORIES}
    assert {row["image_id"] for row in loaded.anns.values()} <= set(range(1, 7))
    verdicts = json.loads((out / "verdicts.json").read_text(encoding="utf-8"))
    assert [row["image_id"] for row in verdicts["images"]] == [1, 2, 3, 4, 5, 6]
    assert verdicts["thresholds"] == {name: 0.3 for _, name in CATEGORIES}
    assert not verdicts["calibrated"]
    rows = list(csv.DictReader((out / "verdicts.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["verdict"] for row in rows] == [row["verdict"] for row in verdicts["images"]]
    assert len(list((out / "pictures").iterdir())) == 6
    assert "6 photographs: " in capsys.readouterr().out


def test_an_unreadable_photograph_is_no_part_that_passed(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images.save_picture(tmp_path, "rgb", seed=1)
    (tmp_path / "cut.png").write_bytes(images.save_picture(tmp_path, "rgb", seed=2).read_bytes()[:200])
    assert main(["predict", "--model", str(models[1]), "--images", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    rows = json.loads((tmp_path / "out/verdicts.json").read_text(encoding="utf-8"))["images"]
    assert [(row["file_name"], row["verdict"] == "unreadable") for row in rows] == [
        ("cut.png", True),
        ("rgb-1.png", False),
        ("rgb-2.png", False),
    ]
    assert rows[0]["defects"] is None
    assert capsys.readouterr().err.startswith("cut.png: broken or cut off")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--images", "nowhere"], "nowhere: no such file or folder"),
        (["--images", "empty"], "empty: no photograph in it"),
        (["--images", "parts", "--threshold", "2"], "--threshold: got 2, expected a score from 0 to 1"),
        (["--images", "parts", "--out", "parts"], "holds something already, expected a new or empty folder"),
        (["--images", "parts", "--model", "parts/rgb-0.png"], "expected a model.safetensors or a model.onnx"),
        (["--images", "parts", "--model", "none.onnx"], "none.onnx: no such file"),
        (["--images", "parts", "--annotations", "empty/a.json"], "empty/a.json: cannot be read"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_written(
    flags: list[str], says: str, models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "parts").mkdir()
    images.save_picture(tmp_path / "parts")
    assert main(["predict", "--model", str(models[1]), *flags]) == 2
    assert says in capsys.readouterr().err.replace("\\", "/")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "parts", "rgb-0.png"]


@given(
    scores=st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(1, 3)), max_size=6),
    limits=st.tuples(*[st.floats(0, 1)] * 3),
)
def test_a_part_fails_when_one_score_reaches_its_class_threshold(
    scores: list[tuple[float, int]], limits: tuple[float, float, float]
) -> None:
    ranked = sorted(scores, reverse=True)
    one = found(*[(0, 0, 9, 9, score, label) for score, label in ranked])
    verdict = judge(PHOTOGRAPH, one, DETECTOR, thresholds=dict(enumerate(limits, start=1)))
    over = [score for score, label in scores if score >= np.float32(limits[label - 1])]
    assert (verdict.verdict, verdict.defects) == ("fail" if over else "pass", len(over))
    assert verdict.worst_score == (round(ranked[0][0], 6) if ranked else None)


def test_results_are_in_coco_terms() -> None:
    assert coco_results(found((1, 2, 11, 22.5, 0.75, 2)), DETECTOR) == [
        {"image_id": 4, "category_id": 7, "bbox": [1.0, 2.0, 10.0, 20.5], "score": 0.75}
    ]


def calibration(model: Path, *, thresholds: tuple[float, ...], reached: bool = True) -> Calibration:
    """One that halves the logit of every score."""
    point = OperatingPoint(
        max_escape=0.01, thresholds=thresholds, per_class=True, reached=reached, parts_needed=299,
        escape=Proportion(count=0, total=40), overkill=Proportion(count=1, total=40),
    )  # fmt: skip
    return Calibration(
        model_file=model.name, model_sha256=file_sha256(model), data_fingerprint="f" * 64, categories=CATEGORIES,
        method="platt", curves=(Curve(method="platt", slope=0.5),) * 3, operating_point=point,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_a_calibration_beside_the_model_is_used(
    kind: str, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, exported = write_models(tmp_path)
    model = {"safetensors": weights, "onnx": exported}[kind]
    pixels = read_photograph(find_photographs(parts / "images")[0])
    raw = open_detector(model).detect(pixels).scores
    save_calibration(weights, calibration(weights, thresholds=(0.9, 0.8, 0.7), reached=False))
    scores = open_detector(model).detect(pixels).scores
    odds = np.sqrt(raw / (1 - raw))
    np.testing.assert_allclose(scores, odds / (1 + odds), atol=1e-5)
    flags = ["--images", str(parts / "images"), "--out", str(tmp_path / "out")]
    assert main(["predict", "--model", str(model), *flags]) == 0
    said = json.loads((tmp_path / "out/verdicts.json").read_text(encoding="utf-8"))
    assert said["calibrated"]
    assert list(said["thresholds"].values()) == [0.9, 0.8, 0.7]
    assert "escape rate of at most 1 %, which was not reached on val" in capsys.readouterr().out


@pytest.mark.parametrize(("size", "shape"), [((48, 64), (64, 48, 3)), ((64, 48), (48, 64, 3)), (None, (64, 48, 3))])
def test_a_turned_photograph_is_seen_as_it_was_annotated(
    size: tuple[int, int] | None, shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = images.save_rotated(tmp_path / "a.png", 6)
    photograph = Photograph(image_id=1, path=path, file_name="a.png", annotated_size=size)
    assert read_photograph(photograph).shape == shape


def test_another_size_than_annotated_is_told(tmp_path: Path) -> None:
    path = images.save_picture(tmp_path)
    with pytest.raises(DataError, match="annotated as 640 x 480 px, the picture has 64 x 48"):
        read_photograph(Photograph(image_id=1, path=path, file_name="a.png", annotated_size=(640, 480)))


def test_a_folder_is_searched_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    images.save_picture(tmp_path / "b", "jpeg")
    images.save_picture(tmp_path, "bmp")
    listed = find_photographs(tmp_path)
    assert [(one.image_id, one.file_name) for one in listed] == [(1, "b/jpeg-0.jpg"), (2, "bmp-0.bmp")]


def test_a_name_is_no_formula_and_nothing_is_no_zero() -> None:
    verdict = Verdict(image_id=1, file_name="=1+1.png", verdict="unreadable", reason="cut off")
    assert verdicts_csv([verdict]).splitlines()[1] == "1,'=1+1.png,unreadable,,,,cut off"
