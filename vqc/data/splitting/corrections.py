"""Photographs that operators of the line have reviewed, added to a data set: to train and val, never to test.

Photographs belong together if they have one ``group``, the same bytes, or look like one part. Those of a part of the
data go where that part is; those of a part of test are left out. A third of the other parts that were reviewed in the
newest week is held out in ``reviewed/``, so that the next detector and the champion are compared on what neither was
trained on; a week later they are in train and val. All other parts go to val with the share that val has of train and
val. Where a part goes depends on the name of its group alone, so a photograph stays in its split from night to night.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from vqc.config import Record
from vqc.data.dataset import SPLITS, Data, ImageRecord, Split, data_error, read_split
from vqc.data.duplicates import Photo, look_alikes
from vqc.data.findings import Report, printable
from vqc.data.splitting.placement import connected
from vqc.errors import DataError
from vqc.files import link_or_copy, new_folder, write_atomically, write_json
from vqc.seeding import stream_seed

REVIEWED = "reviewed"  # folder of the newest week's held-out photographs, beside train, val and test
WEEK, WEEK_NAME = timedelta(days=7), "the newest reviewed week"
HELD_OUT = 1 / 3  # of the newest week's parts
RECORD = "corrections.json"
IN_TEST, KNOWN, OLDER = "shows a part of test", "is in the data already", "was reviewed again later"
LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)

Place = Literal["train", "val", "reviewed"]


def reviewed_week(data: Data) -> Split | None:
    """The newest week's held-out photographs as a split; None where the data has none.

    Raises:
        DataError: they have errors.
    """
    if not (data.root / REVIEWED).is_dir():
        return None
    report = Report()
    found = read_split(data.root, REVIEWED, report)
    if found is None or report.errors:
        raise data_error(data.root, report.findings)
    return replace(found[0], name=WEEK_NAME)


class Correction(Record):
    """Where one reviewed photograph went, and why; ``place`` is None where it was left out."""

    file: str
    sha256: str
    group: str
    place: Place | None
    why: str


@dataclass(frozen=True, kw_only=True)
class Added:
    """What ``add_corrections`` did."""

    corrections: Sequence[Correction]
    defective: int  # of those that were added

    def __str__(self) -> str:
        """One line without the names."""
        places = Counter(one.place for one in self.corrections)
        added = len(self.corrections) - places[None]
        where = ", ".join(f"{places[name]} to {name}" for name in ("train", "val") if places[name])
        held = f"{places['reviewed']} held out to compare detectors on" if places["reviewed"] else ""
        left = Counter(one.why for one in self.corrections if one.place is None)
        out = ", ".join(f"{count} left out ({why})" for why, count in left.most_common())
        such = f" ({self.defective} defective)" if added else ""
        parts = ", ".join(part for part in (where, held, out) if part)
        return f"{added} reviewed photographs added{such}{f': {parts}' if parts else ''}"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Item:
    """A reviewed photograph."""

    record: ImageRecord
    photo: Photo
    reviewed_at: datetime
    annotations: Sequence[Mapping[str, Any]]

    @property
    def order(self) -> tuple[datetime, str]:
        return self.reviewed_at, self.photo.image.file_name


@dataclass(frozen=True, kw_only=True, eq=False)
class _Base:
    """The data as it was."""

    folder: Path
    splits: Sequence[Split]
    photos: Sequence[Photo]

    @property
    def groups(self) -> dict[int, tuple[str, str]]:
        """id() of a photograph -> its split and group."""
        records = [(split.name, record.group) for split in self.splits for record in split.images]
        return {id(photo): found for photo, found in zip(self.photos, records, strict=True)}


def add_corrections(data: Path, corrections: Path, out: Path, *, seed: int = 0) -> Added:
    """Write the data with the corrections into a new folder ``out``; test stays as it is.

    Args:
        data: a folder in this project's layout.
        corrections: ``images/`` and ``annotations.json``, as the server exports its reviews: images without annotations
            are good parts, and each image has ``reviewed_at`` (RFC 3339).
        seed: another seed, other places for new parts.

    Raises:
        DataError: either has errors, a category is not the data's, or ``out`` cannot be written.
    """
    base, items = _read(data), _read_corrections(corrections)
    _check_categories(corrections, items, base)
    placed = _placed(items, base, seed)
    try:
        with new_folder(out) as draft:
            _write(draft, base, placed)
            write_json(draft / RECORD, [correction.model_dump() for _, correction in placed])
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from None
    added = [item for item, correction in placed if correction.place is not None]
    return Added(corrections=[one for _, one in placed], defective=sum(item.record.defective for item in added))


def _read(data: Path) -> _Base:
    report = Report()
    found = [read for name in SPLITS if (read := read_split(data, name, report)) is not None]
    if report.errors:
        raise data_error(data, report.findings)
    photos = [photo for _, some, _ in found for photo in some]
    return _Base(folder=data, splits=[split for split, _, _ in found], photos=photos)


def _read_corrections(folder: Path) -> list[_Item]:
    """All of them, the oldest review first."""
    report = Report()
    found = read_split(folder, "", report)
    if found is None or report.errors:
        raise data_error(folder, report.findings)
    split, photos, _ = found
    document = _document(folder / "annotations.json")
    names = {category["id"]: category["name"] for category in document["categories"]}
    entries = {entry["id"]: entry for entry in document["images"]}
    boxes: dict[int, list[dict[str, Any]]] = {}
    for entry in document["annotations"]:
        boxes.setdefault(entry["image_id"], []).append({**entry, "category": names[entry["category_id"]]})
    items = [
        _Item(
            record=record,
            photo=photo,
            reviewed_at=_time(entries[record.image_id].get("reviewed_at")),
            annotations=boxes.get(record.image_id, ()),
        )
        for record, photo in zip(split.images, photos, strict=True)
    ]
    return sorted(items, key=lambda item: item.order)


def _time(text: object) -> datetime:
    try:
        found = datetime.fromisoformat(str(text).replace("Z", "+00:00"))  # Python 3.10 knows no Z
    except ValueError:
        return LONG_AGO
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def _check_categories(folder: Path, items: Sequence[_Item], base: _Base) -> None:
    names = {category.name for category in base.splits[0].categories}
    for name in sorted({str(entry["category"]) for item in items for entry in item.annotations} - names):
        known = ", ".join(f"'{printable(one)}'" for one in sorted(names))
        raise DataError(f"{folder}: the category '{printable(name)}' is not one of {base.folder}: expected {known}")


def _placed(items: Sequence[_Item], base: _Base, seed: int) -> list[tuple[_Item, Correction]]:
    """Where each photograph goes."""
    known = {photo.sha256: split for photo, (split, _) in zip(base.photos, base.groups.values(), strict=True)}
    newest = {item.photo.sha256: item for item in items}  # the last review of the same bytes
    fresh = [item for item in items if item.photo.sha256 not in known and newest[item.photo.sha256] is item]
    chosen = {id(item): correction for item, correction in _by_part(fresh, base, seed)}

    def left_out(item: _Item) -> Correction:
        split = known.get(item.photo.sha256)
        return _correction(item, None, OLDER if split is None else IN_TEST if split == "test" else KNOWN)

    return [(item, chosen.get(id(item)) or left_out(item)) for item in items]


def _by_part(items: Sequence[_Item], base: _Base, seed: int) -> Iterator[tuple[_Item, Correction]]:
    """Photographs of one part go to one place."""
    position = {id(item.photo): number for number, item in enumerate(items)}
    links, neighbours = _links(items, base, position)
    groups = connected(len(items), links).tolist()
    last = max((item.reviewed_at for item in items), default=LONG_AGO)
    train, val = (len(split.images) for split in base.splits[:2])
    for root in dict.fromkeys(groups):
        members = [item for item, group in zip(items, groups, strict=True) if group == root]
        near = [neighbour for number, neighbour in neighbours if groups[number] == root]
        if any(split == "test" for split, _ in near):
            yield from ((item, _correction(item, None, IN_TEST)) for item in members)
            continue
        name = members[0].photo.image.group or members[0].photo.sha256
        place, why = _draw(name, members, last=last, val_share=val / (train + val), seed=seed)
        if near:
            (split, name), _ = Counter(near).most_common(1)[0]
            place, why = ("val" if split == "val" else "train"), f"shows a part that is in {split}"
        yield from ((item, _correction(item, place, why, group=name)) for item in members)


def _links(
    items: Sequence[_Item], base: _Base, position: Mapping[int, int]
) -> tuple[list[tuple[int, int]], list[tuple[int, tuple[str, str]]]]:
    """Pairs of reviewed photographs of one part; and those of a part of the data, with its split and group."""
    links, neighbours = [], []
    known, of_base = {group: (split, group) for split, group in base.groups.values()}, base.groups
    first: dict[str, int] = {}
    for number, item in enumerate(items):
        if (group := item.photo.image.group) is not None:
            links.append((first.setdefault(group, number), number))
            if group in known:
                neighbours.append((number, known[group]))
    for one, other, _ in look_alikes([*base.photos, *(item.photo for item in items)]):
        here, there = position.get(id(one)), position.get(id(other))
        if here is not None and there is not None:
            links.append((here, there))
        elif here is not None:
            neighbours.append((here, of_base[id(other)]))
        elif there is not None:
            neighbours.append((there, of_base[id(one)]))
    return links, neighbours


def _draw(name: str, members: Sequence[_Item], *, last: datetime, val_share: float, seed: int) -> tuple[Place, str]:
    """The place of a part that the data does not have, by its name."""
    newest = max(item.reviewed_at for item in members)
    week, split = (stream_seed(seed, f"{what}:{ascii(name)}") / 2**32 for what in ("reviewed", "val"))
    if newest > LONG_AGO and last - newest < WEEK and week < HELD_OUT:
        return "reviewed", "held out: reviewed in the newest week"
    return ("val" if split < val_share else "train"), "a new part"


def _correction(item: _Item, place: Place | None, why: str, *, group: str | None = None) -> Correction:
    file, own = item.photo.image.file_name, item.photo.image.group
    return Correction(file=file, sha256=item.photo.sha256, group=group or own or file, place=place, why=why)


def _write(draft: Path, base: _Base, placed: Sequence[tuple[_Item, Correction]]) -> None:
    documents = {split.name: _document(base.folder / split.name / "annotations.json") for split in base.splits}
    empty = {"categories": documents["train"]["categories"], "images": [], "annotations": []}
    documents[REVIEWED] = empty
    for split in base.splits:
        for record in split.images:
            name = record.path.relative_to(base.folder / split.name / "images").as_posix()
            link_or_copy(record.path, draft / split.name / "images" / name)
    for name, document in documents.items():
        some = [(item, one) for item, one in placed if one.place == name]
        if some:
            _append(draft / name, document, some)
            content = json.dumps(document, separators=(",", ":")).encode()
            write_atomically(draft / name / "annotations.json", content)
        elif name != REVIEWED:
            shutil.copyfile(base.folder / name / "annotations.json", draft / name / "annotations.json")


def _append(folder: Path, document: dict[str, Any], some: Sequence[tuple[_Item, Correction]]) -> None:
    """Add photographs to a split: their files, their entries and their boxes."""
    ids = {category["name"]: category["id"] for category in document["categories"]}
    shared = {one.group for _, one in some}
    for entry in document["images"]:  # where a new photograph shows its part, both need a group
        if "group" not in entry and entry["file_name"] in shared:
            entry["group"] = entry["file_name"]
    taken = {str(entry["file_name"]).casefold() for entry in document["images"]}
    first_id = 1 + max((entry["id"] for entry in document["images"]), default=0)
    box_id = max((entry["id"] for entry in document["annotations"]), default=0)
    for image_id, (item, one) in enumerate(some, start=first_id):
        name = PurePosixPath("reviews", one.file).as_posix()
        if name.casefold() in taken:
            name = PurePosixPath("reviews", one.sha256, one.file).as_posix()
        link_or_copy(item.record.path, folder / "images" / name)
        document["images"].append({
            "id": image_id, "file_name": name, "width": item.record.width, "height": item.record.height,
            "group": one.group, "reviewed_at": item.reviewed_at.isoformat(),
        })  # fmt: skip
        for entry in item.annotations:
            box_id += 1
            kept = {key: entry[key] for key in ("bbox", "area", "iscrowd") if key in entry}
            document["annotations"].append(
                {"id": box_id, "image_id": image_id, "category_id": ids[entry["category"]], **kept}
            )


def _document(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
    return document
