"""How long a search will still take: a pure function of the journal's table.

Called by the progress display; calls the table and its outcome. Two things are learnt while the search runs,
each starting from a prior that weighs as much as a few trials: the chance that a trial passes a rung, and the
seconds of an epoch, which grow with the pixels of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

from tune.journal import Table, Trial
from tune.outcome import default_trial, elapsed_s, epoch_s, rung_epochs
from vqc.config import TrainConfig

__all__ = ["time_left_s"]

PRIOR_TRIALS = 5.0  # weight of what is assumed before anything was seen, in trials
HALF_LIFE_TRIALS = 5.0  # the bar rises as a search goes on: an old verdict says less about the next one


def time_left_s(table: Table, now_ms: int) -> float | None:
    """Seconds until the search ends, at the pace measured so far; None before the first epoch, 0 after the end."""
    if table.ended is not None:
        return 0.0
    if not any(trial.epochs for trial in table.trials.values()):
        return None
    live = [trial for trial in table.trials.values() if trial.ended_ms is None or trial.state == "interrupted"]
    to_come = max(0, table.trials_asked - len(table.trials))
    current = [_epochs_left(table, trial) * _pace_s(table, trial) for trial in live]
    running_s = max(0.0, sum(current) - _since_last_s(table, now_ms, live))
    future_s = to_come * (_epochs_of_new(table) * _pace_of_new_s(table) + _between_s(table))
    slots = int(table.header.settings.get("concurrent", 1))
    left_s = (running_s + future_s) / slots
    hours: float | None = table.header.settings.get("hours")
    if hours is None:
        return left_s
    # Once the hours are over no trial starts, but those that run are finished.
    return min(left_s, max(0.0, hours * 3600 - elapsed_s(table)) + running_s / slots)


def _since_last_s(table: Table, now_ms: int, live: Sequence[Trial]) -> float:
    """Seconds of the epoch under way, of which the journal knows nothing yet; at most one epoch's."""
    longest_s = max((_pace_s(table, trial) for trial in live), default=0.0)
    return min(longest_s, max(0.0, (now_ms - table.last_ms) / 1000))


def _epochs_left(table: Table, trial: Trial) -> float:
    """Epochs that a live trial is expected to run yet; the default is never stopped."""
    epochs = trial.config.num_epochs
    if trial.origin == "default":
        return epochs - trial.epochs
    return _expected_epochs(_pass_rates(table), _rungs(table, epochs), epochs, after=trial.epochs)


def _epochs_of_new(table: Table) -> float:
    """Epochs of a trial not yet proposed, counting that some die before their first epoch."""
    epochs = int(table.header.settings["train"]["num_epochs"])
    ended = [trial for trial in table.trials.values() if trial.ended_ms is not None]
    dead = sum(trial.state in ("infeasible", "failed") and trial.epochs == 0 for trial in ended)
    alive = 1 - dead / (len(ended) + PRIOR_TRIALS)
    return alive * _expected_epochs(_pass_rates(table), _rungs(table, epochs), epochs, after=0)


def _expected_epochs(rates: Sequence[float], rungs: Sequence[int], epochs: int, *, after: int) -> float:
    """Mean of the epochs still run after ``after`` of them, when rung i is passed with chance ``rates[i]``."""
    expected, reached, done = 0.0, 1.0, after
    for rung, rate in zip(rungs, rates, strict=False):
        if rung < after:
            continue
        expected += reached * (rung - done)
        reached, done = reached * rate, rung
    return expected + reached * (epochs - done)


def _rungs(table: Table, num_epochs: int) -> list[int]:
    return rung_epochs(table.header.settings.get("rungs", ()), num_epochs)


def _pass_rates(table: Table) -> list[float]:
    """Chance of a trial to come to pass each rung, from those that were judged there, the recent ones weighing most."""
    newest = max(table.trials, default=0)
    to_come = max(1, table.trials_asked - newest)
    rates = []
    for index in range(len(_rungs(table, int(table.header.settings["train"]["num_epochs"])))):
        verdicts = _verdicts(table, index)
        weights = [0.5 ** ((newest - number) / HALF_LIFE_TRIALS) for number in verdicts]
        passed = sum(weight for weight, went_on in zip(weights, verdicts.values(), strict=True) if went_on)
        # Whoever must beat all before it is a record, and the k-th of equals is one with chance 1/k.
        first = len(verdicts) + 1
        prior = fmean(1 / number for number in range(first + 1, first + 1 + to_come))
        rates.append((passed + prior * PRIOR_TRIALS) / (sum(weights) + PRIOR_TRIALS))
    return rates


def _verdicts(table: Table, index: int) -> dict[int, bool]:
    """Trial number -> whether it passed rung ``index`` (from 0); only trials that were judged there."""
    verdicts = {}
    for trial in table.trials.values():
        rungs = _rungs(table, trial.config.num_epochs)
        if trial.origin == "default" or index >= len(rungs) or trial.epochs < rungs[index]:
            continue
        went_on = trial.epochs > rungs[index]
        if went_on or trial.state in ("stopped", "paused"):
            verdicts[trial.number] = went_on
    return verdicts


def _pixels(config: TrainConfig) -> int:
    height, width = config.image_size
    return height * width


def _pace_s(table: Table, trial: Trial) -> float:
    """Seconds of an epoch of a trial: its own, else those of its image size, else scaled by the pixels."""
    own = epoch_s(trial)
    if own is not None:
        return own
    measured = [(other, seconds) for other in table.trials.values() if (seconds := epoch_s(other)) is not None]
    alike = [seconds for other, seconds in measured if _pixels(other.config) == _pixels(trial.config)]
    if alike:
        return median(alike)
    return median(seconds / _pixels(other.config) for other, seconds in measured) * _pixels(trial.config)


def _pace_of_new_s(table: Table) -> float:
    """Seconds of an epoch of a trial not yet proposed: the mean of those measured, with the space's as a prior."""
    default = default_trial(table)
    paces = {trial.number: seconds for trial in table.trials.values() if (seconds := epoch_s(trial)) is not None}
    sampled = [seconds for number, seconds in paces.items() if default is None or number != default.number]
    per_pixel = median(seconds / _pixels(table.trials[number].config) for number, seconds in paces.items())
    prior = per_pixel * _mean_pixels(table)
    return (sum(sampled) + PRIOR_TRIALS * prior) / (len(sampled) + PRIOR_TRIALS)


def _mean_pixels(table: Table) -> float:
    """Pixels of an image, averaged over the sizes searched (else those of the base configuration)."""
    dimension = table.header.settings.get("space", {}).get("image_size", {})
    if dimension.get("choices"):
        return fmean(side**2 for side in dimension["choices"])
    if dimension.get("low") is not None:
        return float((dimension["low"] + dimension["high"]) / 2) ** 2
    height, width = table.header.settings["train"]["image_size"]
    return float(height * width)


def _between_s(table: Table) -> float:
    """Median seconds of an ended trial that were not an epoch: proposal, start, saving."""
    rest = [
        (trial.ended_ms - trial.proposed_ms) / 1000 - sum(report.train_s + report.eval_s for report in trial.reports)
        for trial in table.trials.values()
        if trial.ended_ms is not None and trial.epochs
    ]
    return max(0.0, median(rest)) if rest else 0.0
