"""Files of lines that are never half a line, whatever happens while one is written."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType


class LineFile:
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

    def __enter__(self) -> LineFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file, less a last one without its end; none where there is no file."""
    if not path.exists():
        return []
    return path.read_bytes().split(b"\n")[:-1]  # not splitlines: a stray carriage return ends no line
