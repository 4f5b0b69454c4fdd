"""The image files of a split: found below its folder, decoded in full, and compared with the annotations."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path

from vqc.data.annotations import ImageEntry
from vqc.data.findings import Report, printable
from vqc.data.image_io import Picture, picture_bytes, probe_picture
from vqc.errors import DataError, nearest

THREADS = 8  # each may hold one picture of the largest size in memory
HINTS = 20  # nearest names per split: each search for one goes through the whole folder


def read_pictures(
    folder: Path, entries: Sequence[ImageEntry], report: Report
) -> Iterator[tuple[ImageEntry, Picture, bool]]:
    """The images in ``folder`` that can be decoded and have the annotated size, in the order of ``entries``.

    The third value says whether the annotations see the picture after EXIF's rotation. Every other image is reported as
    an error, and files that no entry names in one warning.
    """
    names = _listing(folder)
    by_lower_name = {Path(name).name.lower(): name for name in names}
    located: list[tuple[ImageEntry, Path]] = []
    hints, inside = HINTS, _Inside(folder)
    for image in takewhile(lambda _: not report.full, entries):
        path = folder / image.file_name
        problem = inside.unreachable(path)
        if problem is None:
            located.append((image, path))
            continue
        hint = ""
        if problem == "no such file" and hints > 0:
            hints -= 1
            same = by_lower_name.get(Path(image.file_name).name.lower())
            hint = f"; did you mean '{printable(same)}'?" if same else nearest(image.file_name, names)
        report.error("missing image", image.where, f"{problem}{hint}")
    for (image, _), picture in zip(located, probe_files([path for _, path in located]), strict=True):
        if isinstance(picture, str):
            report.error("unreadable image", image.where, picture)
            continue
        try:
            rotate = picture.rotated_in((image.width, image.height))
        except DataError as error:
            report.error("wrong size", image.where, error.what)
        else:
            yield image, picture, rotate
    if unused := sorted(set(names) - {image.file_name for image in entries}):
        message = f"{len(unused)} in the folder but not in annotations.json, not used, such as {printable(unused[0])}"
        report.warning("unused images", f"{folder.parent.name}/images", message)


def probe_files(paths: Sequence[Path]) -> Iterator[Picture | str]:
    """Of each file its picture, or the reason why it cannot be read."""
    with ThreadPoolExecutor(max_workers=min(THREADS, os.cpu_count() or 1)) as pool:
        yield from pool.map(_probe, paths)


def _listing(folder: Path) -> list[str]:
    """Names of all files below a folder, relative to it, with forward slashes."""
    try:
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    except OSError:
        return []


class _Inside:
    """A folder that no link may lead out of. Folders below it are resolved once, however many files they hold."""

    def __init__(self, folder: Path) -> None:
        self._root = folder.resolve()
        self._held: dict[Path, bool] = {}

    def unreachable(self, path: Path) -> str | None:
        """Why a file cannot be used, or None."""
        try:
            if not self._holds(path if path.is_symlink() else path.parent):
                return "a link that leads out of images/"
            return None if path.is_file() else "no such file"
        except (OSError, ValueError, RuntimeError):  # a name too long, with a zero byte, or a circle of links
            return "not a name that a file can have"

    def _holds(self, place: Path) -> bool:
        if place not in self._held:
            self._held[place] = place.resolve().is_relative_to(self._root)
        return self._held[place]


def _probe(path: Path) -> Picture | str:
    try:
        return probe_picture(picture_bytes(path))
    except DataError as error:
        return error.what
