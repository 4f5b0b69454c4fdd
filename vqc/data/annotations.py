"""One COCO file -> checked entries. Knows JSON, not pictures.

Called by ``vqc.data.dataset``. Nothing is raised for bad content: every problem becomes a finding, the entry it
concerns is left out, and reading goes on, so that all mistakes are told at once. Keys that detection does
not need (``segmentation``, ``info``, ``licenses``) are not looked at.
"""

from __future__ import annotations

import gc
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeGuard

import numpy as np

from vqc.data.findings import Report, printable, shown
from vqc.files import read_at_most

OVERHANG_PX = 1.0  # a box may leave its image by so much: tools differ in whether pixels are counted from 0 or 1
ROUNDING_PX = 0.01  # x + width of decimal fractions; not worth a word
FINE = 2.0**-20  # of its position: boxes are kept as float32, in which a sliver far from the origin has no width left
LARGEST = 2**53  # whole numbers up to here are exact in every JSON library

# What is read of one file: within it the largest takes 500 MB and, with 400,000 boxes, some two or three seconds.
MOST_BYTES = 50 * 2**20
MOST_VALUES = 6_000_000
MOST_LETTERS = 10_000  # of a name
UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters and lone surrogates

Entry = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Category:
    """A kind of defect; ``id`` as in the file."""

    id: int
    name: str


@dataclass(frozen=True, kw_only=True)
class Box:
    """One annotation; ``xyxy`` in pixels, inside its image and not empty."""

    annotation_id: int
    category_id: int
    xyxy: tuple[float, float, float, float]
    area_px2: float
    crowd: bool


