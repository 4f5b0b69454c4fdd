"""Questions to a search's table, answered in numbers and in words. Pure.

The terminal, the report, MLflow and the promotion all ask here, so that they say the same. A figure that cannot be
known is ``None``, never 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import median
from typing import get_args

from tune.history.events import Param, State
from tune.history.table import Table, Trial
from tune.settings import Budget, Dimension
from vqc.epoch import Scores
from vqc.shell import as_typed


def score(trial: Trial, metric: str) -> float | None:
    """The trial's best value of ``metric`` (0..1); None when no epoch could be scored."""
    found = best_scores(trial, metric)
    return None if found is None else getattr(found, metric)


def best_scores(trial: Trial, metric: str) -> Scores | None:
    """All scores of the epoch that was best by ``metric``; None when no epoch could be scored."""
    known = [report.scores for report in trial.reports if getattr(report.scores, metric) is not None]
    return max(known, key=lambda scores: getattr(scores, metric), default=None)


def scored(table: Table) -> list[Trial]:
    """Trials with a score, best first."""
    return [trial for trial in table.leaders() if score(trial, table.metric) is not None]


def default_trial(table: Table) -> Trial | None:
    """The trial of the default configuration, or None where there is none."""
    return next((trial for trial in table.trials.values() if trial.origin == "default"), None)


def has_finished_trial(table: Table) -> bool:
    """Whether a trial came to its end, completed or stopped, and has a score."""
    return any(trial.state in ("completed", "stopped") for trial in scored(table))


def gain(table: Table, best: Trial | None) -> float | None:
    """The best trial's score less the default configuration's, in units of the metric; None while either is unknown."""
    default = default_trial(table)
    base = None if default is None else score(default, table.metric)
    top = None if best is None else score(best, table.metric)
    return None if base is None or top is None else top - base


def state_counts(table: Table) -> dict[State, int]:
    """Number of trials by state, in the order of a trial's life; states without a trial are left out."""
    counts = Counter(trial.state for trial in table.trials.values())
    return {state: counts[state] for state in get_args(State) if counts[state]}


def states_text(counts: Mapping[State, int]) -> str:
    """Numbers of trials by state, in the order of a trial's life: 3 completed, 1 failed."""
    return ", ".join(f"{counts[state]} {state}" for state in get_args(State) if counts.get(state)) or "no trials yet"


def epochs_run(table: Table) -> int:
    """Finished epochs of all trials."""
    return sum(trial.epochs for trial in table.trials.values())


def epochs_asked(table: Table) -> int:
    """Epochs of all trials that were asked for, had each run in full; with hours alone, of those proposed so far."""
    proposed = sum(trial.config.num_epochs for trial in table.trials.values())
    to_come = max(0, (table.budget.trials or 0) - len(table.trials))
    return proposed + to_come * int(table.header.settings["train"]["num_epochs"])


def epoch_s(trial: Trial) -> float | None:
    """Median seconds of an epoch of this trial, training and evaluation; None before the first."""
    return median(report.epoch_s for report in trial.reports) if trial.reports else None


def saved_by_stopping(table: Table) -> tuple[int, float]:
    """Epochs and seconds that the stopped trials would still have cost, each at its own measured pace."""
    stopped = [trial for trial in table.trials.values() if trial.state == "stopped"]
    spared = [(trial.config.num_epochs - trial.epochs, epoch_s(trial) or 0.0) for trial in stopped]
    return sum(epochs for epochs, _ in spared), sum(epochs * seconds for epochs, seconds in spared)


def metric_name(metric: str) -> str:
    """How the field spells it: AP50 for ``ap50``."""
    return metric.upper()


def figure(value: Param | bool | None) -> str:
    """A searched value with three significant digits: 0.00032 is 3.2e-4."""
    if not isinstance(value, float):
        return str(value)
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def configuration(params: Mapping[str, Param]) -> str:
    """Searched values in one line: learning_rate 3.2e-4, batch_size 8."""
    return ", ".join(f"{name} {figure(value)}" for name, value in params.items())


def range_text(dimension: Dimension) -> str:
    """What is searched of a field: 1e-4 to 0.01 (log), or 96, 128, 160 px."""
    if dimension.choices is not None:
        text = ", ".join(map(figure, dimension.choices))
    else:
        text = f"{figure(dimension.low)} to {figure(dimension.high)}"
    return f"{text} {dimension.unit}".rstrip() + (" (log)" if dimension.log else "")


def best_text(best: Trial, metric: str) -> str:
    """A trial with a score in few words: 0.792 (trial 20)."""
    return f"{score(best, metric) or 0.0:.3f} (trial {best.number})"


def count_text(number: int, noun: str) -> str:
    """1 epoch, 1,200 epochs."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def trials_text(budget: Budget) -> str:
    """30 trials, or 8 h of trials where the budget has hours alone."""
    return f"{budget.hours:g} h of trials" if budget.trials is None else count_text(budget.trials, "trial")


def resume_command(name: str) -> str:
    """The command that goes on with a search."""
    return as_typed(f"python tune/search.py --name {_shell_word(name)} --resume")


def export_command(name: str) -> str:
    """The command that promotes a search's best trial."""
    return as_typed(f"python tune/export_best.py {_shell_word(name)}")


def _shell_word(word: str) -> str:
    """Double quotes are understood by PowerShell, cmd and POSIX shells alike."""
    return word if word.replace("-", "").replace("_", "").replace(".", "").isalnum() else f'"{word}"'
