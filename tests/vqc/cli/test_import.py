"""``vqc import`` says what came in and what did not."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests import exports, images
from vqc.cli.main import main
from vqc.data.importers.formats import FORMATS


def test_the_command_offers_every_format() -> None:
    assert tuple(FORMATS) == importlib.import_module("vqc.cli.import").FORMATS


def test_what_came_in_and_what_did_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = exports.roboflow(tmp_path / "in")
    (root / "valid/rgb-2.png").unlink()
    assert main(["import", str(root), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines()]
    assert shown.startswith("coco: 3 annotation files, such as test/_annotations.coco.json\n")
    assert ["good", "1", "1", "1"] in rows
    assert ["boxes", "3", "1", "3"] in rows
    assert ["dent", "1", "0", "1"] in rows
    assert "no such picture, such as rgb-2.png" in shown
    assert shown.endswith(f"vqc check --data {tmp_path / 'out'}\n")
    assert main(["check", "--data", str(tmp_path / "out")]) == 0


def test_what_has_no_splits_is_to_be_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = exports.cvat(tmp_path / "in")
    assert main(["import", str(root), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "The source has no splits: train, val and test are still to be made." in shown
    assert shown.endswith(f"vqc split --data {tmp_path / 'out'} --out {tmp_path / 'out-split'}\n")


def test_a_name_with_markup_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = exports.cvat(tmp_path / "in")
    hostile = "[red]a\x1b[2J.png"
    images.edit_json(root / "annotations/instances_default.json", lambda d: d["images"][0].update(file_name=hostile))
    assert main(["import", str(root), "--out", str(tmp_path / "out"), "--unlabelled", "leave-out"]) == 0
    shown = capsys.readouterr().out
    assert "[red]a\\x1b[2J.png" in shown
    assert "\x1b" not in shown


def test_the_question_has_its_answer_in_the_next_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = exports.cvat(tmp_path / "in")
    images.save_picture(root, seed=9)
    assert main(["import", str(root), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"next: vqc import {root} --out {tmp_path / 'out'} --unlabelled good" in said
