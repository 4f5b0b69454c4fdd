"""The history of inspections: a table in SQLite, the photographs as files beside it.

An inspection is there once its row is committed; its photograph is on the disk before. A photograph without a row is
what a crash left over and is removed at the next start. SQLite runs in WAL mode with ``synchronous=FULL``, so that a
commit survives a power cut.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vqc.errors import DataError, VqcError
from vqc.files import open_database, write_atomically
from vqc.serving.inspection import Inspection, InspectionPage, Review

DATABASE = "history.sqlite"
LOCK = "history.lock"
PHOTOGRAPHS = "photographs"
VERSION = 1
SUFFIXES = {
    "image/bmp": ".bmp", "image/jpeg": ".jpg", "image/png": ".png", "image/tiff": ".tif", "image/webp": ".webp",
    "image/x-portable-anymap": ".ppm",
}  # fmt: skip
REMOVED_AT_ONCE = 100
LOG = logging.getLogger(__name__)
SCHEMA = f"""
CREATE TABLE inspections (
  id TEXT PRIMARY KEY,
  verdict TEXT NOT NULL,
  reviewed INTEGER NOT NULL,
  revision INTEGER NOT NULL,  -- of the review
  bytes INTEGER NOT NULL,     -- of the photograph
  record TEXT NOT NULL        -- the Inspection as JSON
);
CREATE INDEX by_verdict ON inspections (verdict, id);
CREATE INDEX by_reviewed ON inspections (reviewed, id);
PRAGMA user_version = {VERSION};
"""


class NoSuchInspectionError(VqcError):
    """It never was there, or it is so old that it was removed."""


class StaleReviewError(VqcError):
    """Somebody else has reviewed it meanwhile."""


class StorageFullError(VqcError):
    """There is no room on the disk; nothing was recorded."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is kept; beyond that the oldest inspections are removed, those without a review first."""

    inspections: int
    bytes: int


