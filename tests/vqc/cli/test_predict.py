"""``vqc predict`` as a person meets it: verdicts, COCO results and pictures, and no part that passes unseen."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import images
from tests.models import CATEGORIES, calibration, write_models
from vqc.cli.main import main
from vqc.inference.calibration import save_calibration
from vqc.inference.detections import Detections
from vqc.inference.predictor import Predictor
from vqc.reporting import draw


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


@pytest.mark.parametrize("kind", [0, 1], ids=["safetensors", "onnx"])
def test_the_thresholds_of_the_calibration_are_used(
    kind: int, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = write_models(tmp_path)
    save_calibration(models[0], calibration(models[0], thresholds=(0.9, 0.8, 0.7), reached=False))
    flags = ["--images", str(parts / "images"), "--out", str(tmp_path / "out")]
    assert main(["predict", "--model", str(models[kind]), *flags]) == 0
    said = json.loads((tmp_path / "out/verdicts.json").read_text(encoding="utf-8"))
    assert said["calibrated"]
    assert list(said["thresholds"].values()) == [0.9, 0.8, 0.7]
    assert "at most 1 % escapes, which was not reached on val" in capsys.readouterr().out


def test_a_listed_image_without_width_stops_the_run(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = images.write_split(tmp_path / "test", count=2, first_seed=0)
    images.edit_json(folder / "annotations.json", lambda document: document["images"][1].pop("width"))
    flags = ["--images", str(folder / "images"), "--annotations", str(folder / "annotations.json")]
    assert main(["predict", "--model", str(models[1]), *flags, "--out", str(tmp_path / "out")]) == 2
    assert "width: expected" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("threshold", ["0.1", "0.3", "0.7"])
def test_what_is_drawn_is_what_rejects(
    threshold: str, models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score equal to the threshold, as float32: 0.7 is then a little less than as float64."""
    photo = images.save_picture(tmp_path, seed=3)
    found = Detections(
        boxes=np.array([[1, 1, 9, 9]], np.float32), scores=np.array([threshold], np.float32), labels=np.array([1])
    )
    monkeypatch.setattr(Predictor, "detect", lambda self, image, *, image_id: found)
    drawn: list[int] = []
    monkeypatch.setattr(draw, "draw_boxes", lambda image, boxes, captions: drawn.append(len(boxes)) or image)
    flags = ["--images", str(photo), "--threshold", threshold, "--out", str(tmp_path / "out")]
    assert main(["predict", "--model", str(models[1]), *flags]) == 0
    (verdict,) = json.loads((tmp_path / "out/verdicts.json").read_text(encoding="utf-8"))["images"]
    assert (verdict["verdict"], verdict["defects"], drawn) == ("fail", 1, [1])
