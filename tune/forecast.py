"""How long a search takes: a pure function of the journal's table, or of a rehearsal before there is one.

Called by the progress display and by ``--dry-run``. What is to come is a sum of runs: those under way, the race's and
its winner's, those that are yet to be proposed, and the repeats at the end. Two things are learnt while the search
runs, each from a prior that weighs as much as a few trials: the chance to pass a rung, and the seconds of an epoch,
which grow with the pixels of an image. Each part has a mean and a variance, and so has their sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, pvariance

from tune.journal import Table, Trial
from tune.outcome import elapsed_s, epoch_s, settings_of
from tune.settings import SearchSettings
from tune.stop import rung_epochs
from vqc.config import TrainConfig

__all__ = ["EpochCost", "Estimate", "time_left", "whole_search"]

PRIOR_TRIALS = 4.0  # weight of what is assumed before anything was seen, in trials
PRIOR_CHANCE = 0.4  # of passing a rung: what the policy gave on recorded learning curves
HALF_LIFE_TRIALS = 5.0  # the bar rises as a search goes on: an old verdict says less about the next one
BETWEEN_S = 0.5  # of a trial that was no epoch, before any was measured: proposal, start, saving
EIGHT_OF_TEN = 1.2816  # standard deviations to each side that hold 80 % of a normal distribution


@dataclass(frozen=True, kw_only=True)
class EpochCost:
    """What a whole epoch takes, evaluation on val included; ``low_s`` and ``high_s`` are the extremes measured.

    All are None where the size does not fit into memory.
    """

    image_size: int
    epoch_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds: the mean of what may come, and its standard deviation."""

    mean_s: float
    deviation_s: float

    @property
    def interval_s(self) -> tuple[float, float]:
        """In which the truth lies eight times of ten."""
        reach_s = EIGHT_OF_TEN * self.deviation_s
        return max(0.0, self.mean_s - reach_s), self.mean_s + reach_s


@dataclass(frozen=True, kw_only=True)
class _Quantity:
    """A mean and a variance, of independent things that are added or multiplied."""

    mean: float
    variance: float = 0.0

    def __add__(self, other: _Quantity) -> _Quantity:
        return _Quantity(mean=self.mean + other.mean, variance=self.variance + other.variance)

    def times(self, other: _Quantity) -> _Quantity:
        squares = (self.variance + self.mean**2) * (other.variance + other.mean**2)
        return _Quantity(mean=self.mean * other.mean, variance=squares - (self.mean * other.mean) ** 2)

    def repeated(self, count: float) -> _Quantity:
        return _Quantity(mean=self.mean * count, variance=self.variance * count)


@dataclass(frozen=True, kw_only=True)
class _Rate:
    """What is known of a search's pace: seconds of an epoch of a run not yet proposed, and between two runs."""

    epoch_s: _Quantity
    between_s: float
    gates: Mapping[int, float]  # rung's epoch -> chance to pass it, rising
    epochs: int  # of a full run

    def run(self, after: int = 0) -> _Quantity:
        """Epochs of a run that is judged at the gates, from epoch ``after`` on."""
        chances, reached = [], 1.0
        for rung, chance in self.gates.items():
            if after <= rung < self.epochs:
                chances.append((rung - after, reached * (1 - chance)))
                reached *= chance
        chances.append((self.epochs - after, reached))
        mean = sum(length * chance for length, chance in chances)
        return _Quantity(mean=mean, variance=sum(chance * (length - mean) ** 2 for length, chance in chances))


def whole_search(settings: SearchSettings, costs: Sequence[EpochCost]) -> Estimate:
    """The whole search, from what a rehearsal measured at each image size.

    Args:
        costs: at least one of them of a size that fits.
    """
    known = [cost for cost in costs if cost.epoch_s is not None]
    means = [cost.epoch_s or 0.0 for cost in known]
    wobble = fmean(((cost.high_s or 0.0) - (cost.low_s or 0.0)) ** 2 / 12 for cost in known)
    rate = _Rate(
        epoch_s=_Quantity(mean=fmean(means), variance=pvariance(means) + wobble),
        between_s=BETWEEN_S,
        gates=dict.fromkeys(rung_epochs(settings), PRIOR_CHANCE),
        epochs=settings.train.num_epochs,
    )
    return _bounded(_to_come(rate, settings, searched=0, raced=0, repeats=0), settings, spent_s=0.0)


