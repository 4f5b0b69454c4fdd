"""A folder of annotated photographs -> validated records.

The layout is ``root/{train,val,test}/{images/,annotations.json}``; ``test`` may be missing. Called by
everything that needs data; calls ``vqc.data.annotations`` for the JSON and ``vqc.data.image_io`` for the images.
Neither torch nor Pillow is imported with this module.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqc.data.annotations import Annotations, Box, Category, ImageEntry, read_annotations
from vqc.data.consistency import check_balance, check_categories, check_twins
from vqc.data.findings import Finding, Report, printable
from vqc.data.image_io import Picture, decode_picture, picture_bytes, probe_picture
from vqc.errors import DataError, nearest

SPLITS = ("train", "val", "test")
THREADS = 8  # each may hold one picture of the largest size in memory
SHOWN_ERRORS = 10
HINTS = 20  # nearest names per split: looking for each costs a pass over the folder


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageRecord:
    """One image and its ``n`` annotated boxes; ``n`` is 0 for a good part.

    Attributes:
        image_id: as in the file.
        path: of the image file.
        sha256: of the file's bytes when they were checked, in hex.
        group: the physical part that is shown. Photographs of one part share it: they are not independent, so rates and
            resampling count parts. The COCO image entry's "group" (a string or an integer) where there is one, else the
            file name as annotated, so that every photograph is a part of its own within its split.
        width, height: pixels, as the annotations see the image (after the rotation, if there is one).
        rotate: whether EXIF's orientation is applied when the file is decoded.
        boxes: ``[n, 4]`` float32, xyxy, pixels of the annotated image, inside it and not empty.
        labels: ``[n]`` int64, 1..C: position among the categories plus 1 (0 is background).
        areas: ``[n]`` float32, px2, as annotated, or of the box where nothing is annotated.
        crowd: ``[n]`` bool, COCO's iscrowd: a region of many, neither to be found nor to be missed.
        annotation_ids: ``[n]`` int64, as in the file.
    """

    image_id: int
    path: Path
    sha256: str
    group: str
    width: int
    height: int
    rotate: bool
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    areas: NDArray[np.float32]
    crowd: NDArray[np.bool_]
    annotation_ids: NDArray[np.int64]

    @property
    def defective(self) -> bool:
        """Whether there is anything to find: at least one box that is no crowd."""
        return bool((~self.crowd).any())


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Images of one purpose; the categories are sorted by id and equal in all splits."""

    name: str
    categories: tuple[Category, ...]
    images: tuple[ImageRecord, ...]

    @property
    def defective(self) -> int:
        """Images with a defect."""
        return sum(image.defective for image in self.images)

    @property
    def good(self) -> int:
        """Images without one."""
        return len(self.images) - self.defective

    @cached_property
    def boxes_per_category(self) -> dict[str, int]:
        """Category name -> boxes, crowds not counted."""
        counts = Counter(int(label) for image in self.images for label in image.labels[~image.crowd])
        return {category.name: counts[label] for label, category in enumerate(self.categories, start=1)}

    @property
    def boxes(self) -> int:
        """Boxes, crowds not counted."""
        return sum(self.boxes_per_category.values())


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """All splits of one folder.

    ``fingerprint`` is a sha256, in hex, over their annotations and image bytes; ``parts`` the same of each part by
    its name, such as ``train/annotations.json`` and ``train/images``: so that it can be told which one has changed.
    """

    root: Path
    train: Split
    val: Split
    test: Split | None
    fingerprint: str
    parts: Mapping[str, str]

    @property
    def categories(self) -> tuple[Category, ...]:
        return self.train.categories

    @property
    def splits(self) -> tuple[Split, ...]:
        """Those that are there, in the order train, val, test."""
        return tuple(split for split in (self.train, self.val, self.test) if split is not None)

    def split(self, name: str) -> Split:
        """The split of that name.

        Raises:
            DataError: the folder has none of that name.
        """
        for split in self.splits:
            if split.name == name:
                return split
        raise DataError(f"{self.root}: no split '{name}'; it has {', '.join(split.name for split in self.splits)}")

    def summary(self) -> dict[str, Any]:
        """Name, fingerprint, categories and counts per split, as JSON can hold them."""
        return {
            "root": self.root.resolve().name,
            "fingerprint": self.fingerprint,
            "parts": dict(self.parts),
            "categories": [category.name for category in self.categories],
            "images": {split.name: len(split.images) for split in self.splits},
            "boxes": {split.name: split.boxes for split in self.splits},
            "good": {split.name: split.good for split in self.splits},
            "defective": {split.name: split.defective for split in self.splits},
        }


