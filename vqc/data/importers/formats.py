"""Which format a source is in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Protocol

from vqc.data.importers import coco, cvat, labelme, voc, yolo
from vqc.data.importers.source import Source, Tally
from vqc.data.importers.tree import Tree, split_named
from vqc.errors import DataError


class Format(Protocol):
    """A module that reads one format."""

    def find(self, tree: Tree) -> list[str]:
        """The annotation files in this format."""

    def read(self, tree: Tree, files: list[str], tally: Tally) -> Source:
        """What they hold."""


FORMATS: Mapping[str, Format] = {"coco": coco, "cvat": cvat, "labelme": labelme, "voc": voc, "yolo": yolo}


def recognise(tree: Tree, forced: str | None, command: str) -> tuple[str, list[str]]:
    """The format's name and its annotation files.

    Args:
        forced: the format that the user names.
        command: that the user typed, for the next one.

    Raises:
        DataError: no format, or several.
    """
    asked = FORMATS if forced is None else {forced: FORMATS[forced]}
    found = {name: files for name, format_ in asked.items() if (files := format_.find(tree))}
    if len(found) > 1:
        such = " and ".join(f"{name} ({files[0]})" for name, files in found.items())
        raise DataError(
            f"{tree.root}: holds {such}; say which is meant", command=f"{command} --format {next(iter(found))}"
        )
    if found:
        return next(iter(found.items()))
    classes = {PurePosixPath(file).parent.name for file in tree.pictures} - {"", "images"}
    classes = {name for name in classes if not split_named(name)}
    if len(classes) > 1 and forced is None:
        such = ", ".join(sorted(classes)[:3])
        raise DataError(
            f"{tree.root}: a folder for each class ({such}) says what a picture shows and not where; a detector learns "
            "from boxes: expected the export of a tool in which they were drawn, such as CVAT, Label Studio or LabelMe"
        )
    raise DataError(f"{tree.root}: no annotations found; expected an export as {', '.join(asked)}")
