"""The C heap while a run trains: what one step frees, the next step gets without asking the system.

Called by ``vqc.train``. By default glibc gives every big block back to the system when it is freed; a training step on
the CPU frees and asks for hundreds of them, and each comes back as pages that the system must clear first. Only glibc
is told here; elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["freed_memory_kept"]

# Of mallopt, in glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
DEFAULT_THRESHOLD_BYTES = 128 * 1024
KEPT_BYTES = 2**30


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within it the process keeps what it frees; at its end all that is free goes back to the system."""
    libc = _glibc()
    if libc is None:
        yield
        return
    _set_thresholds(libc, KEPT_BYTES)
    try:
        yield
    finally:
        _set_thresholds(libc, DEFAULT_THRESHOLD_BYTES)
        libc.malloc_trim(0)


def _set_thresholds(libc: ctypes.CDLL, size_bytes: int) -> None:
    for threshold in (TRIM_THRESHOLD, MMAP_THRESHOLD):
        libc.mallopt(threshold, size_bytes)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process where it is glibc."""
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no name for the process itself
        return None
    return libc if hasattr(libc, "gnu_get_libc_version") else None
