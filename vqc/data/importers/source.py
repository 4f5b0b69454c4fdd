"""What a reader of a format gives: images and their boxes, and a tally of what it could not use."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from vqc.data.annotations import LARGEST, MOST_LETTERS, UNPRINTABLE, Xyxy
from vqc.data.findings import printable
from vqc.data.importers.tree import split_of
from vqc.errors import DataError

T = TypeVar("T")

MOST_BOXES = 400_000  # of a data set: what one annotation file of this project's layout can hold


@dataclass(frozen=True, kw_only=True)
class SourceBox:
    """One annotation; ``area_px2`` of the shape where the source tells it."""

    category: str
    xyxy: Xyxy
    area_px2: float | None = None
    crowd: bool = False


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """One image that the annotations name, with or without boxes.

    Attributes:
        file: of the picture, as ``Tree.files`` names it.
        split: train, val or test; None where the source does not say.
        size: width and height in pixels that the annotations see; None: those of the upright picture.
        shares: whether the boxes are in shares 0..1 of width and height instead of pixels.
        group: the physical part that is shown.
        refused: annotations of it that could not be read; an image with only such is not a good part.
    """

    file: str
    split: str | None
    boxes: Sequence[SourceBox] = ()
    size: tuple[int, int] | None = None
    shares: bool = False
    group: str | None = None
    refused: int = 0


@dataclass
class Tally:
    """What was left out or changed: (what, reason) -> how often, and the first case."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, what: str, reason: object, example: str) -> None:
        """Count one; reasons are few, so they hold no names or numbers from files."""
        key = what, str(reason)
        self.counts[key] += 1
        self.examples.setdefault(key, printable(example))

    def lines(self) -> list[str]:
        """A sentence for each reason, the most frequent first."""
        return [
            f"Left out or changed: {count:,} {what}: {reason}, such as {self.examples[what, reason]}."
            for (what, reason), count in self.counts.most_common()
        ]

    def leave_out(self, image: str, reason: object, *, boxes: int) -> None:
        """Count an image that is left out, and its boxes with it."""
        self.add("images", reason, image)
        for _ in range(boxes):
            self.add("boxes", "of an image that is left out", image)


def gather(
    shapes: Iterable[T], read: Callable[[T], SourceBox], example: str, tally: Tally
) -> tuple[list[SourceBox], int]:
    """The boxes that ``read`` makes of shapes, and for how many it raises ``ValueError``, which are counted."""
    boxes: list[SourceBox] = []
    refused = 0
    for shape in shapes:
        try:
            boxes.append(read(shape))
        except ValueError as problem:
            tally.add("boxes", problem, example)
            refused += 1
    return boxes, refused


def box_around(points: Iterable[tuple[object, object]]) -> Xyxy:
    """The smallest box around x, y points.

    Raises:
        ValueError: fewer than two points, or something that is not a finite number.
    """
    found = [(number(x), number(y)) for x, y in points]
    if len(found) < 2:
        raise ValueError("a shape of fewer than two points")
    xs, ys = zip(*found, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def number(value: object) -> float:
    """A finite number, or the text of one.

    Raises:
        ValueError: it is not.
    """
    try:
        found = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not abs(found) <= LARGEST:
        raise ValueError("not a finite number")
    return found


def category_name(value: object) -> str:
    """A category's name without spaces around it.

    Raises:
        ValueError: it is none.
    """
    name = value.strip() if isinstance(value, str) else ""
    if not name or len(name) > MOST_LETTERS or UNPRINTABLE.search(name):
        raise ValueError("not a name of a category")
    return name


def size_in_pixels(width: object, height: object) -> tuple[int, int] | None:
    """Width and height as annotated; None where the source leaves them out, or writes 0 or what is no size."""
    try:
        sides = number(width), number(height)
    except ValueError:
        return None
    return (int(sides[0]), int(sides[1])) if min(sides) >= 1 else None


@dataclass
class Source:
    """All that a reader found.

    Attributes:
        categories: in the order in which they are to be numbered.
        split: of pictures that no annotation mentions.
    """

    categories: dict[str, None] = field(default_factory=dict)
    images: list[SourceImage] = field(default_factory=list)
    boxes: int = 0
    split: Callable[[str], str | None] = split_of

    def add(self, image: SourceImage) -> None:
        """Keep an image, and its categories that are new.

        Raises:
            DataError: more boxes than one annotation file can hold.
        """
        self.images.append(image)
        self.boxes += len(image.boxes)
        if self.boxes > MOST_BOXES:
            raise DataError(f"more than {MOST_BOXES:,} boxes; expected a data set that one annotation file can hold")
        self.name(box.category for box in image.boxes)

    def name(self, categories: Iterable[str]) -> None:
        """Number these categories next, those of them that are new."""
        self.categories.update(dict.fromkeys(categories))