def load_data(root: Path) -> Data:
    """Data that training can rely on.

    Raises:
        DataError: as ``usable_data`` does.
    """
    return usable_data(root)[0]


def usable_data(root: Path) -> tuple[Data, list[Finding]]:
    """Data that training can rely on, and the warnings about it.

    Raises:
        DataError: no such folder, or it holds errors; their number and the first ten.
    """
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "no such folder"
        expected = "expected a folder with train/images, train/annotations.json and the same for val"
        raise DataError(f"{root}: {problem}; {expected}", command="vqc sample --out data")
    data, findings = inspect_data(root)
    if data is None:
        errors = [finding for finding in findings if finding.severity == "error"]
        more = len(errors) - SHOWN_ERRORS
        lines = [f"{root}: {len(errors)} {'error' if len(errors) == 1 else 'errors'} in the data"]
        lines += [f"  - {error}" for error in errors[:SHOWN_ERRORS]]
        lines += [f"  and {more} more"] if more > 0 else []
        raise DataError("\n".join(lines), command=f"vqc check --data {_quoted(root)}")
    return data, findings


def _quoted(path: Path) -> str:
    return f'"{path}"' if " " in str(path) else str(path)


def read_image(record: ImageRecord) -> NDArray[np.uint8]:
    """Pixels ``[height, width, 3]``, RGB, uint8, as annotated.

    16-bit images keep their upper eight bits: 65535 becomes 255.

    Raises:
        DataError: the file is gone, or not what it was when it was checked; names it.
    """
    try:
        content = picture_bytes(record.path)
        pixels = decode_picture(content, rotate=record.rotate)
    except DataError as error:
        raise DataError(f"{record.path}: {error.what}") from None
    if pixels.shape != (record.height, record.width, 3):
        got = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise DataError(f"{record.path}: expected {record.width} x {record.height} px, got {got}: the file has changed")
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise DataError(f"{record.path}: holds another picture than when it was checked: the file has changed")
    return pixels


def inspect_data(root: Path) -> tuple[Data | None, list[Finding]]:
    """Everything that is wrong with a folder, and its records if nothing is an error.

    Every image is read and decoded in full. Bad content never raises, and no file outside the folder
    is opened.
    """
    report = Report()
    if not root.is_dir():
        report.error("missing folder", str(root), "expected a folder with train and val in it, got none")
        return None, report.findings
    with ThreadPoolExecutor(max_workers=min(THREADS, os.cpu_count() or 1)) as pool:
        read = [found for name in SPLITS if (found := _read_split(root, name, report, pool)) is not None]
    check_categories([found.split for found in read], report)
    check_twins(((found.split.name, *image) for found in read for image in found.images), report)
    for found in read:
        check_balance(found.split, report)
    if report.errors:
        return None, report.findings
    by_name = {found.split.name: found.split for found in read}
    fingerprint = hashlib.sha256("\n".join(digest for found in read for digest in found.digests).encode()).hexdigest()
    data = Data(
        root=root,
        train=by_name["train"],
        val=by_name["val"],
        test=by_name.get("test"),
        fingerprint=fingerprint,
        parts={name: digest for found in read for name, digest in found.parts.items()},
    )
    return data, report.findings


@dataclass(frozen=True, kw_only=True)
class _ReadSplit:
    """A split, the entries that its images came from, and the sha256 of the bytes behind it and each of them."""

    split: Split
    entries: tuple[ImageEntry, ...]
    annotations_sha256: str
    image_sha256: tuple[str, ...]

    @property
    def images(self) -> Iterable[tuple[ImageEntry, str]]:
        return zip(self.entries, self.image_sha256, strict=True)

    @property
    def digests(self) -> tuple[str, ...]:
        return (self.split.name, self.annotations_sha256, *self.image_sha256)

    @property
    def parts(self) -> dict[str, str]:
        """Name of each of the two parts -> its sha256."""
        images_sha256 = hashlib.sha256("\n".join(self.image_sha256).encode()).hexdigest()
        name = self.split.name
        return {f"{name}/annotations.json": self.annotations_sha256, f"{name}/images": images_sha256}


