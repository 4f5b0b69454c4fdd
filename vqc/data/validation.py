"""What must hold within a split and between splits, beside what ``vqc.data.duplicates`` looks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vqc.boxes import iou
from vqc.data.annotations import Category
from vqc.data.findings import Report, printable

GOOD_NAMES = {"background", "good", "goodpart", "nodefect", "normal", "ok", "okay", "pass"}
ES = ("ches", "shes", "sses", "xes")  # a plural's s with an e before it, as in scratches
TWICE = 0.9  # overlap of two boxes from which they are one
MOST_COMPARED = 300  # boxes of one image: a hostile file has more, and each is compared with each
LISTED = 5  # categories that a finding names


def check_categories(categories: Mapping[str, Sequence[Category]], report: Report) -> None:
    """The categories of each split, by its name, must be those of the first."""
    names = list(categories)
    for name in names[1:]:
        expected, got = set(categories[names[0]]), set(categories[name])
        if expected != got:
            changes = (("lacks", expected - got), ("adds", got - expected))
            differences = " and ".join(f"{verb} {_listed(some)}" for verb, some in changes if some)
            message = f"expected the categories of {names[0]}; it {differences}"
            report.error("categories differ", f"{name}/annotations.json", message)


def check_category_names(categories: Sequence[Category], report: Report) -> None:
    """Names that differ only by capitals, spaces, punctuation or a plural's s, and those of parts without a defect."""
    alike: dict[str, list[Category]] = {}
    for category in categories:
        plain = "".join(letter for letter in category.name.casefold() if letter.isalnum())
        singular = plain.removesuffix("es" if plain.endswith(ES) else "s")
        alike.setdefault(singular or category.name, []).append(category)
        if plain in GOOD_NAMES:
            message = (
                f"'{printable(category.name)}' looks like a name for what is no defect: its boxes would reject good "
                "parts; a good part is an image without boxes"
            )
            report.warning("category of good parts", "all splits", message)
    for some in alike.values():
        if len(some) > 1:
            message = f"{_listed(some)} look like one category: the detector would have to tell them apart"
            report.warning("categories alike", "all splits", message)


def _listed(categories: Iterable[Category]) -> str:
    by_id = sorted(categories, key=lambda category: category.id)
    first = [f"{category.id} '{printable(category.name)}'" for category in by_id[:LISTED]]
    return ", ".join(first + ([f"{len(by_id) - LISTED} more"] if len(by_id) > LISTED else []))


def check_balance(
    split: str, good: int, defective: int, boxes_per_category: Mapping[str, int], *, report: Report
) -> None:
    """Images with a defect, and without, and boxes of every category."""
    where = f"{split}/annotations.json"
    if good + defective == 0:
        report.error("no images", where, "expected at least one usable image, got none")
        return
    if defective == 0:
        add = report.warning if split == "test" else report.error
        add("no defects", where, "no image has a defect: there is nothing to learn or to measure")
        return
    if good == 0:
        lacking = "the detector never sees a good part" if split == "train" else "overkill cannot be measured"
        report.warning("no good images", where, f"every image has a defect: {lacking}")
    if split == "train":
        for name, count in boxes_per_category.items():
            if count == 0:
                report.warning("category without boxes", where, f"'{printable(name)}' has no box: it cannot be learnt")


def close_pairs(boxes: NDArray[np.float32], *, margin_px: float = 0.0, overlap: float = 0.0) -> list[tuple[int, int]]:
    """Positions, two by two, of boxes [n, 4] xyxy in pixels that overlap by more, each grown by a margin.

    None where there are more than ``MOST_COMPARED``.
    """
    if len(boxes) > MOST_COMPARED:
        return []
    grown = boxes + np.array([-1, -1, 1, 1], np.float32) * np.float32(margin_px)
    return [(int(one), int(other)) for one, other in np.argwhere(np.triu(iou(grown, grown) > overlap, k=1))]


def check_repeated_boxes(
    where: str, boxes: NDArray[np.float32], labels: NDArray[np.int64], names: Sequence[str], report: Report
) -> None:
    """Warn of boxes [n, 4] xyxy of one image, with labels [n] of these names, that are nearly the same."""
    for first, second in close_pairs(boxes, overlap=TWICE):
        one, other = (names[label - 1] for label in labels[[first, second]])
        such = f"two boxes '{printable(one)}'" if one == other else f"'{printable(one)}' and '{printable(other)}'"
        x0, y0, x1, y1 = boxes[first]
        message = f"{such} at nearly the same place: x {x0:g} to {x1:g}, y {y0:g} to {y1:g}; a defect has one box"
        report.warning("two boxes at one place", where, message)
