"""LabelMe's shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import exports, images
from vqc.data.importers import labelme
from vqc.data.importers.source import Source, Tally
from vqc.data.importers.tree import Tree


def read(root: Path) -> tuple[Source, Tally]:
    tree, tally = Tree(root), Tally()
    return labelme.read(tree, labelme.find(tree), tally), tally


def write(root: Path, *shapes: Any) -> Path:
    """One picture with these shapes."""
    images.save_picture(root)
    exports.labelme_file(root / "rgb-0.json", "rgb-0.png", list(shapes))
    return root


def shape(kind: str, *points: Any) -> dict[str, Any]:
    return {"label": "dent", "shape_type": kind, "points": list(points)}


@pytest.mark.parametrize(
    ("given", "xyxy"),
    [
        (shape("rectangle", [9, 8], [1, 2]), (1, 2, 9, 8)),
        (shape("polygon", [1, 2], [9, 2], [5, 8]), (1, 2, 9, 8)),
        (shape("circle", [10, 10], [13, 14]), (5, 5, 15, 15)),
        (shape("linestrip", [1, 2], [9, 8]), (1, 2, 9, 8)),
        (shape("mask", [1, 2], [9, 8]), (1, 2, 9, 8)),
    ],
)
def test_a_shape_gives_a_box(given: dict[str, Any], xyxy: tuple[float, ...], tmp_path: Path) -> None:
    source, tally = read(write(tmp_path, given))
    assert [(box.category, box.xyxy) for box in source.images[0].boxes] == [("dent", xyxy)]
    assert not tally.counts


REFUSED: dict[str, Any] = {
    "not a shape": 7,
    "a shape without points": {"label": "dent", "points": [1, 2]},
    "a shape of fewer than two points": shape("point", [1, 2]),
    "not a finite number": shape("rectangle", [1, 2], [None, 4]),
    "not a name of a category": {"label": "\x1b[2J", "points": [[1, 2], [3, 4]]},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_shape_that_cannot_be_read_is_counted(reason: str, tmp_path: Path) -> None:
    source, tally = read(write(tmp_path, shape("rectangle", [1, 2], [9, 8]), REFUSED[reason]))
    assert (len(source.images[0].boxes), source.images[0].refused) == (1, 1)
    assert tally.counts == {("boxes", reason): 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"shapes": [], "imageHeight": 48', "not JSON"),
        ('{"shapes": 7, "imagePath": "rgb-0.png"}', "no list of shapes"),
    ],
)
def test_a_broken_file_does_not_make_a_good_part(content: str, reason: str, tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "rgb-0.json").write_text(content, encoding="utf-8")
    source, tally = read(root)
    assert [(image.file, image.refused) for image in source.images] == [("rgb-0.png", 1)]
    assert tally.counts == {("annotation files", reason): 1}
