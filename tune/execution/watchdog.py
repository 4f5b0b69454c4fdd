"""Workers that hang or are lost: how long to wait for an epoch, and one sentence on why a worker is gone.

``epoch_limit_s`` is a pure function of the table. ``Watchdog`` counts the seconds awake for ``ray_backend``, whose Ray
calls in; it knows Ray's trials and imports nothing of Ray. A limit that is too short costs a night, one that is too
long an hour, so every doubt lengthens it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median_low
from typing import Any

from tune.execution.outcomes import WorkerLost
from tune.history.table import Table, Trial
from tune.history.workload import epoch_px, views_of_epoch
from vqc.config import TrainConfig

FACTOR = 10.0  # of a usual epoch: other programs, a hot GPU, a trial beside it
MARGIN_S = 600.0  # for what only a first epoch has: imports, images fitted into the cache, cuDNN trying its algorithms
SLOWEST_S = 10.0  # for an image: where no epoch was measured yet, which on a slow CPU may take hours
MEMORY_MONITOR = re.compile(r"was (?P<used>\S+) used / (?P<limit>\S+) limit")  # Ray's, when it ends a worker


def epoch_limit_s(table: Table, trial: Trial) -> float:
    """Seconds to wait for the trial's next epoch."""
    usual_s = usual_epoch_s(table, trial.config)
    unknown_s = SLOWEST_S * sum(views_of_epoch(table.header.data, trial.config.tile_px))
    return MARGIN_S + (unknown_s if usual_s is None else FACTOR * usual_s)


def usual_epoch_s(table: Table, config: TrainConfig) -> float | None:
    """Seconds of an epoch: the slowest trial of the same detector, scaled by the pixels; None where there is none.

    Only what this session measured counts: the one before may have had another GPU. Of each trial the median epoch is
    taken, so that one during which the laptop slept does not lengthen all limits.
    """
    pace = [
        median_low(seconds) / _epoch_px(table, trial.config)
        for trial in table.trials.values()
        if trial.config.model == config.model
        and (
            seconds := [
                report.train_s + report.eval_s
                for report, end_s in zip(trial.reports, trial.epoch_ends_s, strict=True)
                if end_s >= table.session_started_s
            ]
        )
    ]
    return max(pace) * _epoch_px(table, config) if pace else None


def _epoch_px(table: Table, config: TrainConfig) -> float:
    return epoch_px(table.header.data, image_size=config.image_size, tile_px=config.tile_px)


class Watchdog:
    """Ends the worker of a trial that hangs; Ray then reports the loss as of any other.

    Ray's own side of a worker answers whatever its Python does, and where the whole process is stopped, the node's
    side kills it from outside.

    Args:
        limit_s: of a Ray trial, how long to wait for its next epoch; asked once for each wait, when it begins.
        kill: ends a worker.
        refused: the name of the error by which a worker refuses a trial.
        clock_s: seconds awake.
    """

    def __init__(
        self,
        limit_s: Callable[[Any], float],
        kill: Callable[[Any], None],
        *,
        refused: str,
        clock_s: Callable[[], float],
    ) -> None:
        self._limit_s, self._kill, self._refused, self._clock_s = limit_s, kill, refused, clock_s
        self._waits: dict[str, tuple[float, float]] = {}  # since when, and how long
        self._started: set[str] = set()
        self._hung: dict[str, str] = {}

    def started(self, trial: Any) -> None:
        """A worker took the trial."""
        self._started.add(trial.trial_id)
        self.reported(trial)

    def reported(self, trial: Any) -> None:
        """The trial's worker gave a sign of life: the wait begins anew."""
        self._waits.pop(trial.trial_id, None)

    def check(self, trials: Iterable[Any]) -> None:
        """To be called several times a second, with all of Ray's trials."""
        now_s, before = self._clock_s(), self._waits
        self._waits = {}
        for trial in trials:
            worker = trial.temporary_state.ray_actor
            if worker is None:
                continue
            since_s, limit_s = before.get(trial.trial_id) or (now_s, self._limit_s(trial))
            if now_s - since_s > limit_s:
                self._hung[trial.trial_id] = f"no epoch within {limit_s:.0f} s: the worker hung"
                self._kill(worker)
                continue  # what Ray does about it gets as long again
            self._waits[trial.trial_id] = since_s, limit_s

    def lost(self, trial: Any) -> WorkerLost:
        """Why the trial's worker is gone; to be asked while Ray still holds it."""
        file = Path(trial.error_file or "")  # Ray's own text; on a full disk there may be none
        message = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        reason, out_of_memory = _reason(message, refused=self._refused)
        between = trial.trial_id not in self._started and trial.temporary_state.ray_actor is not None
        return WorkerLost(
            reason=self._hung.pop(trial.trial_id, reason),
            out_of_memory=out_of_memory,
            before_trial=between or self._refused in message,
        )


def _reason(message: str, *, refused: str) -> tuple[str, bool]:
    """One sentence of what Ray says of a lost worker, and whether it was the machine's memory that ran out."""
    monitor = MEMORY_MONITOR.search(message)
    if monitor is not None:
        return f"the machine's memory ran out: {monitor['used']} of {monitor['limit']} were in use", True
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    last = lines[-1] if lines else "the worker was lost"
    return last.partition(f"{refused}: ")[2] or last, False
