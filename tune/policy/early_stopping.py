"""Journal -> does a trial go on, wait, or stop? Asynchronous successive halving (ASHA) with promotion; pure.

A trial waits at each rung (a share of the epochs). The first few dozen are compared with one another: whenever a rung
has seen nine more, the best of those that wait there goes on (Li et al., "A System for Massively Parallel
Hyperparameter Tuning", section 3.2), and one that is as good as the best completed trial was there goes on at once.
Where the others have found nothing, as detectors from random weights in their first epochs, nobody waits. Later ones,
and all that wait once everything was tried, are compared with the best that was completed: the likeliest to become
better goes on, as long as that is likely enough (``tune.policy.learning_curves``). So epochs go into many
configurations first and into proving the best ones last, and one that starts slowly is not lost. Only the best few that
wait are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tune.history.table import Table, Trial
from tune.policy.learning_curves import outlooks
from tune.settings import SearchSettings

__all__ = [
    "Verdict",
    "all_tried",
    "asha",
    "default_to_complete",
    "hopeless",
    "judged_epochs",
    "rung_epochs",
    "to_resume",
    "verdict",
]

TOO_EARLY = 3  # epochs; on recorded curves the first says nothing of the last, the third ranks them at 0.7
LEAST = 0.005  # half a point: a detector that has found less at a rung has shown nothing yet
EARLY = 2  # times the start-up's trials are early ones
FACTOR = 9  # of the trials that reach a rung, one in so many goes on,
EXPLORED = 4  # until so many times the start-up's trials were proposed,
EXPLORED_OPENED = 2  # or so many where earlier searches said what to begin with;
LIKELY = 0.1  # from there on each that has this chance of becoming the best
PROVEN = 3  # trials that are completed in any case by the end
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
        return Verdict(action="stop", reason=f"no {settings.metric.upper()} at epoch {trial.epochs}")
    if settings.policy == "race" and (
        _nothing_to_compare_with(table, trial, settings) or _earned(table, settings, arrived=trial) is trial
    ):
        return GO_ON
    return Verdict(action="pause", reason=f"{settings.metric.upper()} {value:.3f} at epoch {trial.epochs}")


def _nothing_to_compare_with(table: Table, arrived: Trial, settings: SearchSettings) -> bool:
    """Whether others came to this rung and had found nothing there: then it is chance who is ahead."""
    others = [trial for trial in table.searched if trial.epochs >= arrived.epochs and trial is not arrived]
    return bool(others) and not any(_shows(trial, arrived.epochs, settings) for trial in others)


def _shows(trial: Trial, rung: int, settings: SearchSettings) -> bool:
    return trial.epochs >= rung and trial.values(settings.metric)[rung - 1] >= LEAST


def to_resume(table: Table, settings: SearchSettings) -> Trial | None:
    """The paused trial that has earned its next epochs, if any."""
    if settings.policy == "race":
        return _earned(table, settings) or (default_to_complete(table) if all_tried(table, settings) else None)
    return _best_at_the_end(table, settings) if settings.policy == "i-epoch" else None


def hopeless(table: Table, settings: SearchSettings) -> list[Trial]:
    """Paused trials that will not be resumed: at their rung there are enough that may reach more.

    The default is kept: it is trained in full at the end.
    """
    if settings.policy != "race":
        return []
    behind = [trial for rung in rung_epochs(settings) for trial in _promising(table, rung, settings)[KEPT:]]
    return [trial for trial in behind if trial.number != 1]


def _promising(table: Table, rung: int, settings: SearchSettings) -> list[Trial]:
    """The trials that wait at a rung, those that may reach most first; equal ones in the order of proposal."""
    waiting = _waiting(table, rung)
    found = outlooks(waiting, _completed(table), settings)
    reach = {number: outlook.mean + outlook.deviation for number, outlook in found.items()}
    return sorted(waiting, key=lambda trial: (-reach[trial.number], trial.number))


def _earned(table: Table, settings: SearchSettings, *, arrived: Trial | None = None) -> Trial | None:
    """The trial that goes on next, of those that wait; ``arrived`` waits from now on."""
    explored = (EXPLORED_OPENED if settings.opening else EXPLORED) * settings.startup_trials
    exploring = len(table.searched) <= explored and not all_tried(table, settings)
    return (_best_of_nine if exploring else _likeliest)(table, settings, arrived)


def _best_of_nine(table: Table, settings: SearchSettings, arrived: Trial | None) -> Trial | None:
    """The best that waits, at the highest rung where it is as good as the best completed trial was there, or where the
    rung has a place to give.
    """
    champion = next(iter(_best_first(_completed(table), settings)), None)
    for rung in reversed(rung_epochs(settings)):
        waiting = _waiting(table, rung, arrived)
        if not waiting:
            continue
        best = _best_first(waiting, settings)[0]
        reached = [
            trial
            for trial in table.searched
            if trial.epochs >= rung and trial.state not in BROKEN and _waits(trial, rung, settings)
        ]
        passed = sum(
            trial.epochs > rung or (trial.state == "running" and trial is not arrived)
            for trial in reached
            if _shows(trial, rung, settings)
        )
        record = champion and best.values(settings.metric)[-1] >= champion.values(settings.metric)[rung - 1]
        if record or passed < len(reached) // FACTOR:
            return best
    return None


def _likeliest(table: Table, settings: SearchSettings, arrived: Trial | None) -> Trial | None:
    """Whoever is the likeliest to become better than the best completed trial, if likely enough.

    While none is completed, or fewer than three when all were tried, the best at the highest rung: what the others may
    gain is not known yet.
    """
    finished = _completed(table)
    waiting = [trial for rung in rung_epochs(settings) for trial in _waiting(table, rung, arrived)]
    if not waiting:
        return None
    if len(finished) < (PROVEN if all_tried(table, settings) else 1):
        highest = max(trial.epochs for trial in waiting)
        return _best_first((trial for trial in waiting if trial.epochs == highest), settings)[0]
    best = max(trial.values(settings.metric)[-1] for trial in finished)
    found = outlooks(waiting, finished, settings)
    chance = {number: outlook.chance_of(best) for number, outlook in found.items()}
    first = max(waiting, key=lambda trial: (chance[trial.number], found[trial.number].mean, -trial.number))
    return first if chance[first.number] >= LIKELY else None


def default_to_complete(table: Table) -> Trial | None:
    """The default where it waits: at the end it is trained in full, because every other result is compared with it."""
    default = table.trials.get(1)
    return default if default is not None and default.state == "paused" else None


def all_tried(table: Table, settings: SearchSettings) -> bool:
    """Whether as many trials were proposed as the budget has; never where it has hours alone."""
    return settings.budget.trials is not None and len(table.searched) >= settings.budget.trials


def _completed(table: Table) -> list[Trial]:
    return [trial for trial in table.searched if trial.state == "completed"]


def _waiting(table: Table, rung: int, arrived: Trial | None = None) -> list[Trial]:
    return [trial for trial in table.searched if trial.epochs == rung and (trial.state == "paused" or trial is arrived)]


def _best_first(trials: Iterable[Trial], settings: SearchSettings) -> list[Trial]:
    """By their latest value; equal ones in the order of proposal."""
    return sorted(trials, key=lambda trial: (-trial.values(settings.metric)[-1], trial.number))


def _best_at_the_end(table: Table, settings: SearchSettings) -> Trial | None:
    """Once all trials were tried briefly, the best that waits, until ``keep_leaders`` were trained in full."""
    paused = [trial for trial in table.searched if trial.state == "paused"]
    begun = sum(trial.state == "completed" or trial.state == "running" for trial in table.searched)
    if not all_tried(table, settings) or begun >= settings.keep_leaders:
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
    name = settings.metric.upper()
    return Verdict(action="stop", reason=f"{name} {value or 0:.3f} at epoch {epoch}, below {cutoff:.3f}")


def _value(trial: Trial, epoch: int, settings: SearchSettings) -> float | None:
    """The metric at an epoch; None where there is none or it is not a number."""
    value: float | None = getattr(trial.reports[epoch - 1].scores, settings.metric)
    return None if value is None or math.isnan(value) else value
