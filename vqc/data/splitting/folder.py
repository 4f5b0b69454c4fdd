"""A folder of annotated photographs -> a new one with train, val and test, and ``splits.json``, which says why.

The source is ``images/`` with ``annotations.json``, or is split already and is split anew. It stays as it is.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from vqc.config import load_record
from vqc.data.annotations import Category
from vqc.data.dataset import SPLITS, ImageRecord, Split, data_error, read_split
from vqc.data.duplicates import Photo, look_alikes
from vqc.data.findings import Finding, Report, printable
from vqc.data.image_io import picture_bytes, taken_at
from vqc.data.splitting.placement import FREE, Counts, Manifest, Placed, SplitName, choose_splits, connected
from vqc.data.validation import check_categories
from vqc.errors import DataError
from vqc.files import link_or_copy, new_folder, write_atomically, write_json

MANIFEST = "splits.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What ``split_data`` did.

    Attributes:
        counts: what is counted -> how many of it are in train, val and test.
        groups: how many of them were placed.
        findings: warnings about the source, and about earlier placements that are not mended.
    """

    manifest: Manifest
    counts: Mapping[str, Sequence[int]]
    groups: int
    findings: Sequence[Finding]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Item:
    """One photograph: ``file`` is its name in the new folder, ``key`` its group as annotated or by its file name."""

    record: ImageRecord
    photo: Photo
    file: str
    key: str | None


@dataclass(frozen=True, kw_only=True)
class _Link:
    """Two items, by position, that belong into one split; ``one_part``: because they show one part."""

    first: int
    second: int
    why: str
    one_part: bool = True


def split_data(
    source: Path,
    out: Path,
    *,
    shares: Mapping[SplitName, float],
    seed: int,
    pattern: re.Pattern[str] | None = None,
    gap_s: float | None = None,
    earlier: Path | None = None,
) -> Outcome:
    """Write ``out/{train,val,test}/{images/,annotations.json}`` and ``out/splits.json``.

    Photographs belong together if they are equal, show the same part, have the same group, or by ``gap_s``. Linked ones
    get one ``group`` in the new annotations, but for those that only time links: each still shows a part of its own.

    Args:
        shares: of the images, and of the boxes of each category, in each split; their sum is 1.
        pattern: on the file name; its first group, else the whole match, is the photograph's group. None: the
            annotations' ``group`` is.
        gap_s: photographs that were taken, one after the other, within so many seconds belong together.
        earlier: folder with a ``splits.json``; photographs of the same bytes stay in their split.

    Raises:
        DataError: the source has errors, or too few groups; nothing tells when photographs were taken, or matches the
            pattern; ``out`` cannot be written.
        ConfigError: ``earlier`` has no ``splits.json`` that can be read.
    """
    report = Report()
    splits, items = _read(source, pattern, report)
    links = [*_equal_keys(items), *_same_parts(items), *(_taken_together(items, gap_s) if gap_s is not None else ())]
    groups = connected(len(items), [(link.first, link.second) for link in links])
    kept = _kept(items, earlier)
    counts = _counts(items, splits[0].categories)
    chosen = _choose(groups, counts, kept, shares=shares, seed=seed)
    titles, whys = _titles(items, groups), _reasons(items, links, kept)
    for title in sorted({titles[i] for i, group in enumerate(groups) if chosen[i] != chosen[group]}):
        report.warning("same part in two splits", printable(title), "placed so by the earlier splits.json; left there")
    names = get_args(SplitName)
    placed = [
        Placed(file=item.file, sha256=item.photo.sha256, split=names[chosen[i]], group=titles[i], why=whys[i])
        for i, item in enumerate(items)
    ]
    manifest = Manifest(seed=seed, shares=dict(shares), images=tuple(placed))
    one_part = connected(len(items), [(link.first, link.second) for link in links if link.one_part])
    _write(out, source, splits, items, manifest, parts=_titles(items, one_part))
    held = np.array([counts[chosen == number].sum(axis=0) for number in range(len(SPLITS))]).astype(int)
    columns = ["images", "  defective", "boxes", *(f"  {category.name}" for category in splits[0].categories)]
    held = np.insert(held, 2, held[:, 2:].sum(axis=1), axis=1)
    return Outcome(
        manifest=manifest,
        counts=dict(zip(columns, held.T.tolist(), strict=True)),
        groups=len(set(groups.tolist())),
        findings=report.findings,
    )


