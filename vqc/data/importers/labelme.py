"""LabelMe JSON: a file for each picture, with its shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vqc.data.annotations import read_document
from vqc.data.findings import Report
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
from vqc.data.importers.tree import Tree, split_of


def find(tree: Tree) -> list[str]:
    """JSON files with shapes of a picture."""
    return [file for file in tree.documents(".json") if _looks(tree.ends(file))]


def _looks(ends: bytes) -> bool:
    return b'"shapes"' in ends and (b'"imagePath"' in ends or b'"imageHeight"' in ends)


def read(tree: Tree, files: list[str], tally: Tally) -> Source:
    """All pictures that have a file."""
    source = Source()
    for file in files:
        report = Report()
        document, _ = read_document(tree.root / file, name=file, report=report) or ({}, "")
        shapes = document.get("shapes")
        usable = isinstance(shapes, list)
        if not usable:
            kind = report.errors[0].kind if report.errors else "no list of shapes"
            tally.add("annotation files", kind, file)
        boxes, refused = gather(shapes if isinstance(shapes, list) else [], _box, file, tally)
        try:
            picture = tree.picture_of(str(document.get("imagePath")), file, split_of(file))
        except ValueError as problem:
            tally.leave_out(file, problem, boxes=len(boxes))
            continue
        split = split_of(file) or split_of(picture)
        size = size_in_pixels(document.get("imageWidth"), document.get("imageHeight"))
        refused += not usable
        source.add(SourceImage(file=picture, split=split, boxes=boxes, size=size, refused=refused))
    return source


def _box(shape: object) -> SourceBox:
    """The box around a shape's points; of a circle they are its centre and one point on it."""
    if not isinstance(shape, Mapping):
        raise ValueError("not a shape")
    points: Any = shape.get("points")
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise ValueError("a shape without points")
    if shape.get("shape_type") == "circle" and len(points) == 2:
        (x, y), edge = map(number, points[0]), map(number, points[1])
        radius = math.dist((x, y), tuple(edge))
        points = [(x - radius, y - radius), (x + radius, y + radius)]
    return SourceBox(category=category_name(shape.get("label")), xyxy=box_around(points))
