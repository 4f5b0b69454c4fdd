"""The page of a data set shows its pairs side by side, and examples of each class."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests import images
from vqc.cli.main import main


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
