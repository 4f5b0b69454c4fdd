"""Files and folders that are never half written, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal
from uuid import uuid4

from vqc.errors import DataError


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, renamed to ``path`` at the end of the block; if the block raises, nothing is left.

    Raises:
        DataError: there is something of that name, and it is not an empty folder.
    """
    path = path.absolute()
    _check_empty(path)
    draft = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    draft.mkdir(parents=True)
    try:
        yield draft
        if path.is_dir():
            path.rmdir()  # empty, see above; Windows does not rename over a folder
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def make_empty_folder(path: Path) -> None:
    """Make a folder for what is written bit by bit; raises as ``new_folder``."""
    _check_empty(path)
    path.mkdir(parents=True, exist_ok=True)


def _check_empty(path: Path) -> None:
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise DataError(f"{path}: holds something already, expected a new or empty folder")


def link_or_copy(source: Path, target: Path) -> None:
    """A second name of the same file where the file system can, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)  # not the link, if it is one
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A draft to write, which is on the disk and replaces ``path`` at the end of the block, also after a crash; if the
    block raises, ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        yield draft
        with draft.open("r+b") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it has either its new or its old content, also after a crash."""
    with new_file(path) as draft:
        draft.write_bytes(content)


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically, dataclasses as objects; a number that is not finite is an error."""
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False, default=asdict) + "\n").encode())


def read_at_most(path: Path, most_bytes: int) -> bytes | None:
    """The content of a file; None where it is longer than that, or of unknown length, such as a pipe."""
    if path.is_fifo():
        return None  # to open it would wait for whoever writes into it
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size  # reading most_bytes would take that much memory at once
        content = file.read(size + 1) if size <= most_bytes else b""
    return content if len(content) == size else None


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class LineFile(AbstractContextManager["LineFile"]):
    """An append-only file; each line is on the disk before ``append`` returns.

    A last line that was cut short by a crash is removed when the file is opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self._file.truncate(sum(len(line) + 1 for line in whole_lines(path)))

    def append(self, line: str) -> None:
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __exit__(self, *_: object) -> None:
        self._file.close()


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file, without a last one that was cut short; none where there is no file."""
    if not path.exists():
        return []
    return path.read_bytes().split(b"\n")[:-1]  # not splitlines: a stray carriage return ends no line


def open_database(path: Path, *, autocommit: bool = True) -> sqlite3.Connection:
    """A SQLite file that several threads may share; what is committed survives a power cut.

    ``autocommit``: each statement is committed by itself; else ``with`` the connection is a transaction.
    """
    isolation: Literal["DEFERRED"] | None = None if autocommit else "DEFERRED"
    database = sqlite3.connect(path, check_same_thread=False, isolation_level=isolation, timeout=30)
    database.execute("pragma journal_mode = wal")
    database.execute("pragma synchronous = full")
    return database
