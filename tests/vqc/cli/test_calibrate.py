"""``vqc calibrate`` as a person meets it: a file beside the model, a page, sentences about what was shown."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from tests.images import edit_json
from tests.vqc.cli.test_evaluate import EVIL, Tags, parts, run, trained
from vqc.cli.main import main
from vqc.data.dataset import load_data
from vqc.inference.model_file import open_predictor

__all__ = ["parts", "run", "trained"]  # fixtures of the module beside

MOST = ("--max-escape", "0.4")


def test_calibration_page_and_sentences(run: Path, parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--model", str(run), "--data", str(parts), *MOST]) == 0
    found = open_predictor(run).calibration
    assert found is not None
    assert found.data_fingerprint == load_data(parts).fingerprint
    assert [name for _, name in found.categories] == [EVIL, "dent"]
    point = found.operating_point
    assert (point.escape.total, point.overkill.total, point.max_escape) == (3, 1, 0.4)
    shown = " ".join(capsys.readouterr().out.split())
    assert (point.tolerated, point.confidence) == (0, None)
    assert f"On val {point.escape.count} of 3 defective parts pass; 0 are tolerated." in shown
    assert "reject from an expected IoU" in shown
    assert "counts have no confidence interval" in shown
    html = (run.parent / "calibration.html").read_text(encoding="utf-8")
    assert all(tag != "script" for tag, _ in Tags(html).found)
    assert "LaECE0" in html
    assert "expected IoU, not the probability of a defect" in html


@pytest.mark.parametrize(
    ("flags", "promise"),
    [
        (["--max-escape", "0.4"], "A new defective part passes with a probability of at most 40.0 %, on average"),
        (["--max-escape", "0.7", "--confidence", "0.9"], "With 90.0 % confidence at most 70.0 % of new defective"),
    ],
)
def test_the_promise_says_what_it_is_and_what_val_also_chose(
    run: Path, parts: Path, flags: list[str], promise: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "--model", str(run), "--data", str(parts), *flags]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert promise in shown
    assert "val also chose the epoch, the configuration and the score curves" in shown


def test_too_few_defective_parts_are_refused_with_a_command_that_works(
    run: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "--model", str(run), "--data", str(parts)]) == 2
    error = capsys.readouterr().err
    assert "val: 3 defective parts, expected at least 99 to promise at most 1.0 % escapes\n  next: " in error
    assert main(shlex.split(error.partition("next: vqc ")[2])) == 0


def test_test_images_change_nothing_of_it(run: Path, parts: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(parts, other)
    edit_json(other / "test" / "annotations.json", lambda d: d.update(annotations=[]))
    saved = []
    for root in (parts, other):
        assert main(["calibrate", "--model", str(run), "--data", str(root), *MOST]) == 0
        saved.append(open_predictor(run).calibration)
    first, second = (one.model_copy(update={"data_fingerprint": ""}) for one in saved if one is not None)
    assert first == second


def test_without_a_test_split_it_says_so(run: Path, parts: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(parts, other, ignore=lambda folder, names: ["test"] if Path(folder) == parts else [])
    assert main(["calibrate", "--model", str(run), "--data", str(other), *MOST]) == 0
    assert "there is no test split" in (run.parent / "calibration.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--max-escape", "0"], "--max-escape: got 0, expected a number between 0 and 1"),
        (["--confidence", "95"], "--confidence: got 95, expected a number between 0 and 1, such as 0.95"),
        (["--max-escape", "1"], "--max-escape: got 1, expected a number between 0 and 1"),
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
