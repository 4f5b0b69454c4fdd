"""Ray's own processes on this machine: whether those are alive without which nothing goes on, and that none stays.

Called by ``tune.execution.ray_backend``; imports nothing of Ray.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

VITAL = ("raylet", "gcs_server")  # without which nothing goes on
WINDOWS: Any = getattr(getattr(ctypes, "windll", None), "kernel32", None)  # None elsewhere
LEAVE_S = 0.5  # that processes have to go after they were told to


class RayLostError(BaseException):
    """Ends Ray Tune's loop at once: to clean up for an ordinary error, it would ask the Ray that is gone."""


class VitalProcesses:
    """Those of Ray's that this process has started by now; none where it joined a cluster."""

    def __init__(self) -> None:
        found = {Path(child.name()).stem: child for child in psutil.Process().children(recursive=True)}
        self._processes = {name: found[name] for name in VITAL if name in found}

    @property
    def ended(self) -> str | None:
        """The name of one that is gone, if any is."""
        return next((name for name, process in self._processes.items() if _has_ended(process)), None)


@contextlib.contextmanager
def started_deaf_to_ctrl_c(kernel32: Any = WINDOWS) -> Iterator[None]:
    """What is started within it, and all that it starts, never gets Ctrl-C; this process does again after it.

    Windows sends Ctrl-C to each process of a console, so to Ray's too, and the running epoch would be lost. That a
    process ignores it is handed down to its children (``SetConsoleCtrlHandler`` without a handler, in Microsoft's
    documentation). Elsewhere Ray starts its processes in sessions of their own.
    """
    if kernel32 is None:
        yield
        return
    kernel32.SetConsoleCtrlHandler(None, True)
    try:
        yield
    finally:
        kernel32.SetConsoleCtrlHandler(None, False)


@contextlib.contextmanager
def none_left_behind() -> Iterator[None]:
    """What runs below this process when the block begins has ended soon after it, by itself or by force."""
    started = psutil.Process().children(recursive=True)
    try:
        yield
    finally:
        _, left = psutil.wait_procs(started, timeout=LEAVE_S)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
