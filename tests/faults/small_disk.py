"""A disk of a few megabytes to fill up, to set read-only, to free again."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["SmallDisk", "small_disk"]


class SmallDisk:
    """A mounted file system of limited size.

    Args:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Write until only so much is free, although others write too."""
        with self._ballast.open("ab", buffering=0) as file:
            for _ in range(100):
                try:
                    size_bytes = self._ballast.stat().st_size + self.free_bytes - leave_bytes
                    os.posix_fallocate(file.fileno(), 0, size_bytes)
                except OSError as error:
                    if error.errno != errno.ENOSPC:  # else somebody took some in between
                        raise
                else:
                    return
        raise TimeoutError(f"{self.folder} could not be filled: others write too much")

    def empty(self) -> None:
        """Give back what ``fill`` took."""
        self._ballast.unlink()

    @property
    def free_bytes(self) -> int:
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def set_read_only(self, read_only: bool) -> None:
        _run("mount", "-o", f"remount,{'ro' if read_only else 'rw'}", str(self.folder))


@contextmanager
def small_disk(folder: Path, *, size_mb: float) -> Iterator[SmallDisk]:
    """Mount a disk; skips the test where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={int(size_mb * 1024)}k", "none", str(folder))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs Linux and root")
    try:
        yield SmallDisk(folder)
    finally:
        _run("umount", "--lazy", str(folder))


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
