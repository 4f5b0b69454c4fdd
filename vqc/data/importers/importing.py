"""A source in any format -> a folder in this project's layout, which appears only when it is complete."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from vqc.data.annotations import MOST_BYTES, OVERHANG_PX, ROUNDING_PX, Xyxy
from vqc.data.dataset import SPLITS
from vqc.data.findings import printable
from vqc.data.image_files import probe_files
from vqc.data.image_io import Picture
from vqc.data.importers.formats import FORMATS, recognise
from vqc.data.importers.source import Source, SourceBox, SourceImage, Tally
from vqc.data.importers.tree import Tree
from vqc.errors import DataError
from vqc.files import link_or_copy, new_folder, write_atomically
from vqc.shell import quoted

# Formats with a file for each picture, and its suffix: one that does not look like the format is a broken one.
ONE_EACH: Mapping[str, tuple[str, ...]] = {"labelme": (".json",), "voc": (".xml",)}
Unlabelled = Literal["good", "leave-out"]
Crowds = Literal["defects", "ignore"]
MOST_CROWDS = 0.1  # of the boxes: COCO's own crowds are rare, but tools mark every painted mask as one
ROBOFLOW = re.compile(r"(.+)\.rf\.[0-9A-Za-z]{8,}")  # what it names the versions of a photograph, less the suffix
MOST_VERSIONS = 50
IGNORED = "ignored in scoring; --crowds defects if they are painted masks"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What came in.

    Attributes:
        files: of the annotations that were read, relative to the source.
        splits: name -> images, each with its size and with boxes in pixels inside it; "" is the only name where they
            are still to be split.
        joined: names of the source's splits that are too few to be used and became one folder.
    """

    folder: Path
    format: str
    files: Sequence[str]
    categories: Sequence[str]
    splits: Mapping[str, Sequence[SourceImage]]
    joined: Sequence[str]
    tally: Tally


def import_data(
    source: Path,
    out: Path,
    *,
    format_: str | None = None,
    unlabelled: Unlabelled | None = None,
    crowds: Crowds | None = None,
    command: str | None = None,
) -> Imported:
    """Read a source and write ``out/{train,val,test}/{images/,annotations.json}``.

    Where the source has no train and val it is ``out/{images/,annotations.json}``, for ``vqc split``. Pictures are hard
    links or copies, each in one place; the source stays as it is.

    Args:
        format_: a key of ``FORMATS``; None recognises it.
        unlabelled: what pictures are that no annotation file mentions; None refuses them. An image that is mentioned
            and has no box is a good part.
        crowds: what COCO's ``iscrowd`` marks: defects, or regions that are ignored in scoring; None ignores a few, and
            refuses more than ``MOST_CROWDS``.
        command: of the same import, for messages that ask for a flag; None: into ``out``.

    Raises:
        DataError: the source cannot be read, needs a decision, or ``out`` cannot be written.
    """
    command = command or f"vqc import {quoted(source)} --out {quoted(out)}"
    tree, tally = Tree(source), Tally()
    for link in tree.outside:
        tally.add("files", "a link that leads out of the folder", link)
    name, files = recognise(tree, format_, command)
    found = FORMATS[name].read(tree, files, tally)
    others = set(tree.documents(*ONE_EACH.get(name, ()))) - set(files)
    bare = list(_unlabelled(tree, found, {PurePosixPath(file).stem for file in others}, tally))
    usable = list(_usable(tree, [*_once(found.images, tally), *bare], tally))
    usable = _decided(usable, {image.file for image in bare}, unlabelled, tally, command)
    usable = list(_grouped(_marked(usable, crowds, tally, command), tally))
    splits, joined = _splits(usable, tally)
    if not any(splits.values()):
        raise DataError(f"{tree.root}: no image of it can be used; {_most_frequent(tally)}")
    if not found.categories:
        raise DataError(f"{tree.root}: no category has a name; {_most_frequent(tally)}")
    try:
        with new_folder(out) as draft:
            for split, images in splits.items():
                _write(draft / split, images, list(found.categories), tree)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from None
    return Imported(
        folder=out,
        format=name,
        files=files,
        categories=list(found.categories),
        splits=splits,
        joined=joined,
        tally=tally,
    )


