"""How long a search will still take: a pure function of the journal's table.

Called by the progress display; calls the table and its outcome. Two things are learnt while the search runs,
each starting from a prior that weighs as much as a few trials: the chance that a trial passes a rung, and the
seconds of an epoch, which grow with the pixels of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median

from tune.journal import Table, Trial
from tune.outcome import default_trial, elapsed_s, epoch_s, settings_of
from tune.stop import rung_epochs
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
    gates = _gates(table)
    current = [_epochs_left(trial, gates) * _pace_s(table, trial) for trial in live]
    running_s = max(0.0, sum(current) - _since_last_s(table, now_ms, live))
    future_s = to_come * (_epochs_of_new(table, gates) * _pace_of_new_s(table) + _between_s(table))
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


def _epochs_left(trial: Trial, gates: Mapping[int, float]) -> float:
    """Epochs that a live trial is expected to run yet; the default is never stopped."""
    if trial.origin == "default":
        return trial.config.num_epochs - trial.epochs
    return _expected_epochs(gates, trial.config.num_epochs, after=trial.epochs)


def _epochs_of_new(table: Table, gates: Mapping[int, float]) -> float:
    """Epochs of a trial not yet proposed, counting that some die before their first epoch."""
    ended = [trial for trial in table.trials.values() if trial.ended_ms is not None]
    dead = sum(trial.state in ("infeasible", "failed") and trial.epochs == 0 for trial in ended)
    alive = 1 - dead / (len(ended) + PRIOR_TRIALS)
    return alive * _expected_epochs(gates, int(table.header.settings["train"]["num_epochs"]), after=0)


def _expected_epochs(gates: Mapping[int, float], epochs: int, *, after: int) -> float:
    """Mean of the epochs still run after ``after`` of ``epochs``; gates: rung's epoch -> chance to pass it, rising."""
    expected, reached, done = 0.0, 1.0, after
    for rung, chance in gates.items():
        if after <= rung < epochs:
            expected += reached * (rung - done)
            reached, done = reached * chance, rung
    return expected + reached * (epochs - done)


def _gates(table: Table) -> dict[int, float]:
    """Rung's epoch -> chance of a trial to come to pass it, from those judged there, the recent ones weighing most."""
    newest = max(table.trials, default=0)
    to_come = max(1, table.trials_asked - newest)
    gates = {}
    for rung in rung_epochs(settings_of(table)):
        verdicts = _verdicts(table, rung)
        weights = [0.5 ** ((newest - number) / HALF_LIFE_TRIALS) for number in verdicts]
        passed = sum(weight for weight, went_on in zip(weights, verdicts.values(), strict=True) if went_on)
        # Whoever must match all before it is a record, and the k-th of equals is one with chance 1/k.
        first = len(verdicts) + 2
        prior = fmean(1 / number for number in range(first, first + to_come))
        gates[rung] = (passed + prior * PRIOR_TRIALS) / (sum(weights) + PRIOR_TRIALS)
    return gates


def _verdicts(table: Table, rung: int) -> dict[int, bool]:
    """Trial number -> whether it passed the rung; only the trials that were judged there."""
    return {
        trial.number: trial.epochs > rung
        for trial in table.trials.values()
        if trial.origin != "default"
        and (trial.epochs > rung or (trial.epochs == rung and trial.state in ("stopped", "paused")))
    }


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
