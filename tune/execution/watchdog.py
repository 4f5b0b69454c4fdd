"""How long to wait for an epoch before its trial counts as hung: ten times what such epochs usually take, and a margin.

``patience_s`` is a pure function of the table; ``Waits`` counts the seconds, for ``tune.execution.ray_backend``. A
limit that is too short costs a night, one that is too long an hour, so every doubt lengthens it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median_low

from tune.history.journal import Table, Trial
from vqc.config import TrainConfig

__all__ = ["Waits", "patience_s", "usual_s"]

FACTOR = 10.0  # of a usual epoch: other programs, a hot GPU, a trial beside it
MARGIN_S = 600.0  # for what only a first epoch has: imports, images fitted into the cache, cuDNN trying its algorithms
SLOWEST_S = 10.0  # for an image: where no epoch was measured yet, which on a slow CPU may take hours
LONGEST_TURN_S = 1.0


def patience_s(table: Table, trial: Trial) -> float:
    """Seconds to wait for the trial's next epoch."""
    usual = usual_s(table, trial.config)
    images = table.header.data["images"]
    unknown_s = SLOWEST_S * (images["train"] + images["val"])
    return MARGIN_S + (unknown_s if usual is None else FACTOR * usual)


def usual_s(table: Table, config: TrainConfig) -> float | None:
    """Seconds of an epoch: the slowest trial of the same detector, scaled by pixels; None where there is none.

    Only what this sitting measured counts: the one before may have had another GPU. Of each trial the median epoch is
    taken, so that one during which the laptop slept does not lengthen all waits.
    """
    since_ms = table.spans_ms[-1][0]
    pace = [
        median_low(seconds) / math.prod(trial.config.image_size)
        for trial in table.trials.values()
        if trial.config.model == config.model
        and (
            seconds := [
                report.train_s + report.eval_s
                for report in trial.reports
                if report.measured_ms is not None and report.measured_ms >= since_ms
            ]
        )
    ]
    return max(pace) * math.prod(config.image_size) if pace else None


@dataclass(kw_only=True)
class _Wait:
    limit_s: float
    waited_s: float = 0.0


class Waits:
    """How long each trial was waited for, counted in the turns of the loop that waits.

    A turn counts for a second at most. So no clock can be mistaken: while the laptop sleeps, or the search itself is
    stopped or busy, no time goes by.

    Args:
        clock_s: monotonic seconds; replaced in tests.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s, self._turned_s = clock_s, clock_s()
        self._waits: dict[str, _Wait] = {}

    def heard(self, who: str) -> None:
        """It gave a sign of life: the wait begins anew."""
        self._waits.pop(who, None)

    def turn(self, awaited: Iterable[str], limit_s: Callable[[str], float]) -> dict[str, float]:
        """One more turn of the loop; returns who was waited for longer than the limit, and how long that is.

        Args:
            awaited: all who owe a sign of life now.
            limit_s: asked once for each wait, when it begins.
        """
        now_s = self._clock_s()
        passed_s, self._turned_s = min(now_s - self._turned_s, LONGEST_TURN_S), now_s
        before, self._waits = self._waits, {}
        for who in awaited:
            wait = before.get(who) or _Wait(limit_s=limit_s(who))
            wait.waited_s += passed_s
            self._waits[who] = wait
        over = {who: wait.limit_s for who, wait in self._waits.items() if wait.waited_s > wait.limit_s}
        for who in over:
            self.heard(who)  # what is done about it gets as long again
        return over