def _once(images: Sequence[SourceImage], tally: Tally) -> Iterator[SourceImage]:
    """The images without second entries of the same picture."""
    known: set[str] = set()
    for image in images:
        if image.file in known:
            tally.leave_out(image.file, "listed twice: the first entry is kept", boxes=len(image.boxes))
        else:
            known.add(image.file)
            yield image


def _unlabelled(tree: Tree, found: Source, unread: set[str], tally: Tally) -> Iterator[SourceImage]:
    """Pictures that no annotation mentions; ``unread``: names, without suffix, of unusable annotation files."""
    named = {image.file for image in found.images}
    for file in tree.pictures:
        if file in named:
            continue
        if file in tree.ambiguous:
            tally.add("images", "perhaps annotated: others have its name", file)
        elif PurePosixPath(file).stem in unread:
            tally.add("images", "perhaps annotated: a file of its name is empty or broken", file)
        else:
            yield SourceImage(file=file, split=found.split(file))


def _usable(tree: Tree, images: Sequence[SourceImage], tally: Tally) -> Iterator[SourceImage]:
    """Images whose picture can be decoded, each picture once, with their size and with boxes in pixels."""
    known: dict[str, SourceImage] = {}
    for image, picture in zip(images, probe_files([tree.root / image.file for image in images]), strict=True):
        problem = picture if isinstance(picture, str) else _mismatch(image, picture)
        if problem is not None or isinstance(picture, str):
            reason = "unreadable picture" if isinstance(picture, str) else "annotated at another size than it has"
            tally.leave_out(f"{image.file}: {problem}", reason, boxes=len(image.boxes))
            continue
        first = known.setdefault(picture.sha256, image)
        if first is not image:
            same = "" if (first.boxes, first.shares) == (image.boxes, image.shares) else ", with other boxes"
            reason = f"the same picture twice{same}: the first is kept"
            tally.leave_out(f"{image.file} and {first.file}", reason, boxes=len(image.boxes))
            continue
        size = image.size or picture.upright_size
        boxes = tuple(_inside(image, size, tally))
        if not boxes and (image.boxes or image.refused):
            tally.add("images", "no box of it can be used", image.file)
        else:
            yield replace(image, size=size, shares=False, boxes=boxes)


def _mismatch(image: SourceImage, picture: Picture) -> str | None:
    try:
        picture.rotated_in(image.size or picture.upright_size)
    except DataError as error:
        return error.what
    return None


def _inside(image: SourceImage, size: tuple[int, int], tally: Tally) -> Iterator[SourceBox]:
    """The boxes in pixels, clipped to the image."""
    width, height = size
    across, down = size if image.shares else (1, 1)
    for box in image.boxes:
        left, top, right, bottom = (side * scale for side, scale in zip(box.xyxy, (across, down) * 2, strict=True))
        if not (left < right and top < bottom):
            tally.add("boxes", "empty", image.file)
            continue
        clipped: Xyxy = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
        left32, top32, right32, bottom32 = np.array(clipped, dtype=np.float32)
        if not (left32 < right32 and top32 < bottom32):
            tally.add("boxes", "outside the image", image.file)
            continue
        overhang_px = max(-left, -top, right - width, bottom - height)
        if overhang_px > OVERHANG_PX + ROUNDING_PX:
            tally.add("boxes", "reached out of the image: clipped", image.file)
        yield replace(box, xyxy=clipped, area_px2=box.area_px2 if overhang_px <= 0 else None)


def _decided(
    images: list[SourceImage], bare: set[str], unlabelled: Unlabelled | None, tally: Tally, command: str
) -> list[SourceImage]:
    """Without the pictures that no annotation mentions, unless they are good parts."""
    without = [image.file for image in images if image.file in bare]
    if not without or unlabelled == "good":
        return images
    if unlabelled is None:
        raise DataError(
            f"{len(without):,} of {len(images):,} pictures have no annotation, such as {printable(without[0])}: are "
            "they good parts, or not yet annotated? expected --unlabelled good or --unlabelled leave-out",
            command=f"{command} --unlabelled good",
        )
    for file in without:
        tally.add("images", "without an annotation: left out as asked", file)
    return [image for image in images if image.file not in bare]


