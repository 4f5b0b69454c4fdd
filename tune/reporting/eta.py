"""How long a search takes: a pure function of the journal's table, or of a rehearsal before there is one.

Called by the progress display and by ``--dry-run``. The rungs cut a full training into stretches, and of the trials
that ran one stretch a share runs the next. What is to come is the rest of the stretches under way, those not yet begun,
the default's way to its end, and the repeats. Learnt while the search runs, each from a prior that weighs as much as a
few trials: the share that passes a rung, and the seconds of an epoch, which grow with the pixels of an image; those
that go on are rarely of the mean size, so the leaders' pace is kept apart. Each part has a mean and a variance, and so
has their sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, pvariance

from tune.history.journal import Table, Trial
from tune.history.queries import elapsed_s, epoch_s, settings_of
from tune.policy.early_stopping import rung_epochs
from tune.settings import SearchSettings
from vqc.config import TrainConfig

__all__ = ["EpochCost", "Estimate", "time_left", "whole_search"]

PRIOR_TRIALS = 4.0  # weight of what is assumed before anything was seen, in trials
GOES_ON = 0.4  # of those that reach a rung, at least, by the end of the search: measured
LEADERS = 3  # whose pace is taken for what goes on and for the repeats
OUTLIER = 5.0  # times the usual seconds of a pixel: no setting costs so much, a machine that slept in an epoch does
HALF_LIFE_TRIALS = 6.0  # of what a trial says about the size of the next one's images
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
class _Pace:
    """Seconds of an epoch, of a run not yet proposed and of one that goes on at a rung; and between two runs."""

    new_s: _Quantity
    leaders_s: _Quantity
    between_s: float

    def first_s(self, epochs: float) -> _Quantity:
        return _Quantity(mean=epochs).times(self.new_s) + _Quantity(mean=self.between_s)

    def later_s(self, epochs: float) -> _Quantity:
        return _Quantity(mean=epochs).times(self.leaders_s) + _Quantity(mean=self.between_s)


def whole_search(settings: SearchSettings, costs: Sequence[EpochCost]) -> Estimate:
    """The whole search, from what a rehearsal measured at each image size.

    Args:
        costs: at least one of them of a size that fits.
    """
    known = [cost for cost in costs if cost.epoch_s is not None]
    means = [cost.epoch_s or 0.0 for cost in known]
    wobble = fmean(((cost.high_s or 0.0) - (cost.low_s or 0.0)) ** 2 / 12 for cost in known)
    any_size = _Quantity(mean=fmean(means), variance=pvariance(means) + wobble)
    pace = _Pace(new_s=any_size, leaders_s=any_size, between_s=BETWEEN_S)
    return _bounded(_to_come([], settings, pace), settings, spent_s=0.0)


def time_left(table: Table, now_ms: int) -> Estimate | None:
    """Until the search ends, at the pace measured so far; None before the first epoch, 0 after the end."""
    if table.ended is not None:
        return Estimate(mean_s=0.0, deviation_s=0.0)
    if not any(trial.epochs for trial in table.trials.values()):
        return None
    settings = settings_of(table).model_copy(update={"trials": table.trials_asked})
    paces_s = _paces_s(table)
    new_s = _pace_of_new(table, paces_s, settings)
    pace = _Pace(new_s=new_s, leaders_s=_pace_of_leaders(table, paces_s, new_s), between_s=_between_s(table))
    live = [(trial, _pace_s(table, paces_s, trial)) for trial in table.trials.values() if _is_live(trial)]
    current_s = sum((_next_end(trial, settings) - trial.epochs) * seconds for trial, seconds in live)
    passed_s = min(_since_last_s(table, now_ms, [seconds for _, seconds in live]), current_s)
    left = _Quantity(mean=current_s - passed_s) + _to_come(list(table.trials.values()), settings, pace)
    return _bounded(left, settings, spent_s=elapsed_s(table) + passed_s)


def _to_come(trials: Sequence[Trial], settings: SearchSettings, pace: _Pace) -> _Quantity:
    """Seconds of all stretches that are not begun yet."""
    searched = [trial for trial in trials if trial.repeats is None]
    repeats = len(trials) - len(searched)
    ends = _ends(settings)
    again = pace.later_s(ends[-1]).repeated(max(0, min(settings.confirm, settings.trials) - repeats))
    if trials and trials[-1].repeats and (settings.hours is not None or len(searched) >= settings.trials):
        # They come last: whoever still waits at a rung waits in vain, unless a resumption asks for more trials.
        return again
    parts, reach, uncertain = [], float(settings.trials), 0.0  # trials of the whole search that run the stretch
    for number, (begin, end) in enumerate(pairwise([0, *ends])):
        begun = sum(trial.epochs > begin or (trial.epochs == begin and _is_live(trial)) for trial in searched)
        if number:
            share = _share(searched, begin, settings)
            at_rung = sum(trial.epochs >= begin for trial in searched)
            uncertain = (uncertain + max(0.0, reach - at_rung)) * share * (1 - share)
            reach *= share
        missing = max(0.0, reach - begun)
        stretch = pace.later_s(end - begin) if number else pace.first_s(end)
        parts.append(stretch.repeated(missing))
        parts.append(_Quantity(mean=0.0, variance=min(uncertain, missing) * stretch.mean**2))
    default = next((trial for trial in searched if trial.origin == "default"), None)
    if rung_epochs(settings) and (default is None or default.state == "paused"):  # it is run in full at the end
        parts.append(pace.later_s(ends[-1] - (ends[0] if default is None else default.epochs)))
    parts.append(again)
    return _sum(parts)


def _ends(settings: SearchSettings) -> list[int]:
    """Where the stretches of a full training end: at the rungs, and with its last epoch."""
    return [*rung_epochs(settings), settings.train.num_epochs]


def _next_end(trial: Trial, settings: SearchSettings) -> int:
    """The epoch at which a live trial's present stretch ends."""
    if trial.repeats is not None or trial.origin == "default" and trial.epochs > _ends(settings)[0]:
        return trial.config.num_epochs
    return next((end for end in _ends(settings) if end > trial.epochs), trial.epochs)


