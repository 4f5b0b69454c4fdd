"""How long a search takes: a pure function of the table, or of a dry run before there is one.

Called by the live display and by ``--dry-run``. The rungs cut a full training into stretches, and of the trials that
ran one stretch a share runs the next. What is to come is the rest of the stretches under way, those not yet begun, the
default's way to its end, and the repeats. Two things are learnt while the search runs, each from a prior that weighs as
much as a few trials: the share of trials that passes a rung, and the seconds of an epoch, which grow with the pixels of
an image. Trials that go on rarely have the mean size, so the leaders' pace is kept apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from tune.history.queries import epoch_s
from tune.history.table import Table, Trial
from tune.policy.early_stopping import rung_epochs
from tune.settings import SearchSettings
from vqc.config import TrainConfig

PRIOR_TRIALS = 4.0  # weight of what is assumed before anything was seen, in trials
PASSES = 0.4  # of those that reach a rung, at least, by the end of the search: measured
LEADERS = 3  # whose pace is taken for what goes on and for the repeats
OUTLIER = 5.0  # times the usual seconds of a pixel: no setting costs so much, a machine that slept in an epoch does
HALF_LIFE_TRIALS = 6.0  # of what a trial says about the size of the next one's images
BETWEEN_S = 0.5  # of a trial that was no epoch, before any was measured: proposal, start, saving


@dataclass(frozen=True, kw_only=True)
class EpochCost:
    """Median seconds of a whole epoch, evaluation on val included; None where the size does not fit into memory."""

    image_size: int
    epoch_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of a search: where all sizes are tried alike, and where only the cheapest or the dearest one is."""

    mean_s: float
    low_s: float
    high_s: float


@dataclass(frozen=True, kw_only=True)
class _Pace:
    """Seconds of an epoch, of a run not yet proposed and of one that goes on at a rung; and between two runs."""

    new_s: float
    leaders_s: float
    between_s: float


def whole_search(settings: SearchSettings, costs: Sequence[EpochCost]) -> Estimate:
    """The whole search, from what a dry run measured at each image size.

    Args:
        costs: at least one of them of a size that fits.
    """
    known = [cost.epoch_s for cost in costs if cost.epoch_s is not None]
    hours_s = math.inf if settings.budget.hours is None else settings.budget.hours * 3600

    def total_s(pace_s: float) -> float:
        if settings.budget.trials is None:
            return hours_s
        to_come_s = _to_come_s([], settings, _Pace(new_s=pace_s, leaders_s=pace_s, between_s=BETWEEN_S))
        return min(to_come_s / settings.concurrent, hours_s)

    return Estimate(mean_s=total_s(fmean(known)), low_s=total_s(min(known)), high_s=total_s(max(known)))


def time_left_s(table: Table, now_ms: int) -> float | None:
    """Seconds until the search ends, at the pace measured so far; None before the first epoch, 0 after the end."""
    if table.ended is not None:
        return 0.0
    unknown_s = max(0.0, (now_ms - table.last_ms) / 1000)  # since the latest event; of sleep the next one will tell
    bound_s = math.inf if table.left_s is None else max(0.0, table.left_s - unknown_s)
    settings = table.settings
    if settings.budget.trials is None or not any(trial.epochs for trial in table.trials.values()):
        return None if math.isinf(bound_s) else bound_s
    paces_s = _paces_s(table)
    new_s = _pace_of_new_s(table, paces_s, settings)
    leaders_s = fmean([*(paces_s[trial.number] for trial in table.leaders()[:LEADERS]), new_s])
    pace = _Pace(new_s=new_s, leaders_s=leaders_s, between_s=_between_s(table))
    live = [(trial, _pace_s(table, paces_s, trial)) for trial in table.trials.values() if trial.is_live]
    current_s = sum((_next_end(trial, settings) - trial.epochs) * seconds for trial, seconds in live)
    passed_s = min(unknown_s, max((seconds for _, seconds in live), default=0.0), current_s)  # of the epoch under way
    left_s = current_s - passed_s + _to_come_s(list(table.trials.values()), settings, pace)
    return min(left_s / settings.concurrent, bound_s)