def _read(source: Path, pattern: re.Pattern[str] | None, report: Report) -> tuple[list[Split], list[_Item]]:
    """The splits of the source, one without a name where it has none, and all their photographs."""
    names = [name for name in SPLITS if (source / name).is_dir()]
    if not names and not (source / "images").is_dir():
        expected = "expected a folder with images/ and annotations.json, or with train/, val/ and test/ that have them"
        raise DataError(f"{source}: {expected}")
    found = [read for name in names or [""] if (read := read_split(source, name, report)) is not None]
    check_categories({split.name: split.categories for split, _, _ in found}, report)
    if report.errors:
        raise data_error(source, report.findings)
    photos = [photo for _, some, _ in found for photo in some]
    records = [record for split, _, _ in found for record in split.images]
    known = Counter(photo.image.file_name.casefold() for photo in photos)  # on Windows A.png and a.png are one file
    items = []
    for record, photo in zip(records, photos, strict=True):
        name, key = photo.image.file_name, photo.image.group
        if pattern is not None:
            match = pattern.search(name)
            key = (match[1] if pattern.groups else match[0]) if match else None
        file = name if known[name.casefold()] == 1 else PurePosixPath(photo.split, name).as_posix()
        photo = replace(photo, image=replace(photo.image, group=key))
        items.append(_Item(record=record, photo=photo, file=file, key=key))
    if pattern is not None and all(item.key is None for item in items):
        raise DataError(f"--group: '{pattern.pattern}' is in no file name, such as {printable(items[0].file)}")
    if len({item.file.casefold() for item in items}) < len(items):
        raise DataError(f"{source}: two images have the same name, but for capitals; expected names of their own")
    return [split for split, _, _ in found], items


def _equal_keys(items: Sequence[_Item]) -> Iterator[_Link]:
    first: dict[str, int] = {}
    for number, item in enumerate(items):
        if item.key is not None:
            yield _Link(first=first.setdefault(item.key, number), second=number, why=f"group '{item.key}'")


def _same_parts(items: Sequence[_Item]) -> Iterator[_Link]:
    """Equal pictures, and photographs of one part."""
    first: dict[str, int] = {}
    for number, item in enumerate(items):
        known = first.setdefault(item.photo.sha256, number)
        if known != number:
            yield _Link(first=known, second=number, why=f"the same picture as {items[known].file}")
    positions = {id(item.photo): number for number, item in enumerate(items)}
    for one, other, similarity in look_alikes([item.photo for item in items]):
        one_at, other_at = positions[id(one)], positions[id(other)]
        why = f"shows the same part as {items[one_at].file} (similarity {similarity:.2f})"
        yield _Link(first=one_at, second=other_at, why=why)


def _taken_together(items: Sequence[_Item], gap_s: float) -> Iterator[_Link]:
    taken = [(taken_at(picture_bytes(item.record.path)), number) for number, item in enumerate(items)]
    known = sorted((when, number) for when, number in taken if when is not None)
    if not known:
        raise DataError("--gap-s: no photograph says when it was taken (EXIF); expected --group, or neither")
    for (before, one), (after, other) in pairwise(known):
        apart_s = (after - before).total_seconds()
        if apart_s <= gap_s:
            why = f"taken {apart_s:.0f} s after {items[one].file}"
            yield _Link(first=one, second=other, why=why, one_part=False)


def _kept(items: Sequence[_Item], earlier: Path | None) -> NDArray[np.int64]:
    """The position of each item's split in the earlier manifest, else ``FREE``: [n]."""
    images = () if earlier is None else load_record(Manifest, earlier / MANIFEST).images
    known = {image.sha256: get_args(SplitName).index(image.split) for image in images}
    return np.array([known.get(item.photo.sha256, FREE) for item in items], dtype=np.int64)


