"""Images of one size in one memory-mapped file, shared by all trials, workers and searches on the same data.

The folder of these files may be deleted at any time. A writer holds the folder's lock, which the system releases when
the process dies: so there is one writer, and any other draft was left by a dead one. Readers need no lock: a file gets
its name only when it is complete.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

LIMIT_BYTES = 20 * 2**30  # of all files of a folder together
SPARE_BYTES = 2**30  # left on the disk for checkpoints and reports
LOCK_TIMEOUT_S = 1800.0  # while another process writes; to do the same here would take as long

_log = logging.getLogger(__name__)


def cached_pixels(
    folder: Path,
    name: str,
    *,
    group: str,
    shape: tuple[int, ...],
    produce: Callable[[], Iterable[NDArray[np.uint8]]],
    limit_bytes: int = LIMIT_BYTES,
) -> NDArray[np.uint8] | None:
    """The images of that name, mapped read-only; produced and written first where there are none.

    Where space is short, the least recently used files of other groups are removed; the files of one group are in use
    together. A process that has such a file mapped can still read it (on Windows the file is not removed).

    Args:
        group: a name for all that the pixels depend on, such as the data and the size.
        shape: [n, H, W, 3].
        produce: yields the n images in order, each uint8 [H, W, 3]; its own errors are passed on.

    Returns:
        uint8 of that shape; None, with a warning in the log, where they cannot be cached.
    """
    path = folder / f"{group}-{name}.npy"
    try:
        pixels = _mapped(path, shape)
        if pixels is not None:
            return pixels
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock", timeout=LOCK_TIMEOUT_S):
            pixels = _mapped(path, shape)  # another process may have written it while this one waited
            if pixels is not None:
                return pixels
            _make_room(folder, group, needed_bytes=int(np.prod(shape)), limit_bytes=limit_bytes)
            _write(path, shape, produce())
            return np.lib.format.open_memmap(path, mode="r")  # not np.load, which opens archives and pickles too
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        reason = getattr(error, "strerror", None) or str(error)
        _log.warning("%s: images are not cached but decoded at each access, which is slower: %s", path.parent, reason)
        return None


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The file's pixels; None where there is no file, or it is cut short or of another shape."""
    try:
        pixels = np.lib.format.open_memmap(path, mode="r")
    except (FileNotFoundError, ValueError, EOFError):
        return None
    if pixels.shape != shape or pixels.dtype != np.uint8:
        return None
    with suppress(OSError):  # a read-only folder can be used as well
        os.utime(path)  # the time of its last use
    return pixels


def _make_room(folder: Path, group: str, *, needed_bytes: int, limit_bytes: int) -> None:
    """Remove drafts of dead writers and, as far as needed, files of other groups, the least recently used first.

    Raises:
        OSError: that would not be enough; then only drafts are removed.
    """
    for draft in folder.glob("*.npy.tmp"):
        draft.unlink()

    def free_bytes() -> int:
        used_bytes = sum(path.stat().st_size for path in folder.glob("*.npy"))
        return min(limit_bytes - used_bytes, shutil.disk_usage(folder).free - SPARE_BYTES)

    others = [path for path in folder.glob("*.npy") if not path.name.startswith(f"{group}-")]
    others.sort(key=lambda path: path.stat().st_mtime_ns)
    if free_bytes() + sum(path.stat().st_size for path in others) >= needed_bytes:
        for path in others:
            if free_bytes() >= needed_bytes:
                break
            with suppress(PermissionError):  # Windows: another process has it mapped
                path.unlink()
    if free_bytes() < needed_bytes:
        needed, free = (f"{amount / 2**30:.1f} GB" for amount in (needed_bytes, max(0, free_bytes())))
        raise OSError(errno.ENOSPC, f"{needed} are needed, {free} may be used")


def _write(path: Path, shape: tuple[int, ...], images: Iterable[NDArray[np.uint8]]) -> None:
    """Write a draft, then rename it. On a full disk a plain write raises; a write to a map would kill the process."""
    draft = path.with_name(f"{path.name}.tmp")
    try:
        with draft.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for image in images:
                file.write(image.data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
