"""The C heap while a run trains: what one step frees, the next step gets without asking the system.

Called by ``vqc.training.loop``. By default glibc gives every big block back to the system when it is freed; a training
step on the CPU frees and asks for hundreds of them, and each comes back as pages that the system must clear first. And
a step goes through so many pages of 4 KB that looking them up takes time: Linux is asked for large ones. Only glibc is
told here; elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["freed_memory_kept"]

# Of mallopt, in glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
DEFAULT_THRESHOLD_BYTES = 128 * 1024
KEPT_BYTES = 2**30
LARGE_PAGES = 14  # of madvise, in Linux's mman.h: MADV_HUGEPAGE


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within it the process keeps what it frees; at its end all that is free goes back to the system."""
    libc = _glibc()
    if libc is None:
        yield
        return
    _set_thresholds(libc, KEPT_BYTES)
    _grow(libc, KEPT_BYTES // 2)
    try:
        yield
    finally:
        _set_thresholds(libc, DEFAULT_THRESHOLD_BYTES)
        libc.malloc_trim(0)


def _set_thresholds(libc: ctypes.CDLL, size_bytes: int) -> None:
    for threshold in (TRIM_THRESHOLD, MMAP_THRESHOLD):
        libc.mallopt(threshold, size_bytes)


def _grow(libc: ctypes.CDLL, size_bytes: int) -> None:
    """Make the heap so large at once, of large pages. None of it is memory before something is written to it."""
    block = libc.malloc(size_bytes)
    if block:
        start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        libc.madvise(start, (block + size_bytes - start) // mmap.PAGESIZE * mmap.PAGESIZE, LARGE_PAGES)
        libc.free(block)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process where it is glibc."""
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no name for the process itself
        return None
    if not hasattr(libc, "gnu_get_libc_version"):
        return None
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc
