"""A folder into which a camera or a transfer writes photographs: each is inspected once, also across restarts.

The folder is polled, which works on every system and on network drives. A file is read when neither its size nor its
time has changed for a while; one that another program keeps locked, as on Windows, is tried again. A file is known by
its bytes and its time of modification: renamed or moved inside the folder it is the same, and not inspected again.

Exactly once: the id of the inspection is written to the disk before the inspection begins. After a crash the history is
asked whether it has that id; if not, the file is inspected under the same id.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from vqc.data.image_io import PICTURE_SUFFIXES
from vqc.errors import ConfigError
from vqc.files import open_database, read_at_most
from vqc.serving.history import NoSuchInspectionError, StorageFullError
from vqc.serving.server import NoPhotographError, Serving
from vqc.serving.work_queue import DrainingError, QueueFullError

FILE = "watched.sqlite"
SETTLED_S = 2.0  # unchanged for so long, a file is complete
POLL_S = 1.0

_TABLE = """
create table if not exists watched_files (
    sha256 text not null, mtime_ns integer not null, size_bytes integer not null, name text not null,
    inspection_id text not null, done integer not null default 0, primary key (sha256, mtime_ns)
) strict;
create index if not exists watched_names on watched_files (name, size_bytes, mtime_ns);
"""

_log = logging.getLogger(__name__)
Stamp = tuple[int, int]  # size in bytes, time of modification in ns


class Inspect(Protocol):
    """Inspect one photograph under the given id, and keep it in the history before returning.

    False: not now, because there is too much to do; it is asked again.
    """

    def __call__(self, content: bytes, *, name: str, inspection_id: str) -> bool: ...


class WatchedFolder:
    """The photographs of a folder and of the folders below it.

    Args:
        folder: to look into.
        file: SQLite file of what was inspected.
        inspect: see ``Inspect``.
        known: whether the history has an inspection of that id.
        new_id: makes one.
        most_bytes: of a photograph; a larger file is reported once in the log and left alone.
    """

    def __init__(
        self,
        folder: Path,
        file: Path,
        *,
        inspect: Inspect,
        known: Callable[[str], bool],
        new_id: Callable[[], str],
        most_bytes: int,
    ) -> None:
        self._folder, self._inspect, self._known, self._new_id = folder, inspect, known, new_id
        self._most_bytes = most_bytes
        self._seen: dict[str, tuple[Stamp, float]] = {}  # name -> how it is, and since when
        self._finished: dict[str, Stamp] = {}  # of this process: spares the table
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watched folder", daemon=True)
        self._database = open_database(file)
        self._database.executescript(_TABLE)

    def start(self) -> None:
        """Poll in a thread until ``close``."""
        self._thread.start()

    def close(self) -> None:
        """Finish the file that is being inspected, and stop."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._database.close()

    def poll(self, *, now_s: float) -> int:
        """Inspect what is complete, the oldest first; how many files were inspected.

        ``now_s`` is of a clock that never goes back.
        """
        seen = {}
        for name, stamp in _files(self._folder):
            before = self._seen.get(name)
            seen[name] = before if before is not None and before[0] == stamp else (stamp, now_s)
        self._seen = seen
        self._finished = {name: stamp for name, stamp in self._finished.items() if name in seen}
        complete = [
            (stamp, name)
            for name, (stamp, since_s) in seen.items()
            if now_s - since_s >= SETTLED_S and self._finished.get(name) != stamp
        ]
        count = 0
        for stamp, name in sorted(complete, key=lambda pair: (pair[0][1], pair[1])):
            if self._stop.is_set():
                break
            count += self._handle(name, stamp)
        return count

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            try:
                self.poll(now_s=time.monotonic())
            except (OSError, sqlite3.Error) as error:  # such as a full disk: no file is taken for inspected
                _log.warning("%s: %s; tried again", self._folder, error)

    def _handle(self, name: str, stamp: Stamp) -> bool:
        """Inspect a file unless it was; whether it was inspected now."""
        size_bytes, mtime_ns = stamp
        query = "select 1 from watched_files where name = ? and size_bytes = ? and mtime_ns = ? and done"
        if self._database.execute(query, (name, size_bytes, mtime_ns)).fetchone():
            self._finished[name] = stamp
            return False
        path = self._folder / name
        try:
            content = read_at_most(path, self._most_bytes)
            if _stamp(path.stat()) != stamp:
                return False  # it is still being written
        except OSError:
            return False  # gone, renamed, or locked by the program that writes it
        if content is None:
            _log.warning("%s: larger than %.0f MB, not inspected", path, self._most_bytes / 2**20)
            self._finished[name] = stamp
            return False
        return self._once(name, stamp, content)

    def _once(self, name: str, stamp: Stamp, content: bytes) -> bool:
        size_bytes, mtime_ns = stamp
        key = hashlib.sha256(content).hexdigest(), mtime_ns
        self._database.execute(
            "insert into watched_files (sha256, mtime_ns, size_bytes, name, inspection_id) values (?, ?, ?, ?, ?) "
            "on conflict do update set name = excluded.name",
            (*key, size_bytes, name, self._new_id()),
        )
        inspection_id, done = self._database.execute(
            "select inspection_id, done from watched_files where sha256 = ? and mtime_ns = ?", key
        ).fetchone()
        new = not done and not self._known(inspection_id)
        if new and not self._inspect(content, name=name, inspection_id=inspection_id):
            return False
        self._database.execute("update watched_files set done = 1 where sha256 = ? and mtime_ns = ?", key)
        self._finished[name] = stamp
        return new


def _files(folder: Path) -> Iterator[tuple[str, Stamp]]:
    """Photographs by their suffix, without links and hidden files; the name is relative, with forward slashes."""
    for place, folders, names in os.walk(folder):  # does not follow links to folders
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith(".") or not name.lower().endswith(PICTURE_SUFFIXES):
                continue
            path = Path(place, name)
            try:
                if not path.is_symlink():
                    yield path.relative_to(folder).as_posix(), _stamp(path.stat())
            except OSError:  # renamed or removed since it was listed
                continue


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_size, found.st_mtime_ns


def attach_watched_folder(serving: Serving) -> None:
    """Inspect what appears in the folder of the settings, if there is one.

    Raises:
        ConfigError: there is no such folder.
    """
    settings = serving.settings
    if settings.watch is None:
        return
    if not settings.watch.is_dir():
        raise ConfigError("--watch", [f"{settings.watch}: no such folder"])

    def inspect(content: bytes, *, name: str, inspection_id: str) -> bool:
        try:
            with serving.work_queue.place():
                serving.inspect(content, source="watched_folder", name=name, new_id=inspection_id)
        except NoPhotographError as error:
            _log.warning("%s: %s, not inspected", settings.watch and settings.watch / name, error)
        except (QueueFullError, DrainingError, StorageFullError):
            return False
        return True

    def known(inspection_id: str) -> bool:
        try:
            return serving.history.get(inspection_id) is not None
        except NoSuchInspectionError:
            return False

    watched = WatchedFolder(
        settings.watch,
        settings.store / FILE,
        inspect=inspect,
        known=known,
        new_id=serving.history.new_id,
        most_bytes=settings.max_body_bytes,
    )
    serving.sources.append(watched.close)
    watched.start()
