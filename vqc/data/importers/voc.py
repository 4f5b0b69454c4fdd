"""Pascal VOC: an XML file for each picture; also LabelMe's older XML, which has polygons.

Splits are the lists of ``ImageSets/Main``, or folders. Boxes are taken as written: tools disagree whether the first
pixel is 0 or 1, and whether the last one is inside, so an edge may be off by one pixel.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element

from vqc.data.annotations import Xyxy
from vqc.data.importers.source import (
    Source,
    SourceBox,
    SourceImage,
    Tally,
    box_around,
    category_name,
    gather,
    size_in_pixels,
)
from vqc.data.importers.tree import Tree, split_named, split_of
from vqc.data.importers.xml_documents import parsed, text_of

ROOT = re.compile(rb"<annotation[\s>]")
MOST_BYTES = 5 * 2**20  # of one picture's file
MOST_LIST_BYTES = 50 * 2**20
SIDES = ("xmin", "ymin", "xmax", "ymax")


def find(tree: Tree) -> list[str]:
    """XML files with an ``<annotation>``."""
    return [file for file in tree.documents(".xml") if ROOT.search(tree.ends(file))]


def read(tree: Tree, files: list[str], tally: Tally) -> Source:
    """All pictures that have a file."""
    listed = _listed(tree)
    source = Source(split=lambda file: split_of(file) or _split_in(listed, file))
    for file in files:
        root, unreadable = Element("annotation"), 0
        try:
            root = parsed(tree.text(file, MOST_BYTES))
        except ValueError as problem:
            tally.add("annotation files", problem, file)
            unreadable = 1
        shapes = [shape for shape in root.findall("object") if text_of(shape, "deleted") != "1"]
        boxes, refused = gather(shapes, _box, file, tally)
        for _ in filter(_is_difficult, shapes):
            tally.add("boxes", "marked 'difficult': kept as any other", file)
        try:
            picture = tree.picture_of(text_of(root, "filename"), file, split_of(file))
        except ValueError as problem:
            tally.leave_out(file, problem, boxes=len(boxes))
            continue
        size = size_in_pixels(*_size(root))
        refused += unreadable
        source.add(SourceImage(file=picture, split=source.split(file), boxes=boxes, size=size, refused=refused))
    return source


def _size(root: Element) -> tuple[str, str]:
    found = text_of(root, "size/width"), text_of(root, "size/height")
    return found if any(found) else (text_of(root, "imagesize/ncols"), text_of(root, "imagesize/nrows"))


def _is_difficult(shape: Element) -> bool:
    return text_of(shape, "difficult") == "1"


def _box(shape: Element) -> SourceBox:
    return SourceBox(category=category_name(shape.findtext("name")), xyxy=_xyxy(shape))


def _xyxy(shape: Element) -> Xyxy:
    box, polygon = shape.find("bndbox"), shape.find("polygon")
    if box is not None:
        left, top, right, bottom = (text_of(box, side) for side in SIDES)
        return box_around([(left, top), (right, bottom)])
    if polygon is None:
        raise ValueError("no box and no outline")
    corners = polygon.findall("pt")
    if corners:
        return box_around((text_of(corner, "x"), text_of(corner, "y")) for corner in corners)
    values = {element.tag: element.text for element in polygon}
    return box_around((values.get(f"x{n}"), values.get(f"y{n}")) for n in range(1, len(values) // 2 + 1))


def _listed(tree: Tree) -> dict[str, str]:
    """Name of a picture without its suffix, as ``ImageSets/Main`` has it -> split."""
    found: dict[str, str] = {}
    for file in tree.files:
        path = PurePosixPath(file)
        split = split_named(path.stem)
        if split and path.suffix == ".txt" and path.parts[-3:-1] == ("ImageSets", "Main"):
            with suppress(ValueError):
                found |= dict.fromkeys(tree.lines(file, MOST_LIST_BYTES), split)
    return found


def _split_in(listed: dict[str, str], file: str) -> str | None:
    """Of a file whose path without its suffix ends with a listed name."""
    parts = PurePosixPath(file).with_suffix("").parts
    return next(filter(None, (listed.get("/".join(parts[start:])) for start in range(len(parts)))), None)
