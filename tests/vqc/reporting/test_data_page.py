"""The page of a data set shows its pairs side by side, and examples of each class."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests import images
from vqc.cli.main import main
from vqc.data.dataset import load_data
from vqc.data.defect_size import size_table
from vqc.evaluation.label_errors import LabelErrors, Suspect
from vqc.reporting.data_page import MOST_SUSPECTS, data_page


def page(root: Path, status: int) -> str:
    assert main(["check", "--data", str(root), "--report", str(root / "check.html")]) == status
    return (root / "check.html").read_text(encoding="utf-8")


def test_a_usable_set_shows_its_classes(tmp_path: Path) -> None:
    root = images.write_data(tmp_path / "parts")
    images.edit_json(root / "val/annotations.json", lambda d: d["categories"][0].update(name="<b>scratch"))
    images.edit_json(root / "train/annotations.json", lambda d: d["categories"][0].update(name="<b>scratch"))
    images.edit_json(root / "test/annotations.json", lambda d: d["categories"][0].update(name="<b>scratch"))
    html = page(root, 0)
    assert len(re.findall(r'<img src="data:image/jpeg', html)) == 12  # six of each class
    assert "&lt;b&gt;scratch" in html
    assert "<b>scratch" not in html
    assert "12 of 64 x 48 px" in html
    assert re.findall(r'(?:src|href)="(?!data:)|@import|url\(', html) == []


def test_equal_pictures_stand_side_by_side(tmp_path: Path) -> None:
    root = images.write_data(tmp_path / "parts")
    shutil.copy(root / "train/images/rgb-1.png", root / "val/images/rgb-1001.png")
    html = page(root, 2)
    assert "Not usable" in html
    assert re.findall(r'alt="([^"]+)"', html) == ["train/images/rgb-1.png", "val/images/rgb-1001.png"]


def test_suspected_label_errors_are_shown_with_their_place(tmp_path: Path) -> None:
    data = load_data(images.write_data(tmp_path / "parts"))
    at = {"split": "val", "image_id": 1, "file_name": "<i>.png", "suspicion": 0.9}
    nothing = {"annotated": None, "annotated_box": None, "detected": None, "detected_box": None, "score": None}
    one = Suspect(**{**nothing, **at, "kind": "not found", "annotated": "dent", "annotated_box": (30, 20, 54, 36)})
    other = Suspect(
        **{**nothing, **at, "kind": "no box", "detected": "scratch", "detected_box": (0, 0, 9, 9), "score": 0.8}
    )
    errors = LabelErrors(
        data={}, judge="A judge.", ap50={"val": 0.5, "test": None}, boxes=9, suspects=(one, other) * 40
    )
    html = data_page(tmp_path / "parts", data, [], size_table(data.defects, []), errors)
    assert "Suspected label errors (80 for 9 boxes)" in html
    assert html.count("&lt;i&gt;.png, ") == 0
    assert html.count("val, &lt;i&gt;.png") == MOST_SUSPECTS
    assert "a scratch is detected (score 0.80), and there is no box" in html
    assert "val 0.500, test –" in html
    assert "All 80 are in the JSON file" in html


def test_boxes_that_are_worth_a_look_are_shown(tmp_path: Path) -> None:
    root = images.write_data(tmp_path / "parts")
    more = [(8, 6, 20, 10.5), (28, 6, 9, 9), (0, 0, 64, 48)]
    wrong = [images.annotation(90 + number, 1, bbox) for number, bbox in enumerate(more)]
    images.edit_json(root / "train/annotations.json", lambda d: d["annotations"].extend(wrong))
    html = page(root, 0)
    assert "warning: two boxes at one place (1)" in html
    assert "Two boxes at one place (1)" in html
    assert "Boxes of one class that touch or overlap (5)" in html  # the large one with three others
    assert "Boxes of the whole photograph (1)" in html
