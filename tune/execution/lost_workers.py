"""Workers that are lost: those that hang are ended, and what Ray says of an end becomes a sentence of the journal's.

Made by ``tune.execution.ray_backend``, whose Ray calls in; knows Ray's trials and imports nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune.execution.watchdog import Waits

__all__ = ["Loss", "Watch"]

ENDED_BY_RAY = re.compile(r"was (?P<used>\S+) used / (?P<limit>\S+) limit")  # by its memory monitor


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Why a worker was lost.

    ``innocent``: a reused worker was lost before it took the trial, which then had no part in it.
    """

    reason: str
    out_of_memory: bool
    innocent: bool


class Watch:
    """Ends the worker of a trial that hangs; Ray then tells of the loss as of any other.

    Ray's own side of a worker answers whatever its Python does, and where the whole process is stopped, the node's
    side kills it from outside.

    Args:
        limit_s: of a trial's number, how long to wait for its next epoch.
        end: kills a worker.
        spent: the name of the error by which a worker refuses a trial.
    """

    def __init__(self, limit_s: Callable[[Any], float], end: Callable[[Any], None], *, spent: str) -> None:
        self._limit_s, self._end, self._spent = limit_s, end, spent
        self._waits = Waits()
        self._started: set[str] = set()
        self._hung: dict[str, str] = {}

    def started(self, trial: Any) -> None:
        """A worker took the trial."""
        self._started.add(trial.trial_id)
        self.heard(trial)

    def heard(self, trial: Any) -> None:
        """The trial's worker gave a sign of life."""
        self._waits.heard(trial.trial_id)

    def turn(self, trials: Iterable[Any]) -> None:
        """One more turn of Ray's loop, ten a second while nothing happens."""
        awaited = {trial.trial_id: trial for trial in trials if trial.temporary_state.ray_actor is not None}
        for who, limit_s in self._waits.turn(awaited, lambda who: self._limit_s(awaited[who])).items():
            self._hung[who] = f"no epoch within {limit_s:.0f} s: the worker hung"
            self._end(awaited[who].temporary_state.ray_actor)

    def lost(self, trial: Any) -> Loss:
        """What became of the trial's worker; to be asked while Ray still holds it."""
        file = Path(trial.error_file or "")  # Ray's own text; on a full disk there may be none
        message = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        reason, out_of_memory = _reason(message, spent=self._spent)
        between = trial.trial_id not in self._started and trial.temporary_state.ray_actor is not None
        return Loss(
            reason=self._hung.pop(trial.trial_id, reason),
            out_of_memory=out_of_memory,
            innocent=between or self._spent in message,
        )


def _reason(message: str, *, spent: str) -> tuple[str, bool]:
    """One sentence of what Ray says of a lost worker, and whether it was memory that ran out."""
    monitor = ENDED_BY_RAY.search(message)
    if monitor is not None:
        return f"the machine's memory ran out: {monitor['used']} of {monitor['limit']} were in use", True
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    last = lines[-1] if lines else "the worker was lost"
    return last.partition(f"{spent}: ")[2] or last, False
