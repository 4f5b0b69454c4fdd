"""Journal -> does a trial go on? Asynchronous successive halving (ASHA) with a strict rule; pure.

At each rung (a share of the epochs) a trial goes on only if it is at least as good as the best trial was there.
Plain ASHA keeps the best third of all that passed, old and weak trials among them, and so rarely stops a good
sampler's proposals (Li et al., "A System for Massively Parallel Hyperparameter Tuning", section 3.2, for the
original; the departure is measured in tests/benchmarks).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tune.journal import Table, Trial
from tune.settings import SearchSettings

__all__ = ["Verdict", "hopeless", "rung_epochs", "to_resume", "verdict"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a trial does after an epoch, and why."""

    action: Literal["go on", "stop", "pause"]
    reason: str = ""


def rung_epochs(settings: SearchSettings) -> list[int]:
    """The epochs after which a trial may be stopped; rising, each below ``num_epochs``."""
    epochs = settings.train.num_epochs
    return sorted({max(1, math.ceil(share * epochs)) for share in settings.rungs} - {epochs})


def verdict(table: Table, trial: Trial, settings: SearchSettings) -> Verdict:
    """Whether the trial goes on after its latest epoch.

    The first to reach a rung passes it; equal values pass; a value that is not a number counts as 0. Trial 1, the
    default, is never stopped: its full length is what every other result is compared with.
    """
    epoch = trial.epochs
    if epoch not in rung_epochs(settings) or trial.number == 1:
        return Verdict(action="go on")
    value = trial.values(settings.metric)[epoch - 1]
    others = [
        other.values(settings.metric)[epoch - 1]
        for other in table.trials.values()
        if other.number != trial.number and other.epochs >= epoch and other.state not in ("failed", "infeasible")
    ]
    best = max(others, default=0.0)
    if value >= best:
        return Verdict(action="go on")
    return Verdict(
        action="stop", reason=f"{settings.metric} {value:.3f} at epoch {epoch}, the best had {best:.3f} there"
    )


def to_resume(table: Table, settings: SearchSettings) -> Trial | None:
    """The paused trial that has earned its next epochs, if any."""
    return None


def hopeless(table: Table, settings: SearchSettings) -> list[Trial]:
    """Paused trials that will not be resumed."""
    return []
