"""COCO JSON in the dialects of Roboflow, CVAT, Label Studio and this project: one file, or one for each split.

Roboflow repeats the project's name as a category 0 that groups the others, CVAT leaves out ``licenses`` and writes
masks as ``iscrowd: 1``, Label Studio writes paths of its server. Boxes are ``bbox``, or else around ``segmentation``:
polygons, or run lengths as pycocotools writes them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqc.data.annotations import Xyxy, read_document
from vqc.data.findings import Report
from vqc.data.importers.source import (
    Source,
    SourceBox,
    SourceImage,
    Tally,
    box_around,
    category_name,
    number,
    size_in_pixels,
)
from vqc.data.importers.tree import Tree, split_named, split_of
from vqc.errors import DataError

LISTS = ("categories", "images", "annotations")
MOST_DIGITS = 8  # of a compressed run length, five bits each
MOST_LETTERS_OF_A_MASK = 10**6
MOST_RUN = 2**31  # of one run: more pixels than any picture has

Entry = Mapping[str, Any]


def find(tree: Tree) -> list[str]:
    """JSON files that look like COCO; of several about the same images those named ``instances``, which hold boxes."""
    found = [file for file in tree.documents(".json") if _looks(tree.ends(file))]
    return [file for file in found if PurePosixPath(file).name.startswith("instances")] or found


def _looks(ends: bytes) -> bool:
    return (b'"images"' in ends or b'"file_name"' in ends) and (b'"categories"' in ends or b'"category_id"' in ends)


def read(tree: Tree, files: list[str], tally: Tally) -> Source:
    """Everything in these files.

    Raises:
        DataError: one of them is no COCO file.
    """
    source = Source()
    for file in files:
        categories, images, annotations = _lists(tree, file)
        names = _categories(categories, {_key(entry, "category_id") for entry in annotations}, tally)
        source.name(names.values())
        ids = Counter(_key(entry, "id") for entry in images)
        boxes, refused = _boxes(annotations, names, {key for key, count in ids.items() if count == 1}, tally)
        split = _split(file)
        for entry in images:
            key, name = _key(entry, "id"), str(entry.get("file_name"))
            try:
                picture = tree.picture(name, file, split)
            except ValueError as problem:
                tally.leave_out(name, problem, boxes=len(boxes.get(key, ())))
                continue
            source.add(
                SourceImage(
                    file=picture,
                    split=split or split_of(picture),
                    boxes=boxes.get(key, ()),
                    size=size_in_pixels(entry.get("width"), entry.get("height")),
                    group=_group(entry),
                    refused=refused.get(key, 0) + (key is None or ids[key] > 1),
                )
            )
    return source


def _lists(tree: Tree, file: str) -> list[list[Entry]]:
    """Categories, images and annotations, those of them that are objects."""
    report = Report()
    found = read_document(tree.root / file, name=tree.where(file), report=report)
    if found is None:
        raise DataError(str(report.errors[0]))
    for key in LISTS:
        if not isinstance(found[0].get(key), list):
            raise DataError(f"{tree.where(file)}: not COCO: expected a list '{key}'")
    return [[entry for entry in found[0][key] if isinstance(entry, dict)] for key in LISTS]


def _split(file: str) -> str | None:
    """By the folder, or by a word of the file's name, as in ``instances_val2017.json``."""
    words = re.split(r"[_.-]", PurePosixPath(file).stem)
    return split_of(file) or next(filter(None, map(split_named, words)), None)


def _key(entry: Entry, key: str) -> int | str | None:
    """An id: any whole number or text."""
    value = entry.get(key)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _group(entry: Entry) -> str | None:
    value = entry.get("group")
    return str(value) if isinstance(value, int | str) and str(value).strip() else None


def _categories(entries: list[Entry], used: set[int | str | None], tally: Tally) -> dict[int | str | None, str]:
    """Id -> name, in the order of the ids, without those that only group others."""
    groups = {str(entry.get("supercategory")) for entry in entries if entry.get("supercategory") != entry.get("name")}
    found: dict[int | str | None, str] = {}
    numbered = [(key, entry) for entry in entries if (key := _key(entry, "id")) is not None]
    for key, entry in sorted(numbered, key=lambda pair: (isinstance(pair[0], str), pair[0])):
        try:
            name = category_name(entry.get("name"))
        except ValueError as problem:
            tally.add("categories", problem, str(entry.get("name")))
            continue
        if name in groups and key not in used:
            tally.add("categories", "only groups others and has no box", name)
        else:
            found[key] = name
    return found


