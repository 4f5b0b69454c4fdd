"""One COCO file -> checked entries. Knows JSON, not pictures.

Nothing is raised for bad content: the first problem of each entry becomes a finding, the entry is left out, and reading
goes on, so that one run reports all entries that are wrong. Keys that detection does not need (``segmentation``,
``info``, ``licenses``) are not read.
"""

from __future__ import annotations

import gc
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeGuard

import numpy as np

from vqc.data.findings import Report, printable, shown
from vqc.files import read_at_most

OVERHANG_PX = 1.0  # a box may leave its image by this much: some tools count pixels from 0, others from 1
ROUNDING_PX = 0.01  # x + width of decimal fractions; too little for a warning
FINE = 2.0**-20  # of its position: boxes are kept as float32, in which a thin box far from the origin has no width left
LARGEST = 2**53  # integers up to here are exact in every JSON library

# Limits of one file: the largest that is read takes 500 MB of memory and, with 400,000 boxes, two or three seconds.
MOST_BYTES = 50 * 2**20
MOST_VALUES = 6_000_000
MOST_LETTERS = 10_000  # of a name
PLAIN_NAME = re.compile(r"[^/\\:.][^/\\:]*")  # of a file: without folder, drive or leading dot
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters and lone surrogates

Entry = Mapping[str, Any]
Xyxy = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Category:
    """A kind of defect; ``id`` as in the file."""

    id: int
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """One annotation; ``xyxy`` in pixels, inside its image and not empty."""

    category_id: int
    xyxy: Xyxy
    area_px2: float
    crowd: bool


@dataclass(frozen=True, kw_only=True)
class ImageEntry:
    """One image as the file describes it.

    Attributes:
        file_name: with forward slashes; it never leaves its folder by name.
        group: the physical part that is shown: the entry's "group", a string or a whole number; None without one.
        where: how findings name this image.
    """

    image_id: int
    file_name: str
    width: int
    height: int
    group: str | None
    where: str


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """What could be read of one file.

    Attributes:
        categories: sorted by id.
        images: in the order of the file.
        boxes: image id -> its boxes in the order of the file; images without boxes are not in it.
        sha256: of the file's bytes, in hex.
    """

    categories: tuple[Category, ...]
    images: tuple[ImageEntry, ...]
    boxes: Mapping[int, tuple[Box, ...]]
    sha256: str


def read_annotations(path: Path, *, name: str, report: Report) -> Annotations | None:
    """Read one file; ``name`` is how findings call it. ``None`` where nothing in it can be used."""
    was_on = gc.isenabled()
    gc.disable()  # or Python would search millions of JSON values for reference cycles that are not there
    try:
        found = read_document(path, name=name, report=report)
        return None if found is None else _read(*found, name, report)
    finally:
        if was_on:
            gc.enable()


def read_document(path: Path, *, name: str, report: Report) -> tuple[dict[str, Any], str] | None:
    """A file's JSON object, within the limits, and the sha256 of its bytes in hex; ``None`` where it is none."""
    try:
        data = read_at_most(path, MOST_BYTES)
    except OSError as error:
        report.error("missing file", name, f"cannot be read: {error.strerror or error}")
        return None
    most = f"a file of at most {MOST_BYTES / 2**20:.0f} MB"
    if data is not None:
        values = sum(data.count(mark) for mark in (b",", b"[", b"{"))  # not the bytes: three of them can be an object
        most = f"at most {MOST_VALUES:,} values, as of half a million boxes, got about {values:,}"
    if data is None or values > MOST_VALUES:
        report.error("too large", name, f"expected {most}; leave out 'segmentation', which detection does not need")
        return None
    document = _parse(data, name, report)
    return None if document is None else (document, hashlib.sha256(data).hexdigest())


