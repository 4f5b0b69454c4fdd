"""The thread that keeps MLflow up to date with a file that grows: a run's reports, or a search's journal.

It neither delays nor ends the work that it follows: while MLflow cannot be reached it waits, and catches up later.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod

from vqc.errors import UserError

POLL_S = 3.0  # what is new goes to MLflow in one call for each run
LONGEST_PAUSE_S = 60.0
LAST_ATTEMPTS = 4  # after the work has ended,
LAST_PAUSE_S = 2.0  # with this pause between them


class MirrorThread(ABC):
    """Follows the file from ``start`` on; ``error`` says in one sentence why MLflow lacks something."""

    def __init__(self) -> None:
        self.error: str | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow-mirror", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @abstractmethod
    def _poll(self, *, last: bool) -> None:
        """Write what is new; the last time also how the work ended."""

    @abstractmethod
    def _disconnect(self, error: Exception) -> None:
        """``_poll`` raised this: what MLflow holds is no longer certain."""

    def _drain(self, timeout_s: float) -> None:
        """Write what is left; returns after ``timeout_s`` at the latest.

        Where MLflow cannot be reached this gives up after a few attempts.
        """
        self._stopping.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.error = self.error or "MLflow did not answer in time"

    def _follow(self) -> None:
        pause_s, attempts = POLL_S, LAST_ATTEMPTS
        while True:
            last = self._stopping.is_set()  # checked before reading: what was written before the end is read
            try:
                self._poll(last=last)
                self.error, pause_s = None, POLL_S
            except Exception as error:  # noqa: BLE001 (no error here may end the work; it is kept and shown)
                self._disconnect(error)
                self.error = error.what if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            if not last:
                self._stopping.wait(pause_s)
                continue
            attempts -= 1
            if self.error is None or not attempts:
                return
            time.sleep(LAST_PAUSE_S)  # another program may be writing to the same database