def _marked(images: list[SourceImage], crowds: Crowds | None, tally: Tally, command: str) -> list[SourceImage]:
    """With the crowd regions as they are to be understood."""
    boxes = [box for image in images for box in image.boxes]
    count = sum(box.crowd for box in boxes)
    if crowds is None and count > MOST_CROWDS * len(boxes):
        such = next(image.file for image in images if any(box.crowd for box in image.boxes))
        raise DataError(
            f"{count:,} of {len(boxes):,} boxes are marked as crowds (iscrowd), such as on {printable(such)}: CVAT and "
            "datumaro mark every painted mask so; are they defects, or regions to ignore? expected --crowds defects or "
            "--crowds ignore",
            command=f"{command} --crowds defects",
        )
    reason = "marked as crowds (iscrowd): " + ("taken as defects, as asked" if crowds == "defects" else IGNORED)
    for image in images:
        for _ in filter(None, (box.crowd for box in image.boxes)):
            tally.add("boxes", reason, image.file)
    if crowds != "defects":
        return images
    return [replace(image, boxes=[replace(box, crowd=False) for box in image.boxes]) for image in images]


def _grouped(images: Sequence[SourceImage], tally: Tally) -> Iterator[SourceImage]:
    """The versions that Roboflow made of one photograph show one part."""
    names = [ROBOFLOW.fullmatch(PurePosixPath(image.file).stem) for image in images]
    keys = [(image.split, image.size, name[1]) if name else None for image, name in zip(images, names, strict=True)]
    counts = Counter(keys)
    for image, key in zip(images, keys, strict=True):
        if key is not None and image.group is None and 1 < counts[key] <= MOST_VERSIONS:
            tally.add("images", "versions that Roboflow made of one photograph: one group", image.file)
            yield replace(image, group=key[2])
        else:
            yield image


def _splits(images: Sequence[SourceImage], tally: Tally) -> tuple[dict[str, list[SourceImage]], list[str]]:
    """The images of each split, or all in one where the source has no train and val; then the splits it has."""
    named = [name for name in SPLITS if any(image.split == name for image in images)]
    if not {"train", "val"} <= set(named):
        return {"": list(images)}, named
    for image in images:
        if image.split is None:
            tally.leave_out(image.file, "in no split of the source", boxes=len(image.boxes))
    return {name: [image for image in images if image.split == name] for name in named}, []


def _most_frequent(tally: Tally) -> str:
    (key, count), *_ = tally.counts.most_common(1) or [(("images", "there is none"), 0)]
    return f"{count:,} {key[0]}: {key[1]}, such as {tally.examples.get(key, '-')}"


def _write(folder: Path, images: Sequence[SourceImage], categories: Sequence[str], tree: Tree) -> None:
    """One split: its pictures, named as below their deepest common folder, and its annotations."""
    ids = {name: number for number, name in enumerate(categories, start=1)}
    base = os.path.commonpath([PurePosixPath(image.file).parent for image in images])
    entries, annotations = list[dict[str, object]](), list[dict[str, object]]()
    for image_id, image in enumerate(images, start=1):
        name = PurePosixPath(image.file).relative_to(Path(base).as_posix()).as_posix()
        link_or_copy(tree.root / image.file, folder / "images" / name)
        width, height = image.size or (0, 0)
        group = {} if image.group is None else {"group": image.group}
        entries.append({"id": image_id, "file_name": name, "width": width, "height": height, **group})
        for box in image.boxes:
            left, top, right, bottom = box.xyxy
            area = {} if box.area_px2 is None else {"area": box.area_px2}
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": ids[box.category],
                "bbox": [left, top, right - left, bottom - top], "iscrowd": int(box.crowd), **area,
            })  # fmt: skip
    document = {
        "categories": [{"id": id_, "name": name} for name, id_ in ids.items()],
        "images": entries,
        "annotations": annotations,
    }
    content = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    if len(content) > MOST_BYTES:
        raise DataError(f"more annotations than one file can hold: {len(content) / 2**20:.0f} MB")
    write_atomically(folder / "annotations.json", content)
