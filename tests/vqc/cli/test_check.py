"""``vqc check`` counts what is there and shows what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import images
from tests.models import decided
from vqc.cli.main import main
from vqc.config import TrainConfig
from vqc.models.checkpoint import save_model


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images.write_data(tmp_path_factory.mktemp("data") / "parts")


def test_check_shows_the_counts(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--data", str(parts)]) == 0
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines()]
    assert ["parts", "train", "val", "test"] in rows
    assert ["defective", "4", "2", "2"] in rows
    assert ["dent", "4", "2", "2"] in rows
    assert shown.endswith("usable\n")


def test_check_groups_and_cuts_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = images.write_data(tmp_path / "parts")
    wrong = [images.annotation(id_, 1, (60, 6, 9, 2)) for id_ in range(50, 73)]
    images.edit_json(root / "train/annotations.json", lambda d: d["annotations"].extend(wrong))
    assert main(["check", "--data", str(root)]) == 2
    shown = capsys.readouterr().out.splitlines()
    assert "error  box outside its image (23)" in shown
    assert sum("annotation 5" in line or "annotation 6" in line for line in shown) == 20
    assert "  and 3 more" in shown
    assert shown[-1] == "not usable until the errors are corrected"


def test_a_name_with_markup_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = images.write_data(tmp_path / "parts")
    images.edit_json(root / "val/annotations.json", lambda d: d["images"][0].update(file_name="[red]a\x1b[2J.png"))
    assert main(["check", "--data", str(root)]) == 2
    shown = capsys.readouterr().out
    assert "[red]a\\x1b[2J.png" in shown
    assert "\x1b" not in shown


def test_small_defects_are_reported_for_the_image_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = images.write_data(tmp_path / "parts")  # images of 64 x 48 px
    thin = [images.annotation(id_, 1, (8, 6, 20, 5)) for id_ in range(50, 60)]
    images.edit_json(root / "train/annotations.json", lambda d: d["annotations"].extend(thin))
    assert main(["check", "--data", str(root), "--image-size", "64"]) == 0
    shown = capsys.readouterr().out
    assert "small defects" in shown
    assert "at an input of 64 x 64 px, 10% of 26 defects have a shorter side of at most 5.0 px" in shown
    assert "an image size of 128 x 128 px would be enough" in shown
    assert main(["check", "--data", str(root), "--image-size", "128"]) == 0
    assert "small" not in capsys.readouterr().out


def test_an_impossible_image_size_is_one_sentence(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--data", str(parts), "--image-size", "100"]) == 2
    assert "--image-size" in capsys.readouterr().err


def test_a_part_in_two_splits_is_an_error_that_split_mends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = images.write_data(tmp_path / "parts", train=12, val=3)
    rng = np.random.default_rng(0)
    part = np.asarray(Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((256, 192)))
    for split, pixels in (("train", part), ("test", part // 10 * 9)):
        Image.fromarray(pixels).save(root / split / "images/again.png")
        entry = images.image(99, "again.png", (256, 192))
        images.edit_json(root / split / "annotations.json", lambda d, entry=entry: d["images"].append(entry))
    assert main(["check", "--data", str(root)]) == 2
    shown = capsys.readouterr().out
    assert "1 of 4 images look like an image in train, such as again.png and again.png" in shown
    command = shown.rstrip().rpartition("vqc ")[2].split()
    assert main(command) == 0
    assert main(["check", "--data", f"{root}-split"]) == 0


def test_label_errors_by_a_model_are_told_and_shown(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, info = decided("fcos_tiny", (96, 128), categories=((3, "scratch"), (7, "dent")))
    save_model(tmp_path / "model.safetensors", model, info)
    page = tmp_path / "check.html"
    words = ["check", "--data", str(parts), "--labels", str(tmp_path / "model.safetensors"), "--report", str(page)]
    assert main(words) == 0
    assert "It was trained on other data, or on earlier annotations" in capsys.readouterr().out
    errors = json.loads((tmp_path / "check-labels.json").read_text(encoding="utf-8"))
    assert errors["boxes"] == 16
    assert f"Suspected label errors ({len(errors['suspects'])} for 16 boxes)" in page.read_text(encoding="utf-8")


def test_label_errors_by_folds(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    brief = TrainConfig(model="fcos_tiny", weights="none", image_size=64, num_epochs=1, num_workers=0)
    monkeypatch.setattr("vqc.training.folds.fold_config", lambda data, image_size: brief)
    assert main(["check", "--data", str(parts), "--labels", "folds"]) == 0
    assert "no photograph was judged by a detector that had seen it" in capsys.readouterr().out


def test_a_judge_that_is_not_there_is_told_first(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--data", str(parts), "--labels", "fold"]) == 2
    assert "--labels: got 'fold', expected a model.safetensors, a model.onnx or 'folds'" in capsys.readouterr().err