@dataclass(frozen=True, kw_only=True)
class ImageEntry:
    """One image as the file describes it.

    Attributes:
        file_name: with forward slashes; it never leaves its folder by name.
        group: the entry's "group", a string or a whole number: the physical part that is shown; None without one.
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
    try:
        data = read_at_most(path, MOST_BYTES)
    except OSError as error:
        report.error("missing file", name, f"cannot be read: {error.strerror or error}")
        return None
    problem = _too_much(data)
    if data is None or problem is not None:
        report.error("too large", name, f"{problem}; leave out 'segmentation', which detection does not need")
        return None
    with _uncollected():
        return _read(data, name, report)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Within it, Python looks for no cycles: millions of values without one would be looked through again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _read(data: bytes, name: str, report: Report) -> Annotations | None:
    document = _parse(data, name, report)
    if document is None:
        return None
    reader = _Reader(name, report)
    lists = [reader.entries(document, key) for key in ("categories", "images", "annotations")]
    if any(entries is None for entries in lists):
        return None
    raw_categories, raw_images, raw_boxes = (entries or [] for entries in lists)
    categories, images = reader.categories(raw_categories), reader.images(raw_images)
    # An id whose entry is broken was reported once; its annotations are not reported on top of that.
    reported = _Ids(images=_ids(raw_images), categories=_ids(raw_categories))
    boxes = reader.boxes(raw_boxes, images, categories, reported)
    return Annotations(categories=categories, images=images, boxes=boxes, sha256=hashlib.sha256(data).hexdigest())


def _too_much(data: bytes | None) -> str | None:
    """Why a file is not even parsed, or nothing. The marks between values are counted: three bytes can be an object."""
    if data is None:
        return f"expected a file of at most {MOST_BYTES / 2**20:.0f} MB"
    values = sum(data.count(mark) for mark in (b",", b"[", b"{"))
    if values > MOST_VALUES:
        return f"expected at most {MOST_VALUES:,} values, as of half a million boxes, got about {values:,}"
    return None


def _parse(data: bytes, name: str, report: Report) -> dict[str, Any] | None:
    try:
        document = json.loads(data.decode("utf-8-sig"))  # Windows editors put a mark in front
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


def _is_integer(value: object) -> TypeGuard[int]:
    return type(value) is int and -LARGEST <= value <= LARGEST  # JSON has no subclasses, and True is not 1


def _is_number(value: object) -> TypeGuard[float]:
    # NaN compares false, infinity is too large: neither passes.
    return (type(value) is float or type(value) is int) and -LARGEST <= value <= LARGEST


def _ids(entries: list[Entry]) -> frozenset[int]:
    return frozenset(entry["id"] for entry in entries if _is_integer(entry.get("id")))


@dataclass(frozen=True, kw_only=True)
class _Ids:
    """Every id that an entry of the file claims, be the entry good or bad."""

    images: frozenset[int]
    categories: frozenset[int]

    @cached_property
    def known_categories(self) -> str:
        """Those ids, as a message shows them."""
        return shown(sorted(self.categories))


@dataclass(frozen=True)
class _Reader:
    """The file being read: its name in findings, and where these go."""

    name: str
    report: Report

    def entries(self, document: Entry, key: str) -> list[Entry] | None:
        found = document.get(key)
        if not isinstance(found, list):
            got = "nothing" if key not in document else shown(found)
            self.report.error("not COCO", self.name, f"expected a list '{key}', got {got}")
            return None
        good: list[Entry] = [entry for entry in found if isinstance(entry, dict)]
        if len(good) < len(found):
            bad = next(entry for entry in found if not isinstance(entry, dict))
            self._bad(self.name, f"expected only objects in '{key}', got {shown(bad)}")
        return good

    def _numbered(self, entries: list[Entry]) -> Iterable[tuple[int, Entry]]:
        """The entries, counted from 1, until there are too many errors to go on."""
        return takewhile(lambda _: not self.report.full, enumerate(entries, start=1))

    def categories(self, entries: list[Entry]) -> tuple[Category, ...]:
        found: dict[int, Category] = {}
        names: set[str] = set()
        for number, entry in self._numbered(entries):
            where = f"{self.name}, category number {number}"
            id_, name = self._integer(entry, "id", where), self._text(entry, "name", where)
            if id_ is None or name is None:
                continue
            if UNSHOWN.search(name):  # a journal, a page or a terminal could not hold it, or would do what it says
                self._bad(where, f"name: expected one without control characters, got {shown(name)}")
                continue
            if id_ in found or name in names:
                self._duplicate(where, f"id {id_} or name '{printable(name)}' is already taken")
                continue
            names.add(name)
            found[id_] = Category(id=id_, name=name)
        if not entries:
            self.report.error("not COCO", self.name, "expected at least one category, got an empty list")
        return tuple(found[id_] for id_ in sorted(found))

    def images(self, entries: list[Entry]) -> tuple[ImageEntry, ...]:
        found: dict[int, ImageEntry] = {}
        names: set[str] = set()
        for number, entry in self._numbered(entries):
            image = self._image(entry, number)
            if image is None:
                continue
            if image.image_id in found:
                self._duplicate(image.where, f"image id {image.image_id} is already taken")
            elif image.file_name in names:
                self._duplicate(image.where, "an image before it has the same file_name")
            else:
                found[image.image_id] = image
                names.add(image.file_name)
        return tuple(found.values())

    def _image(self, entry: Entry, number: int) -> ImageEntry | None:
        where = f"{self.name}, image number {number}"
        id_, file_name = self._integer(entry, "id", where), self._text(entry, "file_name", where)
        if id_ is None or file_name is None:
            return None
        where = f"{self.name}, image {id_} ({printable(file_name)})"
        width, height = (self._integer(entry, key, where, low=1) for key in ("width", "height"))
        plain = file_name.replace("\\", "/")  # annotated on Windows
        if plain.startswith("/") or PureWindowsPath(plain).drive or ".." in PurePosixPath(plain).parts:
            self.report.error(
                "file outside its folder", where, f"expected a name inside images/, got {shown(file_name)}"
            )
            return None
        group = entry.get("group")
        if group is not None and not _is_integer(group):
            group = self._text(entry, "group", where)
            if group is None:
                return None
        if width is None or height is None:
            return None
        plain = PurePosixPath(plain).as_posix()  # one spelling a file, so that './a.png' is a duplicate of 'a.png'
        return ImageEntry(
            image_id=id_,
            file_name=plain,
            width=width,
            height=height,
            group=None if group is None else str(group),
            where=where,
        )

    def boxes(
        self, entries: list[Entry], images: tuple[ImageEntry, ...], categories: tuple[Category, ...], reported: _Ids
    ) -> dict[int, tuple[Box, ...]]:
        by_id = {image.image_id: image for image in images}
        usable = {category.id for category in categories}
        found: dict[int, list[Box]] = {}
        taken: set[int] = set()
        for number, entry in self._numbered(entries):
            where = f"{self.name}, annotation number {number}"
            id_, image_id = self._integer(entry, "id", where), self._integer(entry, "image_id", where)
            if id_ is None or image_id is None:
                continue
            if id_ in taken:
                self._duplicate(where, f"annotation id {id_} is already taken")
                continue
            taken.add(id_)
            image = by_id.get(image_id)
            if image is not None:
                box = self._box(entry, id_, image, reported)
                if box is not None and box.category_id in usable:
                    found.setdefault(image_id, []).append(box)
            elif image_id not in reported.images:
                where = f"{self.name}, annotation {id_}"
                self.report.error("unknown image", where, f"image_id {image_id} is not among the images")
        return {image_id: tuple(boxes) for image_id, boxes in found.items()}

    def _box(self, entry: Entry, id_: int, image: ImageEntry, reported: _Ids) -> Box | None:
        where = f"{image.where}, annotation {id_}"
        category_id = self._integer(entry, "category_id", where)
        if category_id is not None and category_id not in reported.categories:
            known = reported.known_categories
            self.report.error("unknown category", where, f"category_id: expected one of {known}, got {category_id}")
            return None
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            self._bad(where, f"iscrowd: expected 0 or 1, got {shown(crowd)}")
            return None
        xyxy = self._xyxy(entry.get("bbox"), image, where)
        area_px2 = entry.get("area")
        if area_px2 is not None and not (_is_number(area_px2) and area_px2 >= 0):
            self._bad(where, f"area: expected a number of at least 0, got {shown(area_px2)}")
            return None
        if xyxy is None or category_id is None:
            return None
        # Some tools leave the area out or write 0; then it is the box's own.
        area_px2 = float(area_px2 or (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1]))
        return Box(annotation_id=id_, category_id=category_id, xyxy=xyxy, area_px2=area_px2, crowd=bool(crowd))

    def _xyxy(self, bbox: object, image: ImageEntry, where: str) -> tuple[float, float, float, float] | None:
        if not (isinstance(bbox, list) and len(bbox) == 4 and all([_is_number(value) for value in bbox])):
            self._bad(where, f"bbox: expected four finite numbers [x, y, width, height], got {shown(bbox)}")
            return None
        x, y, width, height = map(float, bbox)
        if width <= 0 or height <= 0:
            self.report.error("empty box", where, f"expected a width and height above 0, got {width:g} x {height:g}")
            return None
        right, bottom = x + width, y + height
        within = x >= 0 and y >= 0 and right <= image.width and bottom <= image.height
        if within and width > FINE * max(right, 1.0) and height > FINE * max(bottom, 1.0):
            return x, y, right, bottom
        overhang_px = max(-x, -y, right - image.width, bottom - image.height)
        inside = (max(x, 0.0), max(y, 0.0), min(right, float(image.width)), min(bottom, float(image.height)))
        got = f"x {x:g} to {right:g}, y {y:g} to {bottom:g} in an image of {image.width} x {image.height} px"
        if overhang_px > OVERHANG_PX + ROUNDING_PX:
            self.report.error("box outside its image", where, f"expected a box inside its image, got {got}")
            return None
        if overhang_px > ROUNDING_PX:
            self.report.warning("box clipped", where, f"{overhang_px:.2g} px outside, clipped: {got}")
        left32, top32, right32, bottom32 = np.array(inside, dtype=np.float32)
        if not (left32 < right32 and top32 < bottom32):
            self.report.error("empty box", where, f"nothing of it is inside: {got}")
            return None
        return inside

    def _integer(self, entry: Entry, key: str, where: str, *, low: int | None = None) -> int | None:
        value = entry.get(key)
        if _is_integer(value) and (low is None or value >= low):
            return value
        expected = "a whole number" if low is None else f"a whole number of at least {low}"
        self._bad(where, f"{key}: expected {expected}, got {shown(value) if key in entry else 'nothing'}")
        return None

    def _text(self, entry: Entry, key: str, where: str) -> str | None:
        value = entry.get(key)
        if isinstance(value, str) and value.strip() and len(value) <= MOST_LETTERS:
            return value
        expected = f"a name of at most {MOST_LETTERS:,} letters"
        self._bad(where, f"{key}: expected {expected}, got {shown(value) if key in entry else 'nothing'}")
        return None

    def _bad(self, where: str, message: str) -> None:
        self.report.error("malformed entry", where, message)

    def _duplicate(self, where: str, message: str) -> None:
        self.report.error("duplicate", where, message)
