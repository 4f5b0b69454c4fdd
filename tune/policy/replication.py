"""Which of the best configurations are trained again with new seeds, and which configuration wins. Pure.

One training is one draw, and the best of thirty draws is the luckiest as much as the best. At the end of a search the
best configurations are trained again with new seeds; the winner has the highest mean. Its first training took part in
choosing it, so the mean is still biased upwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from tune.history.queries import epoch_s, score, scored
from tune.history.table import Table, Trial
from tune.settings import SearchSettings
from vqc.seeding import stream_seed

MARGIN = 1.03  # times the median epoch: what is planned to end with the hours must not be cut off an epoch before


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """A configuration that was trained more than once: its trials, the searched one first, and their best values."""

    trials: tuple[Trial, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def best_trial(self) -> Trial:
        """The one whose checkpoint is taken."""
        return self.trials[self.values.index(max(self.values))]


def repeated(table: Table) -> list[Repeated]:
    """Configurations with at least one completed repeat, the highest mean first."""
    groups: dict[int, list[Trial]] = {}
    for trial in table.trials.values():
        if trial.repeats is not None and trial.state == "completed":
            groups.setdefault(trial.repeats, [table.trials[trial.repeats]]).append(trial)
    found = [
        Repeated(trials=tuple(group), values=tuple(trial.best(table.metric)[0] for trial in group))
        for group in groups.values()
    ]
    return sorted(found, key=lambda one: (-one.mean, one.trials[0].number))


def best_trial(table: Table) -> Trial | None:
    """The best trial of the configuration with the highest mean, once the leading one was repeated; else the trial with
    the highest value. None while no trial has a score.

    Repeats run side by side, and the hours may end before the leading one's.
    """
    won = winner(table)
    return next(iter(scored(table)), None) if won is None else won.best_trial


def winner(table: Table) -> Repeated | None:
    """The configuration with the highest mean; None before the leading one was repeated."""
    groups, leading = repeated(table), leading_trial(table)
    return groups[0] if any(one.trials[0] is leading for one in groups) else None


def leading_trial(table: Table) -> Trial | None:
    """The searched trial with the highest value of those whose configuration can be repeated."""
    in_vain = {trial.repeats for trial in table.trials.values() if trial.state in ("failed", "infeasible")}
    leaders = [trial for trial in _usable_leaders(table) if score(trial, table.metric) is not None]
    return next((trial for trial in leaders if trial.number not in in_vain), None)


def seed_std(table: Table) -> float | None:
    """Standard deviation of a training's value between seeds, pooled over configurations; None before any repeat.

    Of two trainings d apart it is d / sqrt(2); degrees of freedom add up over configurations.
    """
    groups = repeated(table)
    freedom = sum(len(one.values) - 1 for one in groups)
    squares = sum((value - one.mean) ** 2 for one in groups for value in one.values)
    return math.sqrt(squares / freedom) if freedom else None


def fewest_repeats(settings: SearchSettings) -> int:
    """``settings.confirm``, or up to twice as many where the place beside a repeat would stay empty."""
    return min(max(settings.confirm, settings.concurrent), 2 * settings.confirm)


def next_repeat(table: Table, settings: SearchSettings) -> Trial | None:
    """The trial whose configuration is trained again next; None when enough were.

    The best ``fewest_repeats``; beyond them, up to twice ``settings.confirm``, those within ``seed_std`` of the
    winner's mean, which is not known while a repeat runs.
    """
    leaders, fewest = _usable_leaders(table)[: 2 * settings.confirm], fewest_repeats(settings)
    known = {trial.repeats for trial in table.trials.values()}
    for trial in leaders[:fewest]:
        if trial.number not in known:
            return trial
    std = seed_std(table)
    running = any(trial.is_live and trial.repeats is not None for trial in table.trials.values())
    if std is not None and not running:
        lowest = repeated(table)[0].mean - std
        for trial in leaders[fewest:]:
            if trial.number not in known and trial.best(table.metric)[0] >= lowest:
                return trial
    return None


def rest_s(table: Table, settings: SearchSettings, *, at_most_s: float, left_s: float = math.inf) -> float:
    """Seconds that the end of a search takes: the epoch under way, the default to its last epoch, unless that runs
    already, and those repeats still to come that end within ``at_most_s``, each at the pace that its configuration had;
    0 before the first epoch.

    Args:
        left_s: of the budget; a repeat that would not end within them, were no epoch under way, is left out.
    """
    done = {trial.repeats for trial in table.trials.values() if trial.state == "completed"}
    to_come_s = under_way_s = epoch_under_way_s(table)
    default = table.trials.get(1)
    if default is not None and default.state not in ("running", "completed", "failed", "infeasible"):
        to_come_s += rest_of_run_s(default)
    for trial in _usable_leaders(table)[: settings.confirm]:
        end_s = to_come_s + full_run_s(trial)
        if trial.number not in done and end_s <= at_most_s and end_s - under_way_s <= left_s:
            to_come_s = end_s
    return min(to_come_s, at_most_s)


def epoch_under_way_s(table: Table) -> float:
    """The most that an epoch under way takes: the longest median one; 0 before the first epoch."""
    usable = (trial for trial in table.searched if trial.state not in ("failed", "infeasible"))
    return max((epoch_s(trial) or 0.0 for trial in usable), default=0.0)


def rest_of_run_s(trial: Trial) -> float:
    """Seconds to the trial's last epoch, by its median one; 0 before the first."""
    return full_run_s(trial) * (1 - trial.epochs / trial.config.num_epochs)


def full_run_s(trial: Trial) -> float:
    """Seconds of the trial's whole length, by its median epoch; 0 before the first."""
    return (epoch_s(trial) or 0.0) * trial.config.num_epochs


def last_epoch(trial: Trial, left_s: float) -> int:
    """The last epoch that the trial ends within so many seconds, a bit slower than so far; at most ``num_epochs``."""
    pace_s = epoch_s(trial)
    if not pace_s or math.isinf(left_s):
        return trial.config.num_epochs
    more = math.floor(left_s / (pace_s * MARGIN))
    return min(trial.epochs + max(0, more), trial.config.num_epochs)


def repeat_seed(settings: SearchSettings, trial: Trial) -> int:
    """The seed of a trial's repeat: another than the trial's, and the same when the search is resumed."""
    return stream_seed(settings.seed, "confirm", trial.number)


def _usable_leaders(table: Table) -> list[Trial]:
    """Searched trials, best first, without those that could not be trained."""
    return [
        trial for trial in table.leaders() if trial.repeats is None and trial.state not in ("failed", "infeasible")
    ]  # fmt: skip