def _read_split(root: Path, name: str, report: Report, pool: Executor) -> _ReadSplit | None:
    folder = root / name
    if not folder.is_dir():
        if name == "test":
            report.warning(
                "missing folder", name, "no such folder: the final detector cannot be tested on unseen parts"
            )
        else:
            report.error(
                "missing folder", name, f"expected {name}/images and {name}/annotations.json, got no such folder"
            )
        return None
    annotations = read_annotations(folder / "annotations.json", name=f"{name}/annotations.json", report=report)
    if not (folder / "images").is_dir():
        report.error("missing folder", f"{name}/images", "expected a folder with the images, got no such folder")
        return None
    if annotations is None:
        return None
    labels = {category.id: label for label, category in enumerate(annotations.categories, start=1)}
    pictures = _pictures(folder / "images", annotations, report, pool)
    entries, records, digests = [], [], []
    for image, path, picture in pictures:
        rotate = _rotation(image, picture, report)
        if rotate is not None:
            records.append(
                _record(image, path, picture.sha256, rotate, annotations.boxes.get(image.image_id, ()), labels)
            )
            entries.append(image)
            digests.append(picture.sha256)
    split = Split(name=name, categories=annotations.categories, images=tuple(records))
    return _ReadSplit(
        split=split, entries=tuple(entries), annotations_sha256=annotations.sha256, image_sha256=tuple(digests)
    )


def _pictures(
    folder: Path, annotations: Annotations, report: Report, pool: Executor
) -> Iterator[tuple[ImageEntry, Path, Picture]]:
    """The images that can be decoded, in the order of the file."""
    names = _listing(folder)
    by_lower_name = {Path(name).name.lower(): name for name in names}
    located: list[tuple[ImageEntry, Path]] = []
    hints = HINTS
    inside = folder.resolve()
    for image in takewhile(lambda _: not report.full, annotations.images):
        path = folder / image.file_name
        problem = _unreachable(path, inside)
        if problem is None:
            located.append((image, path))
            continue
        hint = ""
        if problem == "no such file" and hints > 0:
            hints -= 1
            same = by_lower_name.get(Path(image.file_name).name.lower())
            hint = f"; did you mean '{printable(same)}'?" if same else nearest(image.file_name, names)
        report.error("missing image", image.where, f"{problem}{hint}")
    for (image, path), picture in zip(located, pool.map(_probe, (path for _, path in located)), strict=True):
        if isinstance(picture, Picture):
            yield image, path, picture
        else:
            report.error("unreadable image", image.where, picture)
    unused = sorted(set(names) - {image.file_name for image in annotations.images})
    if unused:
        where, count = f"{folder.parent.name}/images", len(unused)
        message = f"{count} in the folder but not in annotations.json, not used, such as {printable(unused[0])}"
        report.warning("unused images", where, message)


def _listing(folder: Path) -> list[str]:
    """Names of all files below a folder, relative to it, with forward slashes."""
    try:
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    except OSError:
        return []


def _unreachable(path: Path, inside: Path) -> str | None:
    """Why a file cannot be used, or nothing; a link may not lead out of the folder."""
    try:
        if not path.resolve().is_relative_to(inside):
            return "a link that leads out of images/"
        return None if path.is_file() else "no such file"
    except (OSError, ValueError, RuntimeError):  # a name too long, with a zero byte, or a circle of links
        return "not a name that a file can have"


def _probe(path: Path) -> Picture | str:
    """The picture, or why it cannot be read."""
    try:
        return probe_picture(picture_bytes(path))
    except DataError as error:
        return error.what


def _rotation(image: ImageEntry, picture: Picture, report: Report) -> bool | None:
    """Whether the annotations see the picture upright; ``None`` if they see another size altogether."""
    size = (image.width, image.height)
    if size == picture.upright_size:
        return picture.orientation != 1
    if size == (picture.width, picture.height):
        return False
    got = f"{picture.upright_size[0]} x {picture.upright_size[1]}"
    message = f"annotated as {image.width} x {image.height} px, the picture has {got}"
    report.error("wrong size", image.where, message)
    return None


def _record(
    image: ImageEntry, path: Path, sha256: str, rotate: bool, boxes: Sequence[Box], labels: dict[int, int]
) -> ImageRecord:
    return ImageRecord(
        image_id=image.image_id,
        path=path,
        sha256=sha256,
        group=image.file_name if image.group is None else image.group,
        width=image.width,
        height=image.height,
        rotate=rotate,
        boxes=np.array([box.xyxy for box in boxes], dtype=np.float32).reshape(-1, 4),
        labels=np.array([labels[box.category_id] for box in boxes], dtype=np.int64),
        areas=np.array([box.area_px2 for box in boxes], dtype=np.float32),
        crowd=np.array([box.crowd for box in boxes], dtype=np.bool_),
        annotation_ids=np.array([box.annotation_id for box in boxes], dtype=np.int64),
    )
