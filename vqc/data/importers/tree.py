"""The files of a source: listed once, and found by the names that annotations give them.

A name from an annotation file is only ever looked up in this list, so it cannot lead out of the folder.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from vqc.data.annotations import MOST_LETTERS
from vqc.data.findings import printable
from vqc.data.image_io import PICTURE_SUFFIXES
from vqc.errors import DataError
from vqc.files import read_at_most

LOCAL_FILE = "/data/local-files/?d="  # in front of a name that Label Studio took from a folder of its server
MASKS = {"SegmentationClass", "SegmentationObject"}  # Pascal VOC's folders of pictures that are no photographs
MOST_FILES = 500_000
END_BYTES = 2**16
INDEXED = 3  # last parts of a path by which pictures are looked up: many folders may hold a picture of one name
SPLIT_NAME = re.compile(r"(?:obj_)?(train|val|test)(?:ing|id|idation)?(?:\d{4}|_data)?")


class Tree:
    """All files below ``root``, without hidden ones and links that lead out.

    Attributes:
        files: relative to the root, with forward slashes, sorted; no devices and no pipes.
        pictures: those of them that can be photographs, by their suffix.
        ambiguous: pictures that were asked for by a name which others share.
        outside: links that lead out of the root; they are not among the files.
        only: the one annotation file to read, where the user named a file and not a folder.

    Raises:
        DataError: no such folder, or more than ``MOST_FILES`` files.
    """

    def __init__(self, source: Path) -> None:
        self.root = source.parent if source.is_file() else source
        self.only = source.name if source.is_file() else None
        if not self.root.is_dir():
            raise DataError(f"{source}: no such file or folder; expected the folder of an export")
        inside, found = self.root.resolve(), list[str]()
        self.outside: list[str] = []
        for folder, folders, names in os.walk(self.root):  # does not follow links to folders
            folders[:] = [name for name in folders if not _hidden(name)]
            for name in names:
                path = Path(folder) / name
                if _hidden(name):
                    continue
                below = path.relative_to(self.root).as_posix()
                if path.is_symlink() and not _leads_to_a_file(path, inside):
                    self.outside.append(below)
                elif path.is_file():
                    found.append(below)
            if len(found) > MOST_FILES:
                raise DataError(f"{self.root}: more than {MOST_FILES:,} files; expected the folder of one export")
        self.files = sorted(found)
        pictures = [file for file in self.files if file.lower().endswith(PICTURE_SUFFIXES)]
        self.pictures = [file for file in pictures if not MASKS & set(PurePosixPath(file).parts)]
        self.ambiguous: set[str] = set()

    def documents(self, *suffixes: str) -> list[str]:
        """Files of one of these suffixes that may hold annotations."""
        return [file for file in self.files if file.lower().endswith(suffixes) and self.only in (None, file)]

    def where(self, file: str) -> str:
        """A file as messages name it."""
        return f"{self.root / printable(file)}"

    def content(self, file: str, most_bytes: int) -> bytes:
        """What a file holds.

        Raises:
            ValueError: it is longer than that, or cannot be read.
        """
        try:
            content = read_at_most(self.root / file, most_bytes)
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror or error}") from None
        if content is None:
            raise ValueError(f"larger than {most_bytes / 2**20:.2g} MB")
        return content

    def text(self, file: str, most_bytes: int) -> str:
        """As ``content``, decoded from UTF-8; raises also where it is not."""
        try:
            return self.content(file, most_bytes).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError("not UTF-8") from None

    def lines(self, file: str, most_bytes: int) -> list[str]:
        """As ``text``: the lines that are not empty, without spaces around them; raises the same."""
        return [line.strip() for line in self.text(file, most_bytes).split("\n") if line.strip()]

    def ends(self, file: str) -> bytes:
        """The first and last bytes of a file, enough to tell what it is; nothing where it cannot be read."""
        try:
            with (self.root / file).open("rb") as stream:
                head = stream.read(END_BYTES)
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - END_BYTES))
                return head + stream.read(END_BYTES)
        except OSError:
            return b""

    def picture(self, name: str, beside: str, split: str | None = None) -> str:
        """The picture that an annotation file means.

        A plain relative name must be the end of the picture's own path. Of an absolute path, an address or one with
        ``..``, which tools keep from the machine that wrote it, as many last parts are compared as fit. Of several
        pictures it is the one nearest to the annotation file, of the same split.

        Args:
            name: as annotated; slashes of any kind.
            beside: the annotation file.
            split: of the annotations; pictures of another one are not meant.

        Raises:
            ValueError: there is none, or several.
        """
        local = LOCAL_FILE in name
        plain = name.rpartition(LOCAL_FILE)[2] if local else name
        plain = (unquote(plain) if local or "://" in name else plain)[:MOST_LETTERS].replace("\\", "/")
        given = PurePosixPath(plain).parts
        parts = tuple(part for part in given if part not in ("..", "/") and not part.endswith(":"))
        foreign = local or parts != given or bool(PureWindowsPath(plain).drive)
        parts = tuple(map(_composed, parts))
        scores: dict[tuple[int, bool, int, bool], list[str]] = defaultdict(list)
        for file in self._ending(parts, shorter=foreign):
            own, its_split = PurePosixPath(_composed(file)).parts, split_of(file)
            equal = _shared(own[::-1], parts[::-1])
            if (equal == len(parts) or foreign) and (not split or its_split in (None, split)):
                nearness = _shared(own, PurePosixPath(beside).parts)
                scores[equal, its_split == split, nearness, own[-1] == parts[-1]].append(file)
        if not scores:
            raise ValueError("no such picture")
        best = scores[max(scores)]
        if len(best) > 1:
            self.ambiguous.update(best)
            raise ValueError("several pictures of that name")
        return best[0]

    def picture_of(self, name: str, document: str, split: str | None) -> str:
        """As ``picture``, for a document of one picture: that which is named as the document, else that of the name.

        Who renames both keeps the old name inside, and that may be another picture's by now.

        Raises:
            ValueError: there is none, or several.
        """
        stem = PurePosixPath(document).stem
        own = [stem + suffix for suffix in PICTURE_SUFFIXES]
        same = PurePosixPath(name.replace("\\", "/")).stem == stem
        for other in [name, *own] if same else [*own, name]:
            with suppress(ValueError):
                return self.picture(other, document, split)
        return self.picture(name, document, split)

    def _ending(self, parts: Sequence[str], *, shorter: bool) -> Sequence[str]:
        """Pictures whose last parts are the last of these, or ``shorter`` where there is none, but for capitals."""
        most = min(len(parts), INDEXED)
        ends = ["/".join(parts[-count:]).lower() for count in range(most, 0, -1)]
        return next((found for end in ends[: None if shorter else 1] if (found := self._by_end.get(end))), [])

    @cached_property
    def _by_end(self) -> dict[str, list[str]]:
        """The last part of a picture's path, the last two and so on, in small letters -> pictures."""
        found: dict[str, list[str]] = {}
        for file in self.pictures:
            parts = PurePosixPath(_composed(file)).parts
            for count in range(1, min(len(parts), INDEXED) + 1):
                found.setdefault("/".join(parts[-count:]).lower(), []).append(file)
        return found


def split_of(file: str) -> str | None:
    """train, val or test, by the first folder of that name in any of its spellings; None without one."""
    return next(filter(None, map(split_named, PurePosixPath(file).parts[:-1])), None)


def split_named(name: str) -> str | None:
    """The split that a folder's name stands for: 'valid', 'val2017' or 'obj_Valid_data' is val."""
    found = SPLIT_NAME.fullmatch(name.lower())
    return found[1] if found else None


def _composed(name: str) -> str:
    """The name with each accented letter as one: macOS writes them as two in the names of files."""
    return unicodedata.normalize("NFC", name)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _leads_to_a_file(link: Path, inside: Path) -> bool:
    try:
        target = link.resolve()
        return target.is_relative_to(inside) and target.is_file()
    except (OSError, RuntimeError):  # a circle of links
        return False


def _shared(some: Sequence[str], others: Sequence[str]) -> int:
    """How many first parts are equal, but for capitals."""
    pairs = zip(some, others, strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a.lower() != b.lower()), min(len(some), len(others)))
