"""Journal -> which of the best are run again, and which configuration wins. Pure.

One run is one draw, and the best of thirty draws is the luckiest as much as the best. At the end of a search the
best configurations are run again with new seeds, and the winner is the one with the highest mean. Its first run took
part in choosing it, so the mean still leans upwards; the interval beside it says by how much runs differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, median

from tune.history.queries import scored
from tune.history.table import Table, Trial
from tune.settings import SearchSettings
from vqc.seeding import stream_seed

__all__ = ["Confirmed", "best_trial", "confirmed", "full_run_s", "next_repeat", "noise", "repeat_seed", "rest_s"]

UNUSABLE = ("failed", "infeasible")


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """A configuration that was run more than once: its runs, the searched one first, and their best values (0..1)."""

    runs: tuple[Trial, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def best_run(self) -> Trial:
        """The run whose checkpoint is taken."""
        return self.runs[self.values.index(max(self.values))]


def best_trial(table: Table) -> Trial | None:
    """The best run of the configuration with the highest mean where some were repeated, else the trial with the highest
    score; None without a score.
    """
    groups = confirmed(table)
    return groups[0].best_run if groups else next(iter(scored(table)), None)


def confirmed(table: Table) -> list[Confirmed]:
    """Configurations with at least one finished repeat, the highest mean first."""
    groups: dict[int, list[Trial]] = {}
    for trial in table.trials.values():
        if trial.repeats is not None and trial.state == "completed":
            groups.setdefault(trial.repeats, [table.trials[trial.repeats]]).append(trial)
    found = [
        Confirmed(runs=tuple(runs), values=tuple(run.best(table.metric)[0] for run in runs)) for runs in groups.values()
    ]
    return sorted(found, key=lambda one: (-one.mean, one.runs[0].number))


def noise(table: Table) -> float | None:
    """Standard deviation of a run's value between seeds, pooled over all repeats; None before the first.

    Of two runs d apart it is d / sqrt(2); degrees of freedom add up over configurations.
    """
    groups = confirmed(table)
    freedom = sum(len(one.values) - 1 for one in groups)
    squares = sum((value - one.mean) ** 2 for one in groups for value in one.values)
    return math.sqrt(squares / freedom) if freedom else None


def next_repeat(table: Table, settings: SearchSettings) -> Trial | None:
    """The trial whose configuration is to be run again next; None when enough were.

    The best ``settings.confirm``; beyond them, up to twice as many, whoever is within the noise of the winner's mean.
    """
    if not settings.confirm:
        return None
    metric = table.metric
    leaders = [trial for trial in table.leaders() if trial.repeats is None and trial.state not in UNUSABLE]
    known = {trial.repeats for trial in table.trials.values()}
    for trial in leaders[: settings.confirm]:
        if trial.number not in known:
            return trial
    groups, spread = confirmed(table), noise(table)
    if spread is None:
        return None
    for trial in leaders[settings.confirm : 2 * settings.confirm]:
        if trial.number not in known and trial.best(metric)[0] >= groups[0].mean - spread:
            return trial
    return None


def rest_s(table: Table, settings: SearchSettings) -> float:
    """Seconds that the end of a search takes: the epoch under way, the default to its last epoch, and the repeats still
    to come, each at the pace that its configuration had; 0 before the first epoch.
    """
    leaders = [trial for trial in table.leaders() if trial.repeats is None and trial.state not in UNUSABLE]
    repeated = {trial.repeats for trial in table.trials.values() if trial.state == "completed"}
    to_come_s = max((full_run_s(trial) / trial.config.num_epochs for trial in leaders), default=0.0)
    to_come_s += sum(full_run_s(trial) for trial in leaders[: settings.confirm] if trial.number not in repeated)
    default = table.trials.get(1)
    if default is not None and default.state not in ("completed", *UNUSABLE):
        to_come_s += full_run_s(default) * (1 - default.epochs / default.config.num_epochs)
    return to_come_s


def full_run_s(trial: Trial) -> float:
    """Seconds of the trial's whole length, by its median epoch; 0 before the first."""
    epochs = [report.train_s + report.eval_s for report in trial.reports]
    return median(epochs) * trial.config.num_epochs if epochs else 0.0


def repeat_seed(settings: SearchSettings, trial: Trial) -> int:
    """The seed of a trial's repeat: another than the trial's, the same in every sitting."""
    return stream_seed(settings.seed, "confirm", trial.number)
