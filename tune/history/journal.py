"""The journal of a search: an append-only file of events, one JSON object a line.

Each line is fsynced before anyone acts on it. The controller is the only writer; proposals, stops, the terminal,
MLflow, the report and the promotion are functions of what is read here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import from_json

from tune.history.events import EVENT, Event
from tune.history.table import Table
from tune.history.version_1 import Upgrade
from vqc.errors import SearchError
from vqc.files import write_atomically


class Journal:
    """The writer. One process holds it; each event is on the disk before ``append`` returns, or none of it is.

    A last line that a crash left half written is taken back when the journal is opened: ``torn_bytes`` of it.
    A journal that somebody deleted or moved away while it is open is written again, as a whole, by the next ``append``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _opened(path)
        content = path.read_bytes()
        self._length = _whole_bytes(content)
        self.torn_bytes = len(content) - self._length
        self._file.truncate(self._length)

    def append(self, event: Event) -> None:
        """Write one event.

        Raises:
            OSError: it cannot be written, such as on a full disk; it may be tried again.
        """
        if not self.path.exists():
            self._restore()
        line = event.model_dump_json().encode() + b"\n"
        self._file.truncate(self._length)  # what an attempt that failed has left
        rest = line
        while rest:
            rest = rest[self._file.write(rest) :]  # where the disk fills up a part is written, and then none
        os.fsync(self._file.fileno())
        self._length += len(line)

    def close(self) -> None:
        self._file.close()

    def _restore(self) -> None:
        self._file.seek(0)
        write_atomically(self.path, self._file.read(self._length) or b"")
        self._file.close()
        self._file = _opened(self.path)


class Follower:
    """A reader that remembers how far it has read; each ``poll`` costs what is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.upgrade: Upgrade | None = None  # of a journal that version 1 wrote
        self._offset = 0
        self._line = 0

    def poll(self) -> Iterator[Event]:
        """Events written since the last call; a line still being written, or torn at the end, waits for the next one.

        Raises:
            SearchError: a line before the end is not an event (someone edited the file, or the disk lost it).
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                fresh = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise SearchError(f"{self.path}: cannot be read: {error.strerror or error}") from None
        *whole, _unfinished = fresh.split(b"\n")  # not splitlines: a stray carriage return ends no event
        if whole and _torn(whole[-1]):
            whole.pop()
        for line in whole:
            self._offset += len(line) + 1
            self._line += 1
            event = self._parse(line)
            if event is not None:
                yield event

    def _parse(self, line: bytes) -> Event | None:
        if self._line == 1 and Upgrade.is_needed(line):
            self.upgrade = Upgrade()
        try:
            if self.upgrade is not None:
                return self.upgrade.event(line)
            return EVENT.validate_json(line)
        except ValidationError as error:
            reason = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise SearchError(f"{self.path}, line {self._line}: not an event of this journal ({reason})") from None


def read_table(path: Path) -> Table:
    """The table of a journal.

    Raises:
        SearchError: there is none, it is empty, or a line is broken.
    """
    return table_of(Follower(path).poll(), path)


def table_of(events: Iterable[Event], path: Path = Path("journal.jsonl")) -> Table:
    table = Table()
    for event in events:
        table.apply(event)
    if table.started is None:
        raise SearchError(f"{path}: no search was begun here", command="python tune/search.py --trials 30")
    return table


def now_ms() -> int:
    """The wall clock in Unix milliseconds."""
    return time.time_ns() // 1_000_000


def _opened(path: Path) -> FileIO:
    """Unbuffered, or what could not be written would be written later, unasked."""
    return path.open("a+b", buffering=0)


def _whole_bytes(content: bytes) -> int:
    """Length of a journal up to and with its last line that was not torn."""
    lines = content.split(b"\n")[:-1]
    return sum(len(line) + 1 for line in (lines[:-1] if lines and _torn(lines[-1]) else lines))


def _torn(line: bytes) -> bool:
    """No JSON object, such as a power cut leaves: a file may have grown before its content was on the disk.

    An object that is no event is no torn line: another version wrote it, or a person, and it is not ours to remove.
    """
    try:
        return not isinstance(from_json(line), dict)
    except ValueError:
        return True
