"""Does a trial continue, pause or stop after an epoch? Asynchronous successive halving (ASHA); pure.

A trial pauses at each rung (``tune.policy.rungs``), unless it would be promoted at once (``tune.policy.promotion``).
Where the others have learnt nothing, as detectors from random weights in their first epochs, nobody pauses. Only the
best few paused trials of a rung are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tune.history.table import Table, Trial
from tune.policy.learning_curves import predict_final_values
from tune.policy.promotion import has_learnt, most_promising, promoted_epochs
from tune.policy.rungs import pauses_at, rung_epochs
from tune.settings import SearchSettings

MAX_PAUSED = 6  # paused trials at a rung; those behind them give their disk space back


@dataclass(frozen=True, kw_only=True)
class RungDecision:
    """What a trial does after an epoch, and why."""

    action: Literal["continue", "stop", "pause"]
    reason: str = ""


def decide(table: Table, trial: Trial, settings: SearchSettings, *, left_s: float = math.inf) -> RungDecision:
    """What the trial does after its latest epoch: at a rung it pauses, unless it would be promoted at once.

    Args:
        left_s: awake seconds for searched trials.
    """
    epoch = trial.epochs
    if epoch not in rung_epochs(settings) or not pauses_at(trial, epoch, settings) or trial.shortened:
        return RungDecision(action="continue")
    metric = settings.metric
    value = getattr(trial.reports[-1].scores, metric)
    if value is None or math.isnan(value):
        return RungDecision(action="stop", reason=f"no {metric.upper()} at epoch {epoch}")
    others = [other for other in table.searched if other.epochs >= epoch and other is not trial]
    nothing_to_rank = bool(others) and not any(has_learnt(other, epoch, metric) for other in others)
    if nothing_to_rank or (
        most_promising(table, settings, left_s=left_s, arrived=trial) is trial
        # Else it is shortened, as only a paused one can be.
        and promoted_epochs(table, settings, trial, left_s=left_s) == trial.config.num_epochs
    ):
        return RungDecision(action="continue")
    return RungDecision(action="pause", reason=f"{metric.upper()} {value:.3f} at epoch {epoch}")


def trials_to_prune(table: Table, settings: SearchSettings) -> list[Trial]:
    """Paused trials that will not be promoted: at their rung enough others may reach more. Never the default."""
    behind = []
    for rung in rung_epochs(settings):
        paused = [trial for trial in table.searched if trial.epochs == rung and trial.state == "paused"]
        predicted = predict_final_values(paused, table.completed, settings)
        reach = {number: one.mean + one.stdev for number, one in predicted.items()}
        behind += sorted(paused, key=lambda trial: (-reach[trial.number], trial.number))[MAX_PAUSED:]
    return [trial for trial in behind if trial.number != 1]