def _to_come_s(trials: Sequence[Trial], settings: SearchSettings, pace: _Pace) -> float:
    """Seconds of all stretches that are not begun yet, one after the other."""
    asked = settings.budget.trials or 0
    searched = [trial for trial in trials if trial.repeats is None]
    ends = _ends(settings)
    repeats_left = max(0, min(settings.confirm, asked) - (len(trials) - len(searched)))
    total_s = repeats_left * (ends[-1] * pace.leaders_s + pace.between_s)
    if trials and trials[-1].repeats and (settings.budget.hours is not None or len(searched) >= asked):
        return total_s  # they come last: whoever still waits at a rung waits in vain
    reach = float(asked)  # trials of the whole search that run the stretch
    for begin, end in pairwise([0, *ends]):
        begun = sum(trial.epochs > begin or (trial.epochs == begin and trial.is_live) for trial in searched)
        reach *= _share(searched, begin) if begin else 1.0
        epoch_s = pace.leaders_s if begin else pace.new_s
        total_s += max(0.0, reach - begun) * ((end - begin) * epoch_s + pace.between_s)
    default = next((trial for trial in searched if trial.origin == "default"), None)
    if default is None or default.state == "paused":  # it is run in full at the end
        rest = ends[-1] - (ends[0] if default is None else default.epochs)
        total_s += rest * pace.leaders_s + pace.between_s
    return total_s


def _ends(settings: SearchSettings) -> list[int]:
    """Where the stretches of a full training end: at the rungs, and with its last epoch."""
    return [*rung_epochs(settings), settings.train.num_epochs]


def _next_end(trial: Trial, settings: SearchSettings) -> int:
    """The epoch at which a live trial's present stretch ends."""
    if trial.repeats is not None or (trial.origin == "default" and trial.epochs > _ends(settings)[0]):
        return trial.config.num_epochs
    return next((end for end in _ends(settings) if end > trial.epochs), trial.epochs)


def _share(searched: Sequence[Trial], rung: int) -> float:
    """Of the trials that reach a rung in the whole search, how many go on."""
    reached = [trial for trial in searched if trial.epochs >= rung]
    passed = sum(trial.epochs > rung or trial.is_live for trial in reached)
    return max(PASSES, passed / (len(reached) + PRIOR_TRIALS))


def _pixels(config: TrainConfig) -> int:
    return math.prod(config.image_size)


def _paces_s(table: Table) -> dict[int, float]:
    """Seconds of an epoch of each trial that has one, without what a sleep in its only epoch made of them."""
    known = {number: seconds for number, trial in table.trials.items() if (seconds := epoch_s(trial)) is not None}
    usual_s = median(seconds / _pixels(table.trials[number].config) for number, seconds in known.items())
    return {
        number: min(seconds, OUTLIER * usual_s * _pixels(table.trials[number].config))
        for number, seconds in known.items()
    }


def _pace_s(table: Table, paces_s: Mapping[int, float], trial: Trial) -> float:
    """Seconds of an epoch of a trial: its own, else those of its image size, else scaled by the pixels."""
    if trial.number in paces_s:
        return paces_s[trial.number]
    pixels = _pixels(trial.config)
    measured = [(_pixels(table.trials[number].config), seconds) for number, seconds in paces_s.items()]
    alike = [seconds for other, seconds in measured if other == pixels]
    return median(alike) if alike else median(seconds / other for other, seconds in measured) * pixels


def _pace_of_new_s(table: Table, paces_s: Mapping[int, float], settings: SearchSettings) -> float:
    """Seconds of an epoch of a run not yet proposed: those measured, with the space's sizes as a prior.

    The latest weigh most: as the sampler learns which sizes are worth it, it proposes more of them.
    """
    known = [trial for trial in table.searched if trial.number in paces_s]
    sampled = [trial.number for trial in known if trial.origin != "default"]
    per_pixel_s = median(paces_s[trial.number] / _pixels(trial.config) for trial in known)
    prior_s = [per_pixel_s * pixels for pixels in _sizes_px(settings)]
    weighed = [(0.5 ** ((sampled[-1] - number) / HALF_LIFE_TRIALS), paces_s[number]) for number in sampled]
    weighed += [(PRIOR_TRIALS / len(prior_s), seconds) for seconds in prior_s]
    return float(sum(weight * seconds for weight, seconds in weighed) / sum(weight for weight, _ in weighed))


def _sizes_px(settings: SearchSettings) -> list[float]:
    """Pixels of an image, for each size searched (else those of the base configuration)."""
    dimension = settings.space.get("image_size")
    if dimension is None:
        return [float(_pixels(settings.train))]
    return [float(side) ** 2 for side in dimension.samples() if not isinstance(side, str)]


def _between_s(table: Table) -> float:
    """Median seconds that a worker had an ended trial and that were no epoch, and from its proposal to its start."""
    rest = [
        sum(until - since for since, until in trial.spans_s)
        - sum(report.train_s + report.eval_s for report in trial.reports)
        + (trial.spans_s[0][0] - trial.proposed_s)
        for trial in table.trials.values()
        if trial.ended_s is not None and trial.epochs and trial.spans_s
    ]
    return max(0.0, median(rest)) if rest else BETWEEN_S
