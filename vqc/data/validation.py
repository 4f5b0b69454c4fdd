"""What must hold within a split and between splits, beside what ``vqc.data.duplicates`` looks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vqc.data.annotations import Category
from vqc.data.findings import Report, printable

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
    """Names that differ only by capitals, spaces, punctuation or a plural's s: a warning for each such set."""
    alike: dict[str, list[Category]] = {}
    for category in categories:
        plain = "".join(letter for letter in category.name.casefold() if letter.isalnum())
        alike.setdefault(plain.removesuffix("s") or category.name, []).append(category)
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