class History:
    """May be used from several threads."""

    def __init__(self, folder: Path, *, limits: Limits) -> None:
        """Open the history, or begin one.

        Raises:
            DataError: the folder cannot be written, holds a history of another version, or is another server's.
        """
        self._photographs = folder / PHOTOGRAPHS
        self._limits = limits
        self._lock = threading.Lock()
        self._owner = FileLock(folder / LOCK, timeout=0, thread_local=False)
        try:
            self._photographs.mkdir(parents=True, exist_ok=True)
            self._owner.acquire()
            self._database = _opened(folder / DATABASE)
        except Timeout:
            raise DataError(f"{folder}: another server writes there; serve into another --store") from None
        except (OSError, sqlite3.Error) as error:
            self._owner.release()
            raise DataError(f"{folder}: the history cannot be opened: {error}") from None
        self._count, self._bytes = self._database.execute(
            "SELECT count(*), coalesce(sum(bytes), 0) FROM inspections"
        ).fetchone()
        newest = self._database.execute("SELECT max(id) FROM inspections").fetchone()[0]
        self._last_us = int(newest[:13], 16) if newest else 0
        self._remove_leftovers()

    def new_id(self) -> str:
        """A name that sorts after all earlier ones, even if the clock was set back."""
        with self._lock:
            self._last_us = max(self._last_us + 1, time.time_ns() // 1000)
            return f"{self._last_us:013x}{secrets.token_hex(5)}"

    def photograph(self, id_: str, media_type: str) -> Path:
        """Where a photograph is kept: in a folder for each day."""
        day = datetime.fromtimestamp(int(id_[:13], 16) / 1e6, timezone.utc).strftime("%Y-%m-%d")
        return self._photographs / day / f"{id_}{SUFFIXES[media_type]}"

    def store_photograph(self, id_: str, media_type: str, data: bytes) -> None:
        """Write a photograph; it is on the disk when this returns.

        Raises:
            StorageFullError: there is no room; nothing is left of it.
        """
        path = self.photograph(id_, media_type)
        with room_needed(self._photographs):
            is_new_day = not path.parent.exists()
            write_atomically(path, data)
            _sync_folder(path.parent)
            if is_new_day:
                _sync_folder(self._photographs)

    def forget_photograph(self, id_: str, media_type: str) -> None:
        """Remove a photograph that has no record."""
        self.photograph(id_, media_type).unlink(missing_ok=True)

    def add(self, inspection: Inspection) -> str:
        """Record an inspection whose photograph is stored; it is on the disk when this returns, as the JSON returned.

        Raises:
            StorageFullError: there is no room; nothing was recorded.
        """
        size = inspection.image.bytes
        text = inspection.model_dump_json()
        row = (inspection.id, inspection.verdict, 0, 0, size, text)
        with self._lock:
            with room_needed(self._photographs), self._database:
                self._database.execute("INSERT INTO inspections VALUES (?, ?, ?, ?, ?, ?)", row)
            self._count, self._bytes = self._count + 1, self._bytes + size
        try:
            self._remove_oldest()
        except (OSError, sqlite3.Error):  # what was recorded stays recorded
            LOG.exception("old inspections could not be removed")
        return text

    def get(self, id_: str) -> Inspection:
        """One inspection; ``NoSuchInspectionError`` where there is none."""
        with self._lock:
            row = self._database.execute("SELECT record FROM inspections WHERE id = ?", (id_,)).fetchone()
        if row is None:
            raise NoSuchInspectionError(f"there is no inspection {id_:.40}")
        return Inspection.model_validate_json(row[0])

    def page(
        self, *, before: str | None = None, limit: int = 50, verdict: str | None = None, reviewed: bool | None = None
    ) -> InspectionPage:
        """The newest inspections, or those older than ``before``."""
        wanted: list[tuple[str, Any]] = [
            ("id < ?", before),
            ("verdict = ?", verdict),
            ("reviewed = ?", None if reviewed is None else int(reviewed)),
        ]
        given = [(condition, value) for condition, value in wanted if value is not None]
        where = " AND ".join(["1", *(condition for condition, _ in given)])
        query = f"SELECT record FROM inspections WHERE {where} ORDER BY id DESC LIMIT ?"
        with self._lock:
            rows = self._database.execute(query, [*(value for _, value in given), limit + 1]).fetchall()
        items = tuple(Inspection.model_validate_json(record) for (record,) in rows[:limit])
        return InspectionPage(items=items, next_cursor=items[-1].id if len(rows) > limit else None)

    def reviewed(self) -> Iterator[Inspection]:
        """All that were reviewed, oldest first."""
        before = ""
        while True:
            with self._lock:
                rows = self._database.execute(
                    "SELECT record FROM inspections WHERE reviewed = 1 AND id > ? ORDER BY id LIMIT 200", (before,)
                ).fetchall()
            if not rows:
                return
            for (record,) in rows:
                inspection = Inspection.model_validate_json(record)
                before = inspection.id
                yield inspection

    def review(self, id_: str, review: Review, *, etag: str) -> Inspection:
        """Record an operator's word on the state of the inspection that has this etag.

        Raises:
            NoSuchInspectionError: there is none.
            StaleReviewError: it has another etag by now.
            StorageFullError: there is no room.
        """
        with self._lock, room_needed(self._photographs), self._database:
            row = self._database.execute("SELECT record, revision FROM inspections WHERE id = ?", (id_,)).fetchone()
            if row is None:
                raise NoSuchInspectionError(f"there is no inspection {id_:.40}")
            inspection, revision = Inspection.model_validate_json(row[0]), row[1] + 1
            if inspection.etag != etag:
                raise StaleReviewError("it was reviewed meanwhile; read it again")
            inspection = inspection.model_copy(update={"review": review, "etag": first_etag(id_, revision)})
            self._database.execute(
                "UPDATE inspections SET record = ?, reviewed = 1, revision = ? WHERE id = ?",
                (inspection.model_dump_json(), revision, id_),
            )
        return inspection

    def _remove_leftovers(self) -> None:
        """Remove photographs without a row, and drafts, which a crash left."""
        known = {id_ for (id_,) in self._database.execute("SELECT id FROM inspections")}
        for folder, _, names in os.walk(self._photographs):
            for name in names:
                if name.partition(".")[0] not in known:
                    Path(folder, name).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the database; its write-ahead log is merged into it."""
        with self._lock:
            self._database.close()
        self._owner.release()

    def _remove_oldest(self) -> None:
        """Remove what is beyond the limits: first the rows, then the files, so that no row is without its file."""
        with self._lock:
            count, size = self._count, self._bytes
            if count <= self._limits.inspections and size <= self._limits.bytes:
                return
            rows = self._database.execute(
                "SELECT bytes, record FROM inspections ORDER BY reviewed, id LIMIT ?",
                (min(REMOVED_AT_ONCE, count - 1),),
            ).fetchall()
            gone: list[Inspection] = []
            for bytes_, record in rows:
                if count <= self._limits.inspections and size <= self._limits.bytes:
                    break
                gone.append(Inspection.model_validate_json(record))
                count, size = count - 1, size - bytes_
            with self._database:
                self._database.executemany("DELETE FROM inspections WHERE id = ?", [(one.id,) for one in gone])
            self._count, self._bytes = count, size
        for one in gone:
            self.forget_photograph(one.id, one.image.media_type)


def first_etag(id_: str, revision: int = 0) -> str:
    """The etag of a state of a review."""
    return f"{id_}-{revision}"


def _opened(path: Path) -> sqlite3.Connection:
    database = open_database(path, autocommit=False)
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        database.executescript(f"BEGIN;{SCHEMA}COMMIT;")
    elif version != VERSION:
        raise DataError(f"{path}: is of version {version}, expected {VERSION}; serve into another --store")
    return database


@contextmanager
def room_needed(folder: Path) -> Iterator[None]:
    """Within it, an error that means a full disk is a ``StorageFullError``."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFullError(f"there is no room left on the disk of {folder}") from None
    except sqlite3.OperationalError as error:
        if "full" not in str(error) and "disk I/O" not in str(error):
            raise
        raise StorageFullError(f"there is no room left on the disk of {folder}") from None


def _sync_folder(folder: Path) -> None:
    """A file's name is on the disk only when its folder is; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