def time_left(table: Table, now_ms: int) -> Estimate | None:
    """Until the search ends, at the pace measured so far; None before the first epoch, 0 after the end."""
    if table.ended is not None:
        return Estimate(mean_s=0.0, deviation_s=0.0)
    if not any(trial.epochs for trial in table.trials.values()):
        return None
    settings = settings_of(table).model_copy(update={"trials": table.trials_asked})
    rate = _measured(table, settings)
    raced = sum(_is_judged(trial, settings) for trial in table.searched[: settings.startup_trials])
    live = [trial for trial in table.trials.values() if _is_live(trial)]
    current = _sum(_live(trial, rate, settings, _pace_s(table, trial), raced=raced) for trial in live)
    passed_s = min(_since_last_s(table, now_ms, live), current.mean)
    left = _Quantity(mean=current.mean - passed_s, variance=current.variance) + _to_come(
        rate,
        settings,
        searched=len(table.searched),
        raced=raced,
        repeats=sum(trial.repeats is not None for trial in table.trials.values()),
    )
    return _bounded(left, settings, spent_s=elapsed_s(table) + passed_s)


def _to_come(rate: _Rate, settings: SearchSettings, *, searched: int, raced: int, repeats: int) -> _Quantity:
    """Seconds of all that is not under way: the rest of the race, its winner, later trials, repeats."""
    gap = _Quantity(mean=rate.between_s)
    full = _Quantity(mean=rate.epochs).times(rate.epoch_s) + gap
    racers = min(settings.startup_trials, settings.trials) if _races(settings) else 0
    first = min(rate.gates, default=rate.epochs)
    parts = [(_Quantity(mean=first).times(rate.epoch_s) + gap).repeated(max(0, racers - searched))]
    if raced < racers:
        parts.append(_Quantity(mean=rate.epochs - first).times(rate.epoch_s) + gap)
    later = max(0, settings.trials - max(searched, racers))
    parts.append((rate.run().times(rate.epoch_s) + gap).repeated(later))
    parts.append(full.repeated(max(0, min(settings.confirm, settings.trials) - repeats)))
    return _sum(parts)


def _live(trial: Trial, rate: _Rate, settings: SearchSettings, pace_s: float, *, raced: int) -> _Quantity:
    """Seconds that a run under way is expected to take yet."""
    pace = _Quantity(mean=pace_s)
    first = min(rate.gates, default=rate.epochs)
    racing = _races(settings) and raced < min(settings.startup_trials, settings.trials)
    if trial.repeats is not None:
        return _Quantity(mean=trial.config.num_epochs - trial.epochs).times(pace)
    if racing and trial.epochs < first:
        return _Quantity(mean=first - trial.epochs).times(pace)
    return rate.run(after=trial.epochs).times(pace)


def _bounded(left: _Quantity, settings: SearchSettings, *, spent_s: float) -> Estimate:
    """Shared out among those that run at a time, and at most what the hours leave."""
    mean_s, deviation_s = left.mean / settings.concurrent, math.sqrt(left.variance) / settings.concurrent
    if settings.hours is None:
        return Estimate(mean_s=mean_s, deviation_s=deviation_s)
    bound_s = max(0.0, settings.hours * 3600 - spent_s)
    certain = mean_s - EIGHT_OF_TEN * deviation_s > bound_s
    return Estimate(mean_s=min(mean_s, bound_s), deviation_s=0.0 if certain else deviation_s)


