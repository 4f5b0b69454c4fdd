"""``vqc calibrate`` as a person meets it: a file beside the model, a page, sentences about what was shown."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.images import edit_json
from tests.vqc.cli.test_evaluate import EVIL, Tags, parts, run, trained
from vqc.cli.main import main
from vqc.data.dataset import load_data
from vqc.inference.model_file import open_predictor

__all__ = ["parts", "run", "trained"]  # fixtures of the module beside


def test_calibration_page_and_sentences(run: Path, parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--model", str(run), "--data", str(parts), "--max-escape", "0.4"]) == 0
    found = open_predictor(run).calibration
    assert found is not None
    assert found.data_fingerprint == load_data(parts).fingerprint
    assert [name for _, name in found.categories] == [EVIL, "dent"]
    point = found.operating_point
    assert (point.escape.total, point.overkill.total, point.max_escape) == (3, 1, 0.4)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"On val {point.escape.count} of 3 defective parts pass; 40.0 % were allowed." in shown
    assert "reject from score" in shown
    html = (run.parent / "calibration.html").read_text(encoding="utf-8")
    assert all(tag != "script" for tag, _ in Tags(html).found)
    assert "LaECE0" in html


def test_test_images_change_nothing_of_it(run: Path, parts: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(parts, other)
    edit_json(other / "test" / "annotations.json", lambda d: d.update(annotations=[]))
    saved = []
    for root in (parts, other):
        assert main(["calibrate", "--model", str(run), "--data", str(root)]) == 0
        saved.append(open_predictor(run).calibration)
    first, second = (one.model_copy(update={"data_fingerprint": ""}) for one in saved if one is not None)
    assert first == second


def test_without_a_test_split_it_says_so(run: Path, parts: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(parts, other, ignore=lambda folder, names: ["test"] if Path(folder) == parts else [])
    assert main(["calibrate", "--model", str(run), "--data", str(other)]) == 0
    assert "there is no test split" in (run.parent / "calibration.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--max-escape", "0"], "--max-escape: got 0, expected a share between 0 and 1"),
        (["--max-escape", "1"], "--max-escape: got 1, expected a share between 0 and 1"),
        (["--model", "model.onnx"], "expected the weights it was exported from"),
        (["--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    run: Path, parts: Path, flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "--model", str(run), "--data", str(parts), *flags]) == 2
    assert told in capsys.readouterr().err
    assert sorted(path.name for path in run.parent.iterdir()) == ["model.safetensors"]


def test_val_without_defects_cannot_calibrate(
    run: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(parts, other)
    edit_json(other / "val" / "annotations.json", lambda d: d.update(annotations=[]))
    assert main(["calibrate", "--model", str(run), "--data", str(other)]) == 2
    assert "next: vqc check --data" in capsys.readouterr().err
