"""Journal -> does a trial go on, wait, or stop? Asynchronous successive halving (ASHA) with promotion; pure.

A trial waits at each rung (a share of the epochs). Whenever a rung has seen nine more trials, the best of those that
wait there goes on; when nothing new is to come, the best third does (Li et al., "A System for Massively Parallel
Hyperparameter Tuning", section 3.2). Epochs go into new configurations first and into proving the best ones last:
measured, that finds as good a configuration with a third of the epochs. One that is as good as the best completed trial
was there goes on at once: it should not have to queue. Only the best few that wait are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tune.journal import Table, Trial
from tune.settings import SearchSettings

__all__ = ["FACTOR_AT_THE_END", "Verdict", "asha", "hopeless", "judged_epochs", "rung_epochs", "to_resume", "verdict"]

TOO_EARLY = 3  # epochs; on recorded curves the first says nothing of the last, the third ranks them at 0.7
EARLY = 2  # times the start-up's trials are early ones
FACTOR = 9  # of the trials that reach a rung, one in so many goes on while new ones are proposed,
FACTOR_AT_THE_END = 3  # and one in so many when all were
KEPT = 6  # trials that wait at a rung; what is behind them gives its place on the disk back
BROKEN = ("failed", "infeasible")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a trial does after an epoch, and why."""

    action: Literal["go on", "stop", "pause"]
    reason: str = ""


GO_ON = Verdict(action="go on")


def rung_epochs(settings: SearchSettings) -> list[int]:
    """The epochs after which a trial may wait; rising, each below ``num_epochs``.

    The first is half of the one that follows and for early trials only, see ``_waits``. None comes before the third
    epoch, or the first quarter of a short training: what an epoch or two show is noise.
    """
    regular = _regular_rungs(settings)
    low = math.ceil(regular[0] / 2) if regular else 0
    return [low, *regular] if low >= TOO_EARLY and low not in regular else regular


def _regular_rungs(settings: SearchSettings) -> list[int]:
    epochs = settings.train.num_epochs
    return sorted({max(_earliest(settings), math.ceil(share * epochs)) for share in settings.rungs} - {epochs})