def _boxes(
    entries: list[Entry], names: Mapping[int | str | None, str], images: set[int | str | None], tally: Tally
) -> tuple[dict[int | str | None, list[SourceBox]], dict[int | str | None, int]]:
    """Image id -> its boxes, and -> how many of its annotations could not be read."""
    found: defaultdict[int | str | None, list[SourceBox]] = defaultdict(list)
    refused: defaultdict[int | str | None, int] = defaultdict(int)
    for entry in entries:
        key = _key(entry, "image_id")
        try:
            if key is None or key not in images:
                raise ValueError("of an image that is not listed, or whose id others have")
            if _key(entry, "category_id") not in names:
                raise ValueError("of a category that is not listed")
            box = SourceBox(
                category=names[_key(entry, "category_id")],
                xyxy=_xyxy(entry),
                area_px2=_area(entry),
                crowd=entry.get("iscrowd") == 1,
            )
        except ValueError as problem:
            tally.add("boxes", problem, f"annotation {entry.get('id')} of image {key}")
            refused[key] += 1
        else:
            found[key].append(box)
    return found, refused


def _area(entry: Entry) -> float | None:
    try:
        return number(entry.get("area")) or None
    except ValueError:
        return None


def _xyxy(entry: Entry) -> Xyxy:
    bbox, shape = entry.get("bbox"), entry.get("segmentation")
    if isinstance(bbox, list) and len(bbox) == 4:
        x, y, width, height = map(number, bbox)
        if (width > 0 and height > 0) or not shape:
            return x, y, x + width, y + height
    if isinstance(shape, dict):
        return around_runs(shape)
    if isinstance(shape, list) and shape and all(isinstance(part, list) for part in shape):
        return box_around(chain.from_iterable(zip(part[::2], part[1::2], strict=False) for part in shape))
    raise ValueError("no box and no outline")


def around_runs(mask: Entry) -> Xyxy:
    """The box around a mask of run lengths: zeros and ones in turn, column after column.

    Raises:
        ValueError: it is no such mask, or has no ones.
    """
    counts, size = mask.get("counts"), mask.get("size")
    if not isinstance(size, list) or not size or number(size[0]) < 1:
        raise ValueError("a mask without a size")
    height = int(number(size[0]))
    if isinstance(counts, str):
        runs = _uncompressed(counts)
    elif isinstance(counts, list) and all(type(run) is int and 0 <= run <= MOST_RUN for run in counts):
        runs = np.array(counts, dtype=np.int64)
    else:
        raise ValueError("a mask without run lengths")
    ends = np.concatenate([[0], np.cumsum(runs)])
    first, last = ends[1:-1:2], ends[2::2] - 1
    first, last = first[first <= last], last[first <= last]
    if not len(first):
        raise ValueError("an empty mask")
    whole = first // height < last // height  # from one column into the next
    top, bottom = np.where(whole, 0, first % height), np.where(whole, height - 1, last % height)
    return float(first[0] // height), float(top.min()), float(last[-1] // height + 1), float(bottom.max() + 1)


def _uncompressed(text: str) -> NDArray[np.int64]:
    """Run lengths of pycocotools' text: digits of five bits, the lowest first; from the third on, differences.

    https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c, ``rleFrString``: 32 says that another digit
    follows, 16 of the last digit is the sign, and a difference is to the length two before.
    """
    if len(text) > MOST_LETTERS_OF_A_MASK:
        raise ValueError("a mask of too many runs")
    values = np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(values & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if not len(ends) or ends[-1] != len(values) - 1 or values.min() < 0 or (ends - starts).max() >= MOST_DIGITS:
        raise ValueError("a mask without run lengths")
    places = 5 * (np.arange(len(values)) - np.repeat(starts, ends - starts + 1))
    runs = np.add.reduceat((values & 31) << places, starts)
    runs -= np.where(values[ends] & 16, 32 << places[ends], 0)
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    if runs.min() < 0 or runs.max() > MOST_RUN:
        raise ValueError("a mask without run lengths")
    return runs
