"""``vqc explain`` as a person meets it: pictures and one page, from the first photograph on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests import images
from tests.models import write_models
from vqc.cli.main import main
from vqc.data.image_io import DecodedPicture
from vqc.data.tiles.views import TilePlan
from vqc.inference import photographs
from vqc.inference.photographs import Photograph, read_photograph
from vqc.models.checkpoint import load_model, save_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


def test_the_command_writes_pictures_and_one_page(models: tuple[Path, Path], tmp_path: Path) -> None:
    photo = images.save_picture(tmp_path, seed=3)
    flags = ["--images", str(photo), "--masks", "8", "--detections", "2", "--out", str(tmp_path / "out")]
    assert main(["explain", "--model", str(models[0]), "--method", "both", "--faithfulness", *flags]) == 0
    page = (tmp_path / "out/explanations.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "still to come" not in page
    (one,) = json.loads((tmp_path / "out/explanations.json").read_text(encoding="utf-8"))
    assert [(row["detection"], row["method"]) for row in one["cards"]] == [
        (1, "gradcam"), (1, "drise"), (2, "gradcam"), (2, "drise")
    ]  # fmt: skip
    shown = sum(row["faithfulness"] is not None for row in one["cards"])
    assert shown >= 2
    linked = {unquote(name) for name in re.findall(r'src="([^"]*)"', page)}
    assert linked == {f"pictures/{path.name}" for path in (tmp_path / "out/pictures").iterdir()}
    assert page.count("score left while deleting") == shown


def test_an_exported_detector_is_explained_by_masks(models: tuple[Path, Path], tmp_path: Path) -> None:
    images.save_picture(tmp_path, seed=3)
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    flags = ["--images", str(tmp_path), "--masks", "8", "--detections", "1", "--out", str(tmp_path / "out")]
    assert main(["explain", "--model", str(models[1]), *flags]) == 1
    (one,) = json.loads((tmp_path / "out/explanations.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in one["cards"]] == ["drise"]
    assert "cut.png" in (tmp_path / "out/explanations.html").read_text(encoding="utf-8")


def test_by_default_weights_are_explained_by_gradients_alone(models: tuple[Path, Path], tmp_path: Path) -> None:
    photo = images.save_picture(tmp_path, seed=3)
    flags = ["--images", str(photo), "--detections", "2", "--out", str(tmp_path / "out")]
    assert main(["explain", "--model", str(models[0]), *flags]) == 0
    (one,) = json.loads((tmp_path / "out/explanations.json").read_text(encoding="utf-8"))
    assert [(row["method"], row["faithfulness"]) for row in one["cards"]] == [("gradcam", None)] * 2
    assert "--faithfulness" in (tmp_path / "out/explanations.html").read_text(encoding="utf-8")


def test_what_was_explained_before_an_interruption_stays(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in ("a #1.png", "b.png", "c.png"):
        images.save_picture(folder, seed=3).rename(folder / name)

    def interrupted(photograph: Photograph, *, fit: tuple[int, int] | None) -> DecodedPicture:
        if photograph.file_name == "b.png":
            raise KeyboardInterrupt
        return read_photograph(photograph, fit=fit)

    monkeypatch.setattr(photographs, "read_photograph", interrupted)
    flags = ["--images", str(folder), "--detections", "1", "--out", str(tmp_path / "out")]
    assert main(["explain", "--model", str(models[0]), *flags]) == 130
    page = (tmp_path / "out/explanations.html").read_text(encoding="utf-8")
    assert "2 more photographs are still to come" in page
    assert (tmp_path / "out" / unquote(re.findall(r'src="([^"]*)"', page)[0])).is_file()
    assert [one["file"] for one in json.loads((tmp_path / "out/explanations.json").read_text())] == ["a #1.png"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--method", "gradcam"], "an ONNX file has no gradients"),
        (["--method", "both"], "an ONNX file has no gradients"),
        (["--masks", "0"], "--masks: got 0, expected at least 1"),
        (["--detections", "0"], "--detections: got 0, expected at least 1"),
        (["--images", "nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_mistakes_are_one_sentence(
    flags: list[str], says: str, models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = images.save_picture(tmp_path)
    given_ = ["--model", str(models[1]), "--images", str(photo), "--out", str(tmp_path / "out"), *flags]
    assert main(["explain", *given_]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["gradcam", "drise"])
def test_a_detector_of_tiles_shows_the_heat_of_a_tile_on_the_photograph(
    models: tuple[Path, Path], tmp_path: Path, method: str
) -> None:
    model, info = load_model(models[0])
    tiled = tmp_path / "tiled.safetensors"
    save_model(tiled, model, info.model_copy(update={"tiles": TilePlan(tile_px=64, overlap_px=16, whole=False)}))
    photo = images.save_picture(tmp_path, size=(200, 100))
    flags = ["--images", str(photo), "--method", method, "--masks", "20", "--out", str(tmp_path / "out")]
    assert main(["explain", "--model", str(tiled), *flags]) == 0
    (one,) = json.loads((tmp_path / "out/explanations.json").read_text(encoding="utf-8"))
    assert [card["detection"] for card in one["cards"]] == [1, 2, 3]
    for card in one["cards"]:
        left, top, width, height = card["tile"]
        assert (width, height) == (64, 64)
        assert 0 <= left <= 200 - 64
        assert 0 <= top <= 100 - 64
        assert max(card["box_in_fitted_image"]) <= max(info.config.image_size)
    shown = [card for card in one["cards"] if card["picture"]]
    assert shown
    for card in shown:
        assert (tmp_path / "out" / unquote(card["photograph"])).is_file()