def _earliest(settings: SearchSettings) -> int:
    return max(1, min(TOO_EARLY, settings.train.num_epochs // 4))


def _waits(trial: Trial, rung: int, settings: SearchSettings) -> bool:
    """Early trials wait at each rung: they tell good regions from bad. Later ones differ too little."""
    return rung in _regular_rungs(settings) or trial.number <= EARLY * settings.startup_trials


def judged_epochs(settings: SearchSettings) -> frozenset[int] | None:
    """The epochs after which a verdict may not be "go on"; None: any."""
    return None if settings.policy == "stock" else frozenset(rung_epochs(settings))


def verdict(table: Table, trial: Trial, settings: SearchSettings) -> Verdict:
    """What the trial does after its latest epoch: at a rung it waits, unless it is the one that would go on at once."""
    if settings.policy == "random":
        return GO_ON
    if settings.policy == "stock":
        return asha(table, trial, settings, grace=3, factor=3)
    rungs = _regular_rungs(settings)[:1] if settings.policy == "i-epoch" else rung_epochs(settings)
    if trial.epochs not in rungs or not _waits(trial, trial.epochs, settings):
        return GO_ON
    value = _value(trial, trial.epochs, settings)
    if value is None:
        return Verdict(action="stop", reason=f"no {settings.metric} at epoch {trial.epochs}")
    if settings.policy == "race" and _earned(table, settings, arrived=trial) is trial:
        return GO_ON
    return Verdict(action="pause", reason=f"{settings.metric} {value:.3f} at epoch {trial.epochs}")


def to_resume(table: Table, settings: SearchSettings) -> Trial | None:
    """The paused trial that has earned its next epochs, if any."""
    if settings.policy == "race":
        return _earned(table, settings) or _default_at_the_end(table, settings)
    return _best_at_the_end(table, settings) if settings.policy == "i-epoch" else None


def hopeless(table: Table, settings: SearchSettings) -> list[Trial]:
    """Paused trials that will not be resumed: at their rung, as many as a promotion chooses from were better.

    The default is kept: it is trained in full at the end.
    """
    if settings.policy != "race":
        return []
    behind = [trial for rung in rung_epochs(settings) for trial in _best_first(_waiting(table, rung), settings)[KEPT:]]
    return [trial for trial in behind if trial.number != 1]


def _earned(table: Table, settings: SearchSettings, *, arrived: Trial | None = None) -> Trial | None:
    """The best that waits, at the highest rung where it has earned more; ``arrived`` waits there from now on.

    It has if it is as good as the best completed trial was there, or if the rung has a place to give: the last rungs at
    the end are given one at least.
    """
    completed = [trial for trial in table.searched if trial.state == "completed"]
    champion = next(iter(_best_first(completed, settings)), None)
    at_the_end = len(table.searched) >= settings.trials
    for rung in reversed(rung_epochs(settings)):
        reached = [
            trial
            for trial in table.searched
            if trial.epochs >= rung and trial.state not in BROKEN and _waits(trial, rung, settings)
        ]
        waiting = [trial for trial in reached if trial.epochs == rung and (trial.state == "paused" or trial is arrived)]
        if not waiting:
            continue
        best = _best_first(waiting, settings)[0]
        passed = sum(trial.epochs > rung or (trial.state == "running" and trial is not arrived) for trial in reached)
        due = max(1, len(reached) // FACTOR_AT_THE_END) if at_the_end else len(reached) // FACTOR
        record = champion and best.values(settings.metric)[-1] >= champion.values(settings.metric)[rung - 1]
        if record or passed < due:
            return best
    return None


def _default_at_the_end(table: Table, settings: SearchSettings) -> Trial | None:
    """Once all was tried, the default is trained in full: every other result is compared with it."""
    default = table.trials.get(1)
    ended = len(table.searched) >= settings.trials
    return default if ended and default is not None and default.state == "paused" else None


def _waiting(table: Table, rung: int) -> list[Trial]:
    return [trial for trial in table.searched if trial.epochs == rung and trial.state == "paused"]


def _best_first(trials: Iterable[Trial], settings: SearchSettings) -> list[Trial]:
    """By their latest value; equal ones in the order of proposal."""
    return sorted(trials, key=lambda trial: (-trial.values(settings.metric)[-1], trial.number))


def _best_at_the_end(table: Table, settings: SearchSettings) -> Trial | None:
    """Once all trials were tried briefly, the best that waits, until ``keep_leaders`` were trained in full."""
    paused = [trial for trial in table.searched if trial.state == "paused"]
    begun = sum(trial.state == "completed" or trial.state == "running" for trial in table.searched)
    if len(table.searched) < settings.trials or begun >= settings.keep_leaders:
        return None
    return next(iter(_best_first(paused, settings)), None)


def asha(table: Table, trial: Trial, settings: SearchSettings, *, grace: int, factor: int) -> Verdict:
    """Ray's ``AsyncHyperBandScheduler`` with one bracket: a trial below the cutoff of those before it stops.

    The rungs are ``grace * factor**k`` epochs; the cutoff is the upper ``1 / factor`` quantile.
    """
    import numpy as np

    epoch, most = trial.epochs, settings.train.num_epochs
    rungs = [grace * factor**k for k in range(int(math.log(most / grace) / math.log(factor) + 1))]
    others = [
        _value(other, epoch, settings) for other in table.searched if other is not trial and other.epochs >= epoch
    ]
    known = [value for value in others if value is not None]
    if epoch not in rungs or not known:
        return GO_ON
    cutoff = float(np.percentile(known, (1 - 1 / factor) * 100))
    value = _value(trial, epoch, settings)
    if value is not None and value >= cutoff:
        return GO_ON
    return Verdict(action="stop", reason=f"{settings.metric} {value or 0:.3f} at epoch {epoch}, below {cutoff:.3f}")


def _value(trial: Trial, epoch: int, settings: SearchSettings) -> float | None:
    """The metric at an epoch; None where there is none or it is not a number."""
    value: float | None = getattr(trial.reports[epoch - 1].scores, settings.metric)
    return None if value is None or math.isnan(value) else value
