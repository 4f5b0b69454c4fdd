"""What must hold between the images of a split, and between splits: called by ``vqc.data.dataset``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from vqc.data.annotations import Category, ImageEntry
from vqc.data.findings import Report, printable

if TYPE_CHECKING:
    from vqc.data.dataset import Split

LISTED = 5  # categories that a finding names


def check_categories(splits: Sequence[Split], report: Report) -> None:
    """The same ones in all splits."""
    for split in splits[1:]:
        first, here = set(splits[0].categories), set(split.categories)
        if first != here:
            told = [
                f"{verb} {_listed(some)}" for verb, some in (("lacks", first - here), ("adds", here - first)) if some
            ]
            message = f"expected the categories of {splits[0].name}; it {' and '.join(told)}"
            report.error("categories differ", f"{split.name}/annotations.json", message)


def _listed(categories: Iterable[Category]) -> str:
    by_id = sorted(categories, key=lambda category: category.id)
    first = [f"{category.id} '{printable(category.name)}'" for category in by_id[:LISTED]]
    return ", ".join(first + ([f"{len(by_id) - LISTED} more"] if len(by_id) > LISTED else []))


def check_twins(images: Iterable[tuple[str, ImageEntry, str]], report: Report) -> None:
    """The same bytes twice: across splits the scores would be false, within one they are only lopsided.

    Args:
        images: name of the split, the image's entry, and the sha256 of its file.
    """
    first: dict[str, tuple[str, ImageEntry]] = {}
    for name, image, digest in images:
        split, twin = first.setdefault(digest, (name, image))
        if split != name:
            message = f"the same picture as {printable(twin.file_name)} in {split}; scores must be of unseen parts"
            report.error("same picture in two splits", image.where, message)
        elif twin is not image:
            report.warning("same picture twice", image.where, f"the same picture as {printable(twin.file_name)}")


def check_balance(split: Split, report: Report) -> None:
    """Images with a defect, and without, and boxes of every category."""
    where = f"{split.name}/annotations.json"
    if not split.images:
        report.error("no images", where, "expected at least one usable image, got none")
        return
    if split.defective == 0:
        tell = report.warning if split.name == "test" else report.error
        tell("no defects", where, "no image has a defect: there is nothing to learn or to measure")
        return
    if split.good == 0:
        report.warning("no good images", where, "every image has a defect: overkill cannot be measured")
    if split.name == "train":
        for name, count in split.boxes_per_category.items():
            if count == 0:
                report.warning("category without boxes", where, f"'{printable(name)}' has no box: it cannot be learnt")