def _parse(data: bytes, name: str, report: Report) -> dict[str, Any] | None:
    try:
        document = json.loads(data.decode("utf-8-sig"))  # Windows editors put a byte order mark in front
    except json.JSONDecodeError as error:
        report.error("not JSON", name, f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}")
    except UnicodeDecodeError as error:
        report.error("not JSON", name, f"not UTF-8: byte {error.start}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets a thousand deep
        report.error("not JSON", name, f"not JSON that can be read: {error}")
    else:
        if isinstance(document, dict):
            return document
        report.error("not COCO", name, f"expected a JSON object, got {shown(document)}")
    return None


class _Invalid(Exception):
    """What is wrong with one entry: a finding's message and kind."""

    def __init__(self, message: str, *, kind: str = "malformed entry") -> None:
        self.kind = kind
        super().__init__(message)


def _read(document: Entry, sha256: str, name: str, report: Report) -> Annotations | None:
    lists = [_objects(document, key, name, report) for key in ("categories", "images", "annotations")]
    if any(entries is None for entries in lists):
        return None
    raw_categories, raw_images, raw_boxes = (entries or [] for entries in lists)
    categories, images = _categories(raw_categories, name, report), _images(raw_images, name, report)
    # An entry that is left out was reported once; the annotations that refer to its id are not reported on top.
    named = (_ids(raw_images), _ids(raw_categories))
    boxes = _boxes(raw_boxes, name, report, images=images, categories=categories, named=named)
    return Annotations(categories=categories, images=images, boxes=boxes, sha256=sha256)


def _objects(document: Entry, key: str, name: str, report: Report) -> list[Entry] | None:
    found = document.get(key)
    if not isinstance(found, list):
        got = "nothing" if key not in document else shown(found)
        report.error("not COCO", name, f"expected a list '{key}', got {got}")
        return None
    objects: list[Entry] = [entry for entry in found if isinstance(entry, dict)]
    if len(objects) < len(found):
        other = next(entry for entry in found if not isinstance(entry, dict))
        report.error("malformed entry", name, f"expected only objects in '{key}', got {shown(other)}")
    return objects


def _until_full(entries: list[Entry], report: Report) -> Iterable[tuple[int, Entry]]:
    """The entries, counted from 1, until no further error would be kept."""
    return takewhile(lambda _: not report.full, enumerate(entries, start=1))


def _categories(entries: list[Entry], name: str, report: Report) -> tuple[Category, ...]:
    found: list[Category] = []
    ids: set[int] = set()
    names: set[str] = set()
    for number, entry in _until_full(entries, report):
        try:
            category = Category(id=_integer(entry, "id"), name=_text(entry, "name"))
            if UNPRINTABLE.search(category.name):  # a terminal would obey it, a page or a journal could not hold it
                raise _Invalid(f"name: expected one without control characters, got {shown(category.name)}")
            _claim(ids, category.id, "category id")
            _claim(names, category.name, "name")
        except _Invalid as problem:
            report.error(problem.kind, f"{name}, category number {number}", str(problem))
        else:
            found.append(category)
    if not entries:
        report.error("not COCO", name, "expected at least one category, got an empty list")
    return tuple(sorted(found, key=lambda category: category.id))


def _images(entries: list[Entry], name: str, report: Report) -> tuple[ImageEntry, ...]:
    found: list[ImageEntry] = []
    ids: set[int] = set()
    names: set[str] = set()
    for number, entry in _until_full(entries, report):
        id_, file_name, where = entry.get("id"), entry.get("file_name"), f"{name}, image number {number}"
        if _is_integer(id_) and isinstance(file_name, str):
            where = f"{name}, image {id_} ({printable(file_name)})"
        try:
            image = _image(entry, where)
            _claim(ids, image.image_id, "image id")
            _claim(names, image.file_name, "file_name")
        except _Invalid as problem:
            report.error(problem.kind, where, str(problem))
        else:
            found.append(image)
    return tuple(found)


def _image(entry: Entry, where: str) -> ImageEntry:
    group = entry.get("group")
    if group is not None:
        group = str(group) if _is_integer(group) else _text(entry, "group")
    return ImageEntry(
        image_id=_integer(entry, "id"),
        file_name=_inside(_text(entry, "file_name")),
        width=_integer(entry, "width", low=1),
        height=_integer(entry, "height", low=1),
        group=group,
        where=where,
    )


def _inside(file_name: str) -> str:
    """The name in its one spelling: './a.png' is a duplicate of 'a.png'."""
    if PLAIN_NAME.fullmatch(file_name):
        return file_name
    plain = file_name.replace("\\", "/")  # annotated on Windows
    if plain.startswith("/") or PureWindowsPath(plain).drive or ".." in PurePosixPath(plain).parts:
        raise _Invalid(f"expected a name inside images/, got {shown(file_name)}", kind="file outside its folder")
    return PurePosixPath(plain).as_posix()


def _boxes(
    entries: list[Entry],
    name: str,
    report: Report,
    *,
    images: Sequence[ImageEntry],
    categories: Sequence[Category],
    named: tuple[frozenset[int], frozenset[int]],
) -> dict[int, tuple[Box, ...]]:
    """Image id -> boxes; ``named``: every id that an entry of the images and of the categories has, good or bad."""
    by_id = {image.image_id: image for image in images}
    usable = {category.id for category in categories}
    images_named, categories_named = named
    found: dict[int, list[Box]] = {}
    ids: set[int] = set()
    for number, entry in _until_full(entries, report):
        image = None
        try:
            id_, image_id = _integer(entry, "id"), _integer(entry, "image_id")
            _claim(ids, id_, "annotation id")
            image = by_id.get(image_id)
            if image is not None:
                box = _box(entry, image, categories_named, report)
                if box.category_id in usable:
                    found.setdefault(image_id, []).append(box)
            elif image_id not in images_named:
                raise _Invalid(f"image_id {image_id} is not among the images", kind="unknown image")
        except _Invalid as problem:
            where = f"{name}, annotation number {number}" if image is None else _where(entry, image)
            report.error(problem.kind, where, str(problem))
    return {image_id: tuple(boxes) for image_id, boxes in found.items()}


def _where(entry: Entry, image: ImageEntry) -> str:
    return f"{image.where}, annotation {entry['id']}"


def _box(entry: Entry, image: ImageEntry, categories_named: frozenset[int], report: Report) -> Box:
    category_id = _integer(entry, "category_id")
    if category_id not in categories_named:
        known = _listed(categories_named)
        raise _Invalid(f"category_id: expected one of {known}, got {category_id}", kind="unknown category")
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise _Invalid(f"iscrowd: expected 0 or 1, got {shown(crowd)}")
    area_px2 = entry.get("area")
    if area_px2 is not None and not (_is_number(area_px2) and area_px2 >= 0):
        raise _Invalid(f"area: expected a number of at least 0, got {shown(area_px2)}")
    xyxy = _xyxy(entry, image, report)
    # Some tools leave the area out or write 0; then it is the box's own.
    area_px2 = float(area_px2 or (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1]))
    return Box(category_id=category_id, xyxy=xyxy, area_px2=area_px2, crowd=bool(crowd))


