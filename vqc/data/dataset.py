"""A folder of annotated photographs -> validated records.

The layout is ``root/{train,val,test}/{images/,annotations.json}``; ``test`` may be missing. Importing this module
imports neither torch nor Pillow nor OpenCV.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqc.data.annotations import Category, read_annotations
from vqc.data.defect_size import Defects, DetectorInput, check_defect_size
from vqc.data.duplicates import Photo, check_equal_files, check_groups, check_look_alikes
from vqc.data.findings import Finding, Report, printable
from vqc.data.image_files import read_pictures
from vqc.data.image_io import DecodedPicture, decode_to_fit, picture_bytes, upright
from vqc.data.validation import check_balance, check_categories, check_category_names, check_repeated_boxes
from vqc.errors import DataError
from vqc.shell import quoted

SPLITS = ("train", "val", "test")
SHOWN_ERRORS = 10


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
        crowd: ``[n]`` bool, COCO's iscrowd: a region of many objects, ignored in scoring.
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

    @property
    def defective(self) -> bool:
        """Whether there is anything to find: at least one box that is not a crowd."""
        return bool((~self.crowd).any())


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Images of one purpose; the categories are sorted by id and equal in all splits.

    ``defective`` and ``good`` count images with and without a defect, ``boxes`` boxes; none of them counts crowds.
    """

    name: str
    categories: tuple[Category, ...]
    images: tuple[ImageRecord, ...]

    @property
    def defective(self) -> int:
        return sum(image.defective for image in self.images)

    @property
    def good(self) -> int:
        return len(self.images) - self.defective

    @cached_property
    def boxes_per_category(self) -> dict[str, int]:
        """Category name -> boxes, crowds not counted."""
        counts = Counter(int(label) for image in self.images for label in image.labels[~image.crowd])
        return {category.name: counts[label] for label, category in enumerate(self.categories, start=1)}

    @property
    def boxes(self) -> int:
        return sum(self.boxes_per_category.values())


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """All splits of one folder.

    Attributes:
        test: None where the folder has no such split.
        fingerprint: sha256, in hex, over all annotations and image bytes.
        parts: the same for each part by its name, such as ``train/annotations.json`` and ``train/images``, to see which
            one has changed.
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
        """Those that exist, in the order train, val, test."""
        return tuple(split for split in (self.train, self.val, self.test) if split is not None)

    @cached_property
    def defects(self) -> Defects:
        """The sizes of all defects, without the crowd regions."""
        images = [image for split in self.splits for image in split.images]
        boxes = [image.boxes[~image.crowd] for image in images]
        sizes = np.array([(image.width, image.height) for image in images], np.float32)
        return Defects(
            sides_px=np.concatenate([some[:, 2:] - some[:, :2] for some in boxes]),
            photographs_px=np.repeat(sizes, [len(some) for some in boxes], axis=0),
        )

    def split(self, name: str) -> Split:
        """The split of that name.

        Raises:
            DataError: the folder has none of that name.
        """
        splits = {split.name: split for split in self.splits}
        if name not in splits:
            raise DataError(f"{self.root}: no split '{name}'; it has {', '.join(splits)}")
        return splits[name]

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
    """As ``load_with_warnings``, the data alone: nothing is looked for that only a warning would tell."""
    return load_with_warnings(root, compare=False)[0]


def load_with_warnings(
    root: Path, *, inputs: Sequence[DetectorInput] = (), compare: bool = True
) -> tuple[Data, list[Finding]]:
    """Data that training can rely on, and the warnings about it; ``inputs`` and ``compare`` as for ``check_data``.

    Raises:
        DataError: no such folder, or it holds errors; their number and the first ten.
    """
    data, findings = check_data(root, inputs=inputs, compare=compare)
    if data is None:
        raise data_error(root, findings, command=f"vqc check --data {quoted(root)}")
    return data, findings


def data_error(root: Path, findings: Sequence[Finding], *, command: str | None = None) -> DataError:
    """How many errors there are, and the first ten; ``command`` is the next one to type."""
    errors = [finding for finding in findings if finding.severity == "error"]
    lines = [f"{root}: {len(errors)} {'error' if len(errors) == 1 else 'errors'} in the data"]
    lines += [f"  - {error}" for error in errors[:SHOWN_ERRORS]]
    lines += [f"  and {len(errors) - SHOWN_ERRORS} more"] if len(errors) > SHOWN_ERRORS else []
    return DataError("\n".join(lines), command=command)


def check_data(
    root: Path, *, inputs: Sequence[DetectorInput] = (), compare: bool = True
) -> tuple[Data | None, list[Finding]]:
    """Everything that is wrong with a folder, and its records if nothing is an error.

    Every image is read and decoded in full. Bad content never raises, and no file outside the folder is opened.

    Args:
        inputs: of detectors, at which defects should not be too small.
        compare: whether to look for photographs of one part, a second or two for each thousand.

    Raises:
        DataError: no such folder, or one that is not split.
    """
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "no such folder"
        expected = "expected a folder with train/images, train/annotations.json and the same for val"
        raise DataError(f"{root}: {problem}; {expected}", command="vqc sample --out data")
    if (root / "images").is_dir() and not (root / SPLITS[0]).exists():
        command = f"vqc split --data {quoted(root)} --out {quoted(root.with_name(f'{root.resolve().name}-split'))}"
        raise DataError(f"{root}: not split into train, val and test", command=command)
    report = Report()
    found = [read for name in SPLITS if (read := read_split(root, name, report)) is not None]
    splits = [split for split, _, _ in found]
    photos = [photo for _, some, _ in found for photo in some]
    check_categories({split.name: split.categories for split in splits}, report)
    check_category_names(splits[0].categories if splits else (), report)
    check_equal_files(photos, report)
    for split in splits:
        check_balance(split.name, split.good, split.defective, split.boxes_per_category, report=report)
    if report.errors:
        return None, report.findings
    if compare:
        check_groups(photos, report)
        check_look_alikes(photos, report)
    if report.errors:
        return None, report.findings
    data = _data(root, {split: sha256 for split, _, sha256 in found})
    names = [category.name for category in data.categories]
    for split in data.splits:
        for image in split.images:
            place = f"{split.name}, {printable(image.path.name)}"
            check_repeated_boxes(place, image.boxes[~image.crowd], image.labels[~image.crowd], names, report)
    for where in inputs:
        check_defect_size(data.defects, where, report)
    return data, report.findings


def read_image(record: ImageRecord) -> NDArray[np.uint8]:
    """Pixels ``[height, width, 3]``, RGB, uint8, as annotated.

    16-bit images keep their upper eight bits: 65535 becomes 255.

    Raises:
        DataError: the file is missing, or has changed since it was checked; names it.
    """
    return read_to_fit(record, None).pixels


def read_to_fit(record: ImageRecord, size: tuple[int, int] | None) -> DecodedPicture:
    """As ``read_image``, for pixels that are used only to be fitted into ``size``; see ``decode_to_fit``."""
    try:
        content = picture_bytes(record.path)
        decoded = decode_to_fit(content, size, rotate=record.rotate)
    except DataError as error:
        raise DataError(f"{record.path}: {error.what}") from None
    if decoded.size != (record.width, record.height):
        got = f"{decoded.width} x {decoded.height}"
        raise DataError(f"{record.path}: expected {record.width} x {record.height} px, got {got}: the file has changed")
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise DataError(f"{record.path}: holds another picture than when it was checked: the file has changed")
    return decoded


def _data(root: Path, splits: Mapping[Split, str]) -> Data:
    """The data of these splits, each with the sha256 of its annotations."""
    lines: list[str] = []
    parts: dict[str, str] = {}
    for split, sha256 in splits.items():
        hashes = [image.sha256 for image in split.images]
        lines += [split.name, sha256, *hashes]
        parts |= {f"{split.name}/annotations.json": sha256, f"{split.name}/images": _sha256(hashes)}
    train, val, *test = splits
    return Data(
        root=root, train=train, val=val, test=test[0] if test else None, fingerprint=_sha256(lines), parts=parts
    )


def _sha256(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_split(root: Path, name: str, report: Report) -> tuple[Split, list[Photo], str] | None:
    """The split, its photographs as ``vqc.data.duplicates`` compares them, and the sha256 of its annotations.

    Args:
        name: of the split; empty where ``root`` itself holds ``images/`` and ``annotations.json``.
    """
    folder = root / name
    where = PurePosixPath(name, "annotations.json").as_posix()
    if not folder.is_dir():
        if name == "test":
            report.warning(
                "missing folder", name, "no such folder: the final detector cannot be tested on unseen parts"
            )
        else:
            expected = f"expected {name}/images and {name}/annotations.json, got no such folder"
            report.error("missing folder", name, expected)
        return None
    annotations = read_annotations(folder / "annotations.json", name=where, report=report)
    if not (folder / "images").is_dir():
        report.error(
            "missing folder",
            PurePosixPath(name, "images").as_posix(),
            "expected a folder with the images, got no such folder",
        )
        return None
    if annotations is None:
        return None
    labels = {category.id: label for label, category in enumerate(annotations.categories, start=1)}
    records, photos = [], []
    for image, picture, rotate in read_pictures(folder / "images", annotations.images, report):
        boxes = annotations.boxes.get(image.image_id, ())
        record = ImageRecord(
            image_id=image.image_id,
            path=folder / "images" / image.file_name,
            sha256=picture.sha256,
            group=image.file_name if image.group is None else image.group,
            width=image.width,
            height=image.height,
            rotate=rotate,
            boxes=np.array([box.xyxy for box in boxes], dtype=np.float32).reshape(-1, 4),
            labels=np.array([labels[box.category_id] for box in boxes], dtype=np.int64),
            areas=np.array([box.area_px2 for box in boxes], dtype=np.float32),
            crowd=np.array([box.crowd for box in boxes], dtype=np.bool_),
        )
        records.append(record)
        thumbnail = upright(picture.thumbnail, picture.orientation if rotate else 1)
        photos.append(
            Photo(split=name, image=image, path=record.path, sha256=record.sha256, rotate=rotate, thumbnail=thumbnail)
        )
    split = Split(name=name, categories=annotations.categories, images=tuple(records))
    return split, photos, annotations.sha256
