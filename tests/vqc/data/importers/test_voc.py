"""Pascal VOC's files and lists, and LabelMe's older XML."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import exports, images
from vqc.data.importers import voc
from vqc.data.importers.source import Source, Tally
from vqc.data.importers.tree import Tree

BOX = (8, 6, 28, 16)


def read(root: Path) -> tuple[Source, Tally]:
    tree, tally = Tree(root), Tally()
    return voc.read(tree, voc.find(tree), tally), tally


def write(root: Path, objects: str, *, name: str = "rgb-0.png") -> Path:
    """One picture with these objects."""
    images.save_picture(root)
    exports.voc_file(root / "rgb-0.xml", name, objects)
    return root


OUTLINES = {
    "numbered corners": "<x1>8</x1><y1>6</y1><x2>28</x2><y2>6</y2><x3>28</x3><y3>16</y3>",
    "LabelMe's corners": "<pt><x>8</x><y>6</y></pt><pt><x>28</x><y>6</y></pt><pt><x>28</x><y>16</y></pt>",
}


@pytest.mark.parametrize("case", OUTLINES)
def test_a_polygon_gives_a_box(case: str, tmp_path: Path) -> None:
    shape = f"<object><name>dent</name><polygon>{OUTLINES[case]}</polygon></object>"
    source, tally = read(write(tmp_path, shape))
    assert [(box.category, box.xyxy) for box in source.images[0].boxes] == [("dent", BOX)]
    assert not tally.counts


REFUSED = {
    "no box and no outline": "<object><name>dent</name></object>",
    "not a name of a category": "<object><bndbox/></object>",
    "not a finite number": "<object><name>dent</name><bndbox><xmin>1</xmin></bndbox></object>",
}


@pytest.mark.parametrize("reason", REFUSED)
def test_an_object_that_cannot_be_read_is_counted(reason: str, tmp_path: Path) -> None:
    source, tally = read(write(tmp_path, exports.voc_object("dent", BOX) + REFUSED[reason]))
    assert (len(source.images[0].boxes), source.images[0].refused) == (1, 1)
    assert tally.counts == {("boxes", reason): 1}


def test_a_difficult_object_is_kept_and_told(tmp_path: Path) -> None:
    source, tally = read(write(tmp_path, exports.voc_object("dent", BOX, "<difficult>1</difficult>")))
    assert len(source.images[0].boxes) == 1
    assert tally.counts == {("boxes", "marked 'difficult': kept as any other"): 1}


def test_a_deleted_object_is_none(tmp_path: Path) -> None:
    source, tally = read(write(tmp_path, exports.voc_object("dent", BOX, "<deleted>1</deleted>")))
    assert (source.boxes, source.images[0].refused) == (0, 0)
    assert not tally.counts


@pytest.mark.parametrize("name", ["renamed.png", "", "rgb-0"])
def test_a_picture_may_be_named_as_its_file(name: str, tmp_path: Path) -> None:
    source, _ = read(write(tmp_path, "", name=name))
    assert [(image.file, image.refused) for image in source.images] == [("rgb-0.png", 0)]


def test_a_size_of_zero_is_none(tmp_path: Path) -> None:
    write(tmp_path, "")
    file = tmp_path / "rgb-0.xml"
    file.write_text(file.read_text(encoding="utf-8").replace("64", "0").replace("48", "0"), encoding="utf-8")
    source, _ = read(tmp_path)
    assert source.images[0].size is None


def test_a_file_that_is_no_xml_does_not_make_a_good_part(tmp_path: Path) -> None:
    root = write(tmp_path, "<object>")
    source, tally = read(root)
    assert source.images[0].refused == 1
    assert tally.counts == {("annotation files", "not XML"): 1}


def test_a_file_without_a_picture_takes_its_boxes_along(tmp_path: Path) -> None:
    root = write(tmp_path, exports.voc_object("dent", BOX))
    (root / "rgb-0.png").unlink()
    _, tally = read(root)
    assert tally.counts == {("images", "no such picture"): 1, ("boxes", "of an image that is left out"): 1}


def test_a_picture_in_a_list_alone_has_its_split(tmp_path: Path) -> None:
    root = exports.voc(tmp_path)
    (root / "Annotations/val_rgb-3.xml").unlink()
    source, _ = read(root)
    assert source.split("JPEGImages/val_rgb-3.png") == "val"
