"""Files and folders that exist whole or as they were before."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from vqc.errors import DataError


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into that bears the name ``path`` once the block is through; if it raises, nothing is left.

    Raises:
        DataError: there is something of that name already, and it is not an empty folder.
    """
    path = path.absolute()
    _check_empty(path)
    draft = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    draft.mkdir(parents=True)
    try:
        yield draft
        if path.is_dir():
            path.rmdir()  # empty, as was asked above; Windows does not rename over a folder
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def make_empty_folder(path: Path) -> None:
    """Make a folder for what is written bit by bit.

    Raises:
        DataError: there is something of that name already, and it is not an empty folder.
    """
    _check_empty(path)
    path.mkdir(parents=True, exist_ok=True)


def _check_empty(path: Path) -> None:
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise DataError(f"{path}: holds something already, expected a new or empty folder")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it exists whole or as it was before: draft, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_at_most(path: Path, most_bytes: int) -> bytes | None:
    """What a file holds; None where that is more than so many bytes, or no end of it can be seen."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size  # not a read of the most: that much memory would be taken at once
        content = file.read(size + 1) if size <= most_bytes else b""
    return content if len(content) == size else None


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
