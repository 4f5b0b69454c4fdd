"""The photographs to look at: a folder's, or those that a COCO file lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vqc.data.annotations import read_annotations
from vqc.data.findings import Report
from vqc.data.image_io import PICTURE_SUFFIXES, DecodedPicture, decode_to_fit, picture_bytes, probe_picture
from vqc.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """One picture to look at."""

    image_id: int  # of the COCO file, or its position in the sorted folder, from 1
    path: Path
    file_name: str  # relative to the folder, with forward slashes
    annotated_size: tuple[int, int] | None = None  # width and height in pixels that a COCO file gives it


def find_photographs(images: Path, *, annotations: Path | None = None) -> list[Photograph]:
    """One picture, or all below a folder in the order of their names.

    With ``annotations``, a COCO file whose images lie in that folder: those that it lists, in its order, with its ids.

    Raises:
        DataError: nothing there to look at, or the COCO file has errors: an image may not be left out unnoticed.
    """
    if annotations is not None:
        return _listed(images, annotations)
    if images.is_file():
        return [Photograph(image_id=1, path=images, file_name=images.name)]
    if not images.is_dir():
        raise DataError(f"{images}: no such file or folder, expected a photograph or a folder of photographs")
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"{images}: no photograph in it, expected files ending in {', '.join(PICTURE_SUFFIXES)}")
    return [
        Photograph(image_id=number, path=path, file_name=path.relative_to(images).as_posix())
        for number, path in enumerate(paths, start=1)
    ]


def _listed(images: Path, annotations: Path) -> list[Photograph]:
    report = Report()
    found = read_annotations(annotations, name=str(annotations), report=report)
    if report.errors:
        more = f" (and {len(report.errors) - 1} more errors)" if len(report.errors) > 1 else ""
        raise DataError(f"{report.errors[0]}{more}")
    if found is None or not found.images:
        raise DataError(f"{annotations}: it lists no images")
    return [
        Photograph(image_id=entry.image_id, path=images / entry.file_name, file_name=entry.file_name,
                   annotated_size=(entry.width, entry.height))
        for entry in found.images
    ]  # fmt: skip


def read_photograph(photograph: Photograph, *, fit: tuple[int, int] | None = None) -> DecodedPicture:
    """The picture, upright or as the COCO file sees it; to be fitted into ``fit`` (height, width) if that is given.

    Raises:
        DataError: missing, broken, or of another size than annotated; names no file.
    """
    data = picture_bytes(photograph.path)
    annotated = photograph.annotated_size
    return decode_to_fit(data, fit, rotate=annotated is None or probe_picture(data).rotated_in(annotated))
