"""YOLO: a text file for each picture, with a line for each box or polygon in shares of the image.

It lies in ``labels/`` where the picture is in ``images/`` (Ultralytics, Roboflow, Label Studio), or beside the picture
(darknet, CVAT). The classes are named in ``data.yaml``, or one a line in ``classes.txt`` or its like. Splits are the
folders that ``data.yaml`` names, lists of pictures such as ``train.txt``, or folders of that name.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from vqc.data.importers.source import (
    Source,
    SourceBox,
    SourceImage,
    Tally,
    box_around,
    category_name,
    gather,
    number,
)
from vqc.data.importers.tree import Tree, split_named, split_of
from vqc.errors import DataError

NAME_LISTS = ("classes.txt", "obj.names", "_darknet.labels")
YAML_NAMES = re.compile(rb"^(?:\xef\xbb\xbf)?names\s*:", re.MULTILINE)  # perhaps behind a byte order mark
MOST_YAML_BYTES = 10**5  # a thousand classes; its parser is slow
MOST_LABEL_BYTES = 5 * 10**6  # fifty thousand boxes of one picture
MOST_LIST_BYTES = 50 * 10**6


def find(tree: Tree) -> list[str]:
    """The file that names the classes; where there is none, the label files."""
    described = [file for file in tree.documents(".yaml", ".yml") if YAML_NAMES.search(tree.ends(file))]
    listed = [file for file in tree.documents(".txt", ".names", ".labels") if PurePosixPath(file).name in NAME_LISTS]
    named = sorted(described, key=_depth) or sorted(listed, key=_depth)
    if named:
        return named[:1]
    beside = {PurePosixPath(picture).with_suffix("") for picture in tree.pictures}
    return [
        file for file in tree.documents(".txt") if _in_labels(file) or PurePosixPath(file).with_suffix("") in beside
    ]


def _in_labels(file: str) -> bool:
    return "labels" in map(str.lower, PurePosixPath(file).parts)


def _depth(file: str) -> int:
    return file.count("/")


def read(tree: Tree, files: list[str], tally: Tally) -> Source:
    """All pictures that have a label file.

    Raises:
        DataError: the classes have no names, or their file cannot be read.
    """
    description = _description(tree, files[0])
    names = _names(description, tally)
    source = Source(split=_Splits(tree, description))
    source.name(names.values())
    box = partial(_box, names=names, poses="kpt_shape" in description)
    labels, used = _Labels(tree), set[str]()
    for picture in tree.pictures:
        label = labels.of(picture)
        if label is None:
            continue
        used.add(label)
        try:
            boxes, refused = gather(tree.lines(label, MOST_LABEL_BYTES), box, label, tally)
        except ValueError as problem:
            tally.add("label files", problem, label)
            boxes, refused = [], 1
        source.add(SourceImage(file=picture, split=source.split(picture), boxes=boxes, shares=True, refused=refused))
    for label in _unused(tree, used):
        tally.add("label files", "no such picture", label)
    return source


def _description(tree: Tree, file: str) -> Mapping[str, Any]:
    """What the file says, its values as texts; a list of names as ``names``."""
    import yaml

    where = tree.where(file)
    try:
        if PurePosixPath(file).name in NAME_LISTS:
            return {"names": tree.lines(file, MOST_YAML_BYTES)}
        if not file.endswith((".yaml", ".yml")):
            raise DataError(
                f"{tree.root}: label files without names of their classes; expected data.yaml or classes.txt"
            )
        # BaseLoader makes texts of all values, so a class may be called 'no', and expands no reference to others.
        found = yaml.load(tree.text(file, MOST_YAML_BYTES), Loader=yaml.BaseLoader)
    except (ValueError, RecursionError, yaml.YAMLError) as problem:
        raise DataError(f"{where}: not YAML that can be read: {str(problem).splitlines()[0]}") from None
    if not isinstance(found, dict) or not isinstance(found.get("names"), list | dict):
        raise DataError(f"{where}: expected 'names', a list of the classes or their numbers with names")
    return found


def _names(description: Mapping[str, Any], tally: Tally) -> dict[int, str]:
    """Number of a class -> its name."""
    given = description["names"]
    found: dict[int, str] = {}
    for key, name in given.items() if isinstance(given, dict) else enumerate(given):
        try:
            found[int(number(key))] = category_name(name)
        except ValueError as problem:
            tally.add("categories", problem, str(key))
    return dict(sorted(found.items()))


class _Labels:
    """The label files of pictures; capitals do not matter."""

    def __init__(self, tree: Tree) -> None:
        self._files = {file.lower(): file for file in tree.files}
        self._pictures = Counter(PurePosixPath(picture).stem for picture in tree.pictures)
        self._by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for file in tree.files:
            if file.lower().endswith(".txt"):
                self._by_stem[PurePosixPath(file).stem].append(file)

    def of(self, picture: str) -> str | None:
        """In ``labels/`` instead of ``images/``, beside the picture, or the only one of its name."""
        path = PurePosixPath(picture).with_suffix(".txt")
        parts = list(PurePosixPath(path.as_posix().lower()).parts)
        if "images" in parts:
            parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
        for usual in (PurePosixPath(*parts).as_posix(), path.as_posix().lower()):
            if usual in self._files:
                return self._files[usual]
        others = self._by_stem[path.stem]
        return others[0] if len(others) == self._pictures[path.stem] == 1 else None


def _unused(tree: Tree, used: set[str]) -> Iterator[str]:
    """Label files that belong to no picture: texts in a folder of label files that are no lists."""
    folders = {PurePosixPath(file).parent for file in used}
    for file in tree.files:
        path = PurePosixPath(file)
        if path.suffix.lower() == ".txt" and file not in used and (path.parent in folders or _in_labels(file)):
            known = path.name in NAME_LISTS or split_named(path.stem) or path.stem.lower().startswith("readme")
            if not known:
                yield file


class _Splits:
    """The split of a picture: by lists of pictures, by the folders that the description names, or by its own folder."""

    def __init__(self, tree: Tree, description: Mapping[str, Any]) -> None:
        self._listed: dict[str, str] = {}
        for file in tree.files:
            split = split_named(PurePosixPath(file).stem)
            if split and file.endswith(".txt"):
                for line in _lines(tree, file):
                    with suppress(ValueError):  # as an absolute path: such lists name folders of another machine
                        self._listed.setdefault(tree.picture(f"/{line}", file), split)
        self._folders: list[tuple[str, str]] = []
        for key, value in description.items():
            split = split_named(str(key))
            for folder in value if isinstance(value, list) else [value]:
                named = PurePosixPath(str(folder).replace("\\", "/"))
                parts = [part for part in named.parts if part not in ("/", "..")]
                if split and parts:
                    self._folders.append((f"/{'/'.join(parts)}/", split))

    def __call__(self, picture: str) -> str | None:
        folder = f"/{PurePosixPath(picture).parent.as_posix()}/"
        named = (split for name, split in self._folders if name in folder)
        return self._listed.get(picture) or next(named, None) or split_of(picture)


def _lines(tree: Tree, file: str) -> list[str]:
    try:
        return tree.lines(file, MOST_LIST_BYTES)
    except ValueError:
        return []


def _box(line: str, *, names: Mapping[int, str], poses: bool) -> SourceBox:
    """A class and then centre, width and height, perhaps a score, or the corners of a polygon.

    Args:
        poses: whether key points follow a box.
    """
    first, *values = map(number, line.split())
    if first not in names:
        raise ValueError("of a class that has no name")
    if len(values) in (4, 5) or (poses and len(values) > 5):
        x, y, width, height, *_ = values
        xyxy = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    elif len(values) > 5 and len(values) % 2 == 0:
        xyxy = box_around(zip(values[::2], values[1::2], strict=True))
    else:
        raise ValueError("neither a box nor a polygon")
    return SourceBox(category=names[int(first)], xyxy=xyxy)
