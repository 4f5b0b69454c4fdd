"""Which format a source is in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Protocol

from vqc.data.findings import printable
from vqc.data.importers import coco, cvat, labelme, voc, yolo
from vqc.data.importers.source import Source, Tally
from vqc.data.importers.tree import Tree, split_named
from vqc.errors import DataError

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
# Suffix and a mark of what tools write by default or beside what is read -> what it is.
OTHERS: Mapping[tuple[str, bytes], str] = {
    (".json", b'"from_name"'): "Label Studio's own JSON",
    (".json", b'"_via_'): "the project of VGG's annotator",
    (".json", b'"shape_attributes"'): "VGG's JSON",
    (".json", b'"dm_format_version"'): "datumaro's own JSON",
    (".json", b'"label_categories"'): "datumaro's own JSON",
    (".json", b'"coordinates"'): "CreateML's JSON",
    (".csv", b"xmin"): "a table of boxes",
    (".tfrecord", b""): "TensorFlow's records",
}


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
        such = " and ".join(f"{name} ({printable(files[0])})" for name, files in found.items())
        raise DataError(
            f"{tree.root}: holds {such}; say which is meant", command=f"{command} --format {next(iter(found))}"
        )
    if found:
        return next(iter(found.items()))
    raise DataError(f"{tree.root}: {_why_none(tree)}; expected an export as {', '.join(asked)}")


def _why_none(tree: Tree) -> str:
    """What the source seems to be instead."""
    for file in tree.documents(*ARCHIVES):
        return f"no annotations found, but an archive ({printable(file)}): unpack it"
    for (suffix, mark), what in OTHERS.items():
        for file in tree.documents(suffix):
            if mark in tree.ends(file):
                return f"{printable(file)} is {what}, which is not read"
    classes = {PurePosixPath(file).parent.name for file in tree.pictures} - {"", "images"}
    classes = {name for name in classes if not split_named(name)}
    if len(classes) > 1:
        such = ", ".join(printable(name) for name in sorted(classes)[:3])
        return (
            f"a folder for each class ({such}) says what a picture shows and not where, and a detector learns from "
            "boxes: draw them in a tool such as CVAT, Label Studio or LabelMe"
        )
    return "no annotations found"