def _xyxy(entry: Entry, image: ImageEntry, report: Report) -> Xyxy:
    bbox = entry.get("bbox")
    if not (isinstance(bbox, list) and len(bbox) == 4 and all([_is_number(value) for value in bbox])):
        raise _Invalid(f"bbox: expected four finite numbers [x, y, width, height], got {shown(bbox)}")
    x, y, width, height = map(float, bbox)
    if width <= 0 or height <= 0:
        raise _Invalid(f"expected a width and height above 0, got {width:g} x {height:g}", kind="empty box")
    right, bottom = x + width, y + height
    within = x >= 0 and y >= 0 and right <= image.width and bottom <= image.height
    if within and width > FINE * max(right, 1.0) and height > FINE * max(bottom, 1.0):
        return x, y, right, bottom
    overhang_px = max(-x, -y, right - image.width, bottom - image.height)
    inside = (max(x, 0.0), max(y, 0.0), min(right, float(image.width)), min(bottom, float(image.height)))
    got = f"x {x:g} to {right:g}, y {y:g} to {bottom:g} in an image of {image.width} x {image.height} px"
    if overhang_px > OVERHANG_PX + ROUNDING_PX:
        raise _Invalid(f"expected a box inside its image, got {got}", kind="box outside its image")
    if overhang_px > ROUNDING_PX:
        report.warning("box clipped", _where(entry, image), f"{overhang_px:.2g} px outside, clipped: {got}")
    left32, top32, right32, bottom32 = np.array(inside, dtype=np.float32)
    if not (left32 < right32 and top32 < bottom32):
        raise _Invalid(f"nothing of it is inside: {got}", kind="empty box")
    return inside


def _claim(taken: set[Any], value: object, what: str) -> None:
    if value in taken:
        raise _Invalid(f"{what} {printable(str(value))} is used more than once", kind="duplicate")
    taken.add(value)


def _is_integer(value: object) -> TypeGuard[int]:
    return type(value) is int and -LARGEST <= value <= LARGEST  # JSON has no subclasses, and True is not 1


def _is_number(value: object) -> TypeGuard[float]:
    # NaN compares false, infinity is too large: neither passes.
    return (type(value) is float or type(value) is int) and -LARGEST <= value <= LARGEST


def _ids(entries: list[Entry]) -> frozenset[int]:
    return frozenset(entry["id"] for entry in entries if _is_integer(entry.get("id")))


@lru_cache(maxsize=1)
def _listed(ids: frozenset[int]) -> str:
    """Those ids, as a message shows them; sorted once, however many messages there are."""
    return shown(sorted(ids))


def _integer(entry: Entry, key: str, *, low: int = -LARGEST) -> int:
    value = entry.get(key)
    if _is_integer(value) and value >= low:
        return value
    raise _unexpected(entry, key, "a whole number" if low == -LARGEST else f"a whole number of at least {low}")


def _text(entry: Entry, key: str) -> str:
    value = entry.get(key)
    if isinstance(value, str) and value.strip() and len(value) <= MOST_LETTERS:
        return value
    raise _unexpected(entry, key, f"a name of at most {MOST_LETTERS:,} letters")


def _unexpected(entry: Entry, key: str, expected: str) -> _Invalid:
    return _Invalid(f"{key}: expected {expected}, got {shown(entry[key]) if key in entry else 'nothing'}")