def _share(searched: Sequence[Trial], rung: int, settings: SearchSettings) -> float:
    """Of the trials that reach a rung in the whole search, how many go on: the rule's share, or what it was so far."""
    reached = [trial for trial in searched if trial.epochs >= rung]
    passed = sum(trial.epochs > rung or _is_live(trial) for trial in reached)
    return max(GOES_ON, passed / (len(reached) + PRIOR_TRIALS))


def _bounded(left: _Quantity, settings: SearchSettings, *, spent_s: float) -> Estimate:
    """Shared out among those that run at a time, and at most what the hours leave."""
    mean_s, deviation_s = left.mean / settings.concurrent, math.sqrt(left.variance) / settings.concurrent
    if settings.hours is None:
        return Estimate(mean_s=mean_s, deviation_s=deviation_s)
    bound_s = max(0.0, settings.hours * 3600 - spent_s)
    certain = mean_s - EIGHT_OF_TEN * deviation_s > bound_s
    return Estimate(mean_s=min(mean_s, bound_s), deviation_s=0.0 if certain else deviation_s)


def _is_live(trial: Trial) -> bool:
    return trial.state in ("proposed", "running", "interrupted")


def _since_last_s(table: Table, now_ms: int, live_s: Iterable[float]) -> float:
    """Seconds of the epoch under way, of which the journal knows nothing yet; at most one epoch's."""
    return min(max(live_s, default=0.0), max(0.0, (now_ms - table.last_ms) / 1000))


def _pixels(config: TrainConfig) -> int:
    height, width = config.image_size
    return height * width


def _paces_s(table: Table) -> dict[int, float]:
    """Seconds of an epoch of each trial that has one, without what a sleep in its only epoch made of them."""
    known = {number: seconds for number, trial in table.trials.items() if (seconds := epoch_s(trial)) is not None}
    usual_s = median(seconds / _pixels(table.trials[number].config) for number, seconds in known.items())
    most_s = {number: OUTLIER * usual_s * _pixels(table.trials[number].config) for number in known}
    return {number: min(seconds, most_s[number]) for number, seconds in known.items()}


def _pace_s(table: Table, paces_s: Mapping[int, float], trial: Trial) -> float:
    """Seconds of an epoch of a trial: its own, else those of its image size, else scaled by the pixels."""
    if trial.number in paces_s:
        return paces_s[trial.number]
    measured = [(table.trials[number], seconds) for number, seconds in paces_s.items()]
    alike = [seconds for other, seconds in measured if _pixels(other.config) == _pixels(trial.config)]
    if alike:
        return median(alike)
    return median(seconds / _pixels(other.config) for other, seconds in measured) * _pixels(trial.config)


def _pace_of_new(table: Table, paces_s: Mapping[int, float], settings: SearchSettings) -> _Quantity:
    """Seconds of an epoch of a run not yet proposed: those measured, with the space's sizes as a prior.

    The latest weigh most: as the sampler learns which sizes are worth it, it proposes more of them.
    """
    known = [(trial, paces_s[trial.number]) for trial in table.searched if trial.number in paces_s]
    sampled = {trial.number: seconds for trial, seconds in known if trial.origin != "default"}
    per_pixel = median(seconds / _pixels(trial.config) for trial, seconds in known)
    prior = [per_pixel * pixels for pixels in _sizes(settings)]
    newest = max(sampled, default=0)
    weights = [0.5 ** ((newest - number) / HALF_LIFE_TRIALS) for number in sampled]
    weights += [PRIOR_TRIALS / len(prior)] * len(prior)
    values = [*sampled.values(), *prior]
    mean = sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
    spread = sum(weight * (value - mean) ** 2 for weight, value in zip(weights, values, strict=True)) / sum(weights)
    return _Quantity(mean=mean, variance=spread)


def _pace_of_leaders(table: Table, paces_s: Mapping[int, float], new: _Quantity) -> _Quantity:
    """Seconds of an epoch of the best few, blended with that of any run, which counts as one of them."""
    blended = [*(paces_s[trial.number] for trial in table.leaders()[:LEADERS]), new.mean]
    return _Quantity(mean=fmean(blended), variance=pvariance(blended) + new.variance / len(blended))


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
