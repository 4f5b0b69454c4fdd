"""CVAT for images, version 1.1: one XML file for all pictures, or one for each subset."""

from __future__ import annotations

import math
import re
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
    number,
    size_in_pixels,
)
from vqc.data.importers.tree import Tree, split_named, split_of
from vqc.data.importers.xml_documents import MOST_XML_BYTES, parsed
from vqc.errors import DataError

ROOT = re.compile(rb"<annotations[\s>]")
SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "mask", "cuboid", "skeleton")


def find(tree: Tree) -> list[str]:
    """XML files with ``<annotations>``."""
    return [file for file in tree.documents(".xml") if ROOT.search(tree.ends(file))]


def read(tree: Tree, files: list[str], tally: Tally) -> Source:
    """All images in these files; those without a shape are good parts.

    Raises:
        DataError: one of them is no XML that can be read.
    """
    source = Source()
    for file in files:
        try:
            root = parsed(tree.text(file, MOST_XML_BYTES))
        except ValueError as problem:
            raise DataError(f"{tree.where(file)}: {problem}") from None
        for label in root.findall("meta//label"):
            try:
                source.name([category_name(label.findtext("name"))])
            except ValueError as problem:
                tally.add("categories", problem, file)
        for _ in root.iter("track"):
            tally.add("tracks", "of a video: expected images", file)
        for image in root.findall("image"):
            _add(source, image, tree, file, tally)
    return source


def _add(source: Source, image: Element, tree: Tree, file: str, tally: Tally) -> None:
    name = image.get("name", "")
    split = split_named(image.get("subset", "")) or split_of(file) or split_named(PurePosixPath(file).stem)
    shapes = [shape for shape in image if shape.tag in SHAPES]
    boxes, refused = gather(shapes, _box, name, tally)
    try:
        picture = tree.picture(name, file, split)
    except ValueError as problem:
        tally.leave_out(name, problem, boxes=len(boxes))
    else:
        split, size = split or split_of(picture), size_in_pixels(image.get("width"), image.get("height"))
        source.add(SourceImage(file=picture, split=split, boxes=boxes, size=size, refused=refused))


def _box(shape: Element) -> SourceBox:
    return SourceBox(category=category_name(shape.get("label")), xyxy=_xyxy(shape))


def _xyxy(shape: Element) -> Xyxy:
    """The box around a shape; a turned box has its angle in degrees, about its middle."""
    if shape.tag == "box":
        left, top, right, bottom = (number(shape.get(side)) for side in ("xtl", "ytl", "xbr", "ybr"))
        return _turned((left, top, right, bottom), number(shape.get("rotation", 0)))
    if shape.tag == "mask":
        left, top, width, height = (number(shape.get(side)) for side in ("left", "top", "width", "height"))
        return left, top, left + width, top + height
    if shape.tag == "ellipse":
        x, y, across, down = (number(shape.get(side)) for side in ("cx", "cy", "rx", "ry"))
        angle = math.radians(number(shape.get("rotation", 0)))
        wide = math.hypot(across * math.cos(angle), down * math.sin(angle))
        high = math.hypot(across * math.sin(angle), down * math.cos(angle))
        return x - wide, y - high, x + wide, y + high
    if shape.get("points") is None:
        raise ValueError("no box and no outline")
    corners = [corner.partition(",") for corner in shape.get("points", "").split(";")]
    return box_around((x, y) for x, _, y in corners)


def _turned(xyxy: Xyxy, degrees: float) -> Xyxy:
    """The box around a box that is turned."""
    left, top, right, bottom = xyxy
    x, y, across, down = (left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    wide, high = across * cosine + down * sine, across * sine + down * cosine
    return (x - wide, y - high, x + wide, y + high) if degrees else xyxy