def _measured(table: Table, settings: SearchSettings) -> _Rate:
    return _Rate(
        epoch_s=_pace_of_new(table, settings),
        between_s=_between_s(table),
        gates=_gates(table, settings),
        epochs=settings.train.num_epochs,
    )


def _races(settings: SearchSettings) -> bool:
    return settings.policy in ("race", "i-epoch") and bool(rung_epochs(settings))


def _is_live(trial: Trial) -> bool:
    return trial.state in ("proposed", "running", "interrupted")


def _is_judged(trial: Trial, settings: SearchSettings) -> bool:
    """Whether the trial is through its race: it has reached the first rung, or ended before."""
    first = min(rung_epochs(settings), default=0)
    return trial.epochs >= first or not (_is_live(trial) or trial.state == "paused")


def _since_last_s(table: Table, now_ms: int, live: Sequence[Trial]) -> float:
    """Seconds of the epoch under way, of which the journal knows nothing yet; at most one epoch's."""
    longest_s = max((_pace_s(table, trial) for trial in live), default=0.0)
    return min(longest_s, max(0.0, (now_ms - table.last_ms) / 1000))


def _gates(table: Table, settings: SearchSettings) -> dict[int, float]:
    """Rung's epoch -> chance to pass it, from those judged there, the recent ones weighing most; the race left out."""
    later = [trial for trial in table.searched if trial.number > settings.startup_trials or not _races(settings)]
    newest = max(table.trials, default=0)
    gates = {}
    for rung in rung_epochs(settings):
        verdicts = {trial.number: trial.epochs > rung for trial in later if _is_past(trial, rung)}
        weights = {number: 0.5 ** ((newest - number) / HALF_LIFE_TRIALS) for number in verdicts}
        passed = sum(weights[number] for number, went_on in verdicts.items() if went_on)
        gates[rung] = (passed + PRIOR_CHANCE * PRIOR_TRIALS) / (sum(weights.values()) + PRIOR_TRIALS)
    return gates


def _is_past(trial: Trial, rung: int) -> bool:
    return trial.epochs > rung or (trial.epochs == rung and trial.state in ("stopped", "paused"))


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


def _pace_of_new(table: Table, settings: SearchSettings) -> _Quantity:
    """Seconds of an epoch of a run not yet proposed: those measured, with the space's sizes as a prior."""
    known = [(trial, seconds) for trial in table.searched if (seconds := epoch_s(trial)) is not None]
    sampled = [seconds for trial, seconds in known if trial.origin != "default"]
    per_pixel = median(seconds / _pixels(trial.config) for trial, seconds in known)
    prior = [per_pixel * pixels for pixels in _sizes(settings)]
    weights = [1.0] * len(sampled) + [PRIOR_TRIALS / len(prior)] * len(prior)
    values = [*sampled, *prior]
    mean = sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
    spread = sum(weight * (value - mean) ** 2 for weight, value in zip(weights, values, strict=True)) / sum(weights)
    return _Quantity(mean=mean, variance=spread)


def _sizes(settings: SearchSettings) -> list[float]:
    """Pixels of an image, for each size searched (else those of the base configuration)."""
    dimension = settings.space.get("image_size")
    if dimension is None:
        return [float(_pixels(settings.train))]
    return [float(side) ** 2 for side in dimension.samples() if not isinstance(side, str)]


def _between_s(table: Table) -> float:
    """Median seconds that a worker had an ended trial and that were no epoch, and from its proposal to its start."""
    rest = [
        sum(until - since for since, until in trial.spans_ms) / 1000
        - sum(report.train_s + report.eval_s for report in trial.reports)
        + (trial.spans_ms[0][0] - trial.proposed_ms) / 1000
        for trial in table.trials.values()
        if trial.ended_ms is not None and trial.epochs and trial.spans_ms
    ]
    return max(0.0, median(rest)) if rest else BETWEEN_S


def _sum(parts: Iterable[_Quantity]) -> _Quantity:
    total = _Quantity(mean=0.0)
    for part in parts:
        total = total + part
    return total