def _counts(items: Sequence[_Item], categories: Sequence[Category]) -> Counts:
    """One image, whether it is defective, and its boxes of each category, crowds not counted: [n, 2 + C]."""
    boxes = [
        np.bincount(item.record.labels[~item.record.crowd] - 1, minlength=len(categories)).astype(float)
        for item in items
    ]
    return np.array([[1.0, float(item.record.defective), *own] for item, own in zip(items, boxes, strict=True)])


def _choose(
    groups: NDArray[np.int64], counts: Counts, kept: NDArray[np.int64], *, shares: Mapping[SplitName, float], seed: int
) -> NDArray[np.int64]:
    """The position of each item's split: [n]. New photographs of a group go where most of it was before."""
    roots, member = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(roots), counts.shape[1]))
    np.add.at(sums, member, counts)
    before = np.zeros((len(roots), len(shares)))
    np.add.at(before, (member[kept != FREE], kept[kept != FREE]), 1)
    fixed = np.where(before.any(axis=1), before.argmax(axis=1), FREE)
    chosen = choose_splits(sums, [*shares.values()], fixed=fixed, rng=np.random.default_rng(seed))
    where = np.where(kept == FREE, chosen[member], kept)
    if len(set(where.tolist())) < len(shares):
        raise DataError(
            f"{len(roots)} groups of photographs cannot fill {', '.join(shares)}: a group is never divided; "
            "expected more groups, or other ones (--group)"
        )
    return where


def _titles(items: Sequence[_Item], groups: NDArray[np.int64]) -> list[str]:
    """The name of each item's group: its key, else the first file."""
    keys = {group: item.key for group, item in reversed([*zip(groups.tolist(), items, strict=True)]) if item.key}
    return [keys.get(group) or items[group].file for group in groups.tolist()]


def _reasons(items: Sequence[_Item], links: Sequence[_Link], kept: NDArray[np.int64]) -> list[str]:
    """Why each item is where it is."""
    whys: list[dict[str, None]] = [{} for _ in items]
    for link in links:
        whys[link.second][link.why] = None
    return [
        "; ".join([*(["as in the earlier splits.json"] if before != FREE else []), *why]) or "placed for equal shares"
        for why, before in zip(whys, kept.tolist(), strict=True)
    ]


def _write(
    out: Path,
    source: Path,
    splits: Sequence[Split],
    items: Sequence[_Item],
    manifest: Manifest,
    *,
    parts: Sequence[str],
) -> None:
    """``parts``: the group of each item in the new annotations."""
    # All that the source says of an image is kept, such as its segmentation, so its own JSON is copied.
    documents = {split.name: _document(source / split.name / "annotations.json") for split in splits}
    entries = {(name, entry["id"]): entry for name, document in documents.items() for entry in document["images"]}
    boxes: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for name, document in documents.items():
        for entry in document["annotations"]:
            boxes.setdefault((name, entry["image_id"]), []).append(entry)
    several = Counter(parts)
    try:
        with new_folder(out) as draft:
            for name in SPLITS:
                images: list[dict[str, Any]] = []
                annotations: list[dict[str, Any]] = []
                for image_id, (item, placed, part) in enumerate(
                    zip(items, manifest.images, parts, strict=True), start=1
                ):
                    if placed.split != name:
                        continue
                    link_or_copy(item.record.path, draft / name / "images" / item.file)
                    group = {"group": part} if item.key or several[part] > 1 else {}
                    own = (item.photo.split, item.record.image_id)
                    images.append({**entries[own], "id": image_id, "file_name": item.file, **group})
                    for entry in boxes.get(own, ()):
                        annotations.append({**entry, "id": len(annotations) + 1, "image_id": image_id})
                document = {**documents[splits[0].name], "images": images, "annotations": annotations}
                content = json.dumps(document, separators=(",", ":")).encode()
                write_atomically(draft / name / "annotations.json", content)
            write_json(draft / MANIFEST, manifest.model_dump())
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from None


def _document(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
    return document
