"""CVAT's shapes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import images
from vqc.data.importers import cvat
from vqc.data.importers.source import Source, Tally
from vqc.data.importers.tree import Tree
from vqc.errors import DataError


def read(root: Path) -> tuple[Source, Tally]:
    tree, tally = Tree(root), Tally()
    return cvat.read(tree, cvat.find(tree), tally), tally


def write(root: Path, shapes: str) -> Path:
    """One picture with these shapes."""
    images.save_picture(root)
    image = f'<image id="0" name="rgb-0.png" width="64" height="48">{shapes}</image>'
    (root / "annotations.xml").write_text(f"<annotations>{image}</annotations>", encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("shape", "xyxy"),
    [
        ('<box label="dent" xtl="1" ytl="2" xbr="9.5" ybr="8"/>', (1, 2, 9.5, 8)),
        ('<box label="dent" xtl="10" ytl="20" xbr="30" ybr="24" rotation="90"/>', (18, 12, 22, 32)),
        ('<polygon label="dent" points="1.00,2.00;9.00,2.00;5.00,8.00"/>', (1, 2, 9, 8)),
        ('<polyline label="dent" points="1,2;9,8"/>', (1, 2, 9, 8)),
        ('<ellipse label="dent" cx="10" cy="10" rx="4" ry="2"/>', (6, 8, 14, 12)),
        ('<ellipse label="dent" cx="10" cy="10" rx="4" ry="2" rotation="90"/>', (8, 6, 12, 14)),
        ('<mask label="dent" rle="3, 2, 1" left="1" top="2" width="8" height="6"/>', (1, 2, 9, 8)),
    ],
)
def test_a_shape_gives_a_box(shape: str, xyxy: tuple[float, ...], tmp_path: Path) -> None:
    source, tally = read(write(tmp_path, shape))
    (box,) = source.images[0].boxes
    assert (box.category, box.xyxy) == ("dent", pytest.approx(xyxy))
    assert not tally.counts


REFUSED = {
    "not a name of a category": '<box xtl="1" ytl="2" xbr="9" ybr="8"/>',
    "not a finite number": '<box label="dent" xtl="1"/>',
    "a shape of fewer than two points": '<points label="dent" points="1,2"/>',
    "no box and no outline": '<skeleton label="dent"/>',
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_shape_that_cannot_be_read_is_counted(reason: str, tmp_path: Path) -> None:
    source, tally = read(write(tmp_path, REFUSED[reason]))
    assert source.images[0].refused == 1
    assert tally.counts == {("boxes", reason): 1}


def test_a_file_that_is_no_xml_ends_the_import(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations\.xml: not XML"):
        read(write(tmp_path, "<box>"))


def test_videos_are_told(tmp_path: Path) -> None:
    root = write(tmp_path, "")
    file = root / "annotations.xml"
    text = file.read_text(encoding="utf-8").replace("</annotations>", '<track id="0" label="dent"/></annotations>')
    file.write_text(text, encoding="utf-8")
    _, tally = read(root)
    assert tally.counts == {("tracks", "of a video: expected images"): 1}
