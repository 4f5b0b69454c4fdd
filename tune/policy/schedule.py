"""What a search does next: continue or promote a trial, propose a new one, or repeat one of the best. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias

from tune.history.table import Table, Trial
from tune.policy.promotion import all_tried, default_to_complete, is_late, next_promotion, promoted_epochs
from tune.policy.replication import full_run_s, last_epoch, next_repeat, rest_of_run_s, rest_s
from tune.policy.rungs import rung_epochs
from tune.settings import SearchSettings

MAX_RESERVED = 0.4  # of the hours, for the default and the repeats


@dataclass(frozen=True)
class Continue:
    """A trial that was begun and has no worker."""

    trial: Trial


@dataclass(frozen=True)
class Promote:
    """A paused trial that runs its next epochs, up to the last of ``num_epochs``, as many as the hours leave."""

    trial: Trial
    num_epochs: int


@dataclass(frozen=True)
class Propose:
    """A new configuration."""


@dataclass(frozen=True)
class Repeat:
    """The trial's configuration, with a new seed."""

    trial: Trial


Step: TypeAlias = Continue | Promote | Propose | Repeat


def next_step(table: Table, settings: SearchSettings, *, left_s: float, with_worker: Set[int]) -> Step | None:
    """What the next free worker does; None while running trials decide, or when nothing is left.

    First what was begun, then what is promoted, then a new configuration; last the default, and then the repeats, as
    many at a time as there are workers. Trials of an outage wait for an epoch of another trial, which shows that the
    machine works again.

    Args:
        left_s: awake seconds that the budget leaves.
        with_worker: numbers of the trials that were given to a worker.
    """
    begun = _begun(table, settings, left_s=left_s, with_worker=with_worker)
    proven = [trial for trial in begun if table.session_epochs or not trial.after_outage]
    if proven:
        return Continue(proven[0])
    search_s = for_searched_s(table, settings, left_s=left_s)
    if search_s > 0:
        promoted = next_promotion(table, settings, left_s=search_s)
        if promoted is not None:
            if promoted.number in with_worker:
                return None  # until a worker starts it, it still looks paused: the next slot waits that long
            num_epochs = _epochs_of(table, settings, promoted, left_s=left_s, search_s=search_s)
            if num_epochs > promoted.epochs:
                return Promote(promoted, num_epochs)
        elif not all_tried(table, settings):
            return Propose()
    return _at_the_end(table, settings, begun, left_s=left_s, with_worker=with_worker)


def _at_the_end(
    table: Table, settings: SearchSettings, begun: Sequence[Trial], *, left_s: float, with_worker: Set[int]
) -> Step | None:
    """The default, then the repeats; ``begun``: trials without a worker that may go on."""
    default = default_to_complete(table)
    if default is not None and default.number not in with_worker:
        num_epochs = last_epoch(default, left_s)
        if num_epochs > default.epochs:
            return Promote(default, num_epochs)
    if any(table.trials[number].repeats is None for number in with_worker):
        return None  # it may become one of the best
    if begun:
        return None if with_worker else Continue(begun[0])
    best = next_repeat(table, settings)
    return None if best is None or full_run_s(best) > left_s else Repeat(best)


def may_run(table: Table, settings: SearchSettings, trial: Trial, *, left_s: float) -> bool:
    """Whether a trial may go on: when the hours are nearly over only the default, the repeats, what was shortened to
    end with them, and what is behind its last rung and will end in time, even if a repeat no longer does.
    """
    if trial.repeats is not None or trial.origin == "default" or trial.shortened:
        return True
    ends = trial.epochs >= max(rung_epochs(settings), default=0) and 0 < rest_of_run_s(trial) <= left_s
    return ends or for_searched_s(table, settings, left_s=left_s) > 0


def is_complete(table: Table, settings: SearchSettings) -> bool:
    """Whether nothing is left to do: all were tried, none was cut short, and the best were repeated."""
    return (
        all_tried(table, settings)
        and not any(trial.is_live for trial in table.trials.values())
        and next_promotion(table, settings) is None
        and next_repeat(table, settings) is None
    )


def for_searched_s(table: Table, settings: SearchSettings, *, left_s: float) -> float:
    """Of the seconds left those for searched trials: without what the default and the repeats need at the end."""
    if math.isinf(left_s):
        return left_s
    return left_s - rest_s(table, settings, at_most_s=table.whole_hours * 3600 * MAX_RESERVED, left_s=left_s)


def _epochs_of(table: Table, settings: SearchSettings, trial: Trial, *, left_s: float, search_s: float) -> int:
    """``num_epochs`` of a trial that is promoted now. Time is kept for the default: near the end it takes no more."""
    if trial is not default_to_complete(table):
        return promoted_epochs(table, settings, trial, left_s=search_s)
    waited_for = is_late(table, search_s) and not all_tried(table, settings)
    return last_epoch(trial, left_s - search_s if waited_for else left_s)


def _begun(table: Table, settings: SearchSettings, *, left_s: float, with_worker: Set[int]) -> list[Trial]:
    """Trials without a worker that may go on: those that have just failed, then the best; those of an outage last."""
    found = [
        trial
        for trial in table.trials.values()
        if trial.is_live and trial.number not in with_worker and may_run(table, settings, trial, left_s=left_s)
    ]

    def order(trial: Trial) -> tuple[bool, bool, float]:
        value = trial.best(table.metric)[0] if trial.epochs else 0.0
        return trial.after_outage, not trial.failures_here(), -value

    return sorted(found, key=order)
