"""Waits while results cannot be written: a full disk, one that became read-only, a share that is disconnected.

A search must not end, and no trial may count as failed, because a disk is full for an hour. Called by the controller;
the live display shows ``trouble``.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

PAUSE_S = 5.0
CHUNK_BYTES = 2**20
WAITING = "The search waits until it can write there; Ctrl-C ends it, and nothing is lost."


class InterruptedWaitError(KeyboardInterrupt):
    """The user pressed Ctrl-C while the search waited: it ends at once, as after a second Ctrl-C."""


class DiskRetry:
    """Tries again and again.

    Args:
        given_up: whether to stop waiting; asked several times a second.
        pause_s: between two attempts.
    """

    def __init__(self, given_up: Callable[[], bool], *, pause_s: float = PAUSE_S) -> None:
        self._given_up, self._pause_s = given_up, pause_s
        self.trouble = ""  # a sentence while it waits

    def until_written(self, write: Callable[[], None], folder: Path) -> bool:
        """Call ``write`` until it raises no ``OSError``; returns whether that took more than one attempt.

        Raises:
            InterruptedWaitError: it cannot be written, and ``given_up`` says so.
        """
        waited = False
        try:
            while (error := _attempt(write)) is not None:
                waited = True
                self.trouble = f"{folder}: {error.strerror or error}. {WAITING}"
                self._pause()
        finally:
            self.trouble = ""
        return waited

    def _pause(self) -> None:
        deadline_s = time.monotonic() + self._pause_s
        while time.monotonic() < deadline_s:
            if self._given_up():
                raise InterruptedWaitError
            time.sleep(min(0.2, self._pause_s))


def write_probe(folder: Path, size_bytes: int) -> None:
    """Write and remove a file of this size: free space alone does not show a quota or a read-only folder.

    Raises:
        OSError: there is no room for it, or nothing can be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < size_bytes:  # so as not to fill up what little others may still need
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    probe = folder / ".probe.tmp"
    try:
        with probe.open("wb") as file:
            for at in range(0, size_bytes, CHUNK_BYTES):
                file.write(bytes(min(CHUNK_BYTES, size_bytes - at)))
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)


def _attempt(write: Callable[[], None]) -> OSError | None:
    try:
        write()
    except OSError as error:
        return error
    return None
