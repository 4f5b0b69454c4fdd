"""How long a search takes: a pure function of the table, or of a dry run before there is one.

The rungs cut a full training into stretches, and of the trials that ran one stretch a share runs the next. What is left
is the rest of the stretches under way, those not yet started, the default's training in full, and the repeats. Two
quantities are learnt while the search runs, each from a prior worth a few trials: the share of trials that is promoted
at a rung, and the seconds of an epoch, which grow with the pixels of an image and, where
photographs are cut, with the number of tiles. Promoted trials rarely have the mean
size, so the leaders' epochs count for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from tune.history.queries import epoch_s
from tune.history.table import Table, Trial
from tune.history.workload import epoch_px
from tune.policy.replication import fewest_repeats
from tune.policy.rungs import rung_epochs
from tune.settings import Budget, SearchSettings
from tune.tile_choices import searched_tiles

PRIOR_TRIALS = 4.0  # weight of what is assumed before anything was seen, in trials
PROMOTED = 0.4  # of those that reach a rung, at least, by the end of the search: measured
LEADERS = 3  # trials whose epochs stand for those of promoted trials and repeats
OUTLIER = 5.0  # times the usual seconds per pixel: no setting takes so long, but an epoch in which the machine slept
HALF_LIFE_TRIALS = 6.0  # of what a trial says about the next one's image size
BETWEEN_S = 0.5  # proposal, start and saving of a trial, before any was measured


@dataclass(frozen=True, kw_only=True)
class EpochCost:
    """Median seconds of a whole epoch, evaluation on val included; None where the size does not fit into memory.

    ``tile_px``: side of the tiles; 0: whole photographs.
    """

    image_size: int
    tile_px: int = 0
    epoch_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of a search: with all image sizes and tiles tried alike, and with the cheapest or the dearest one alone.

    ``trials``: configurations that the hours have room for, with all sizes tried alike; None without hours.
    """

    mean_s: float
    low_s: float
    high_s: float
    trials: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Pace:
    """Seconds of an epoch, of a trial not yet proposed and of one that goes on at a rung; and between two trials."""

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

    def needed_s(trials: int, epoch_s: float) -> float:
        asked = settings.model_copy(update={"budget": Budget(trials=trials)})
        return _rest_s([], asked, _Pace(new_s=epoch_s, leaders_s=epoch_s, between_s=BETWEEN_S)) / settings.concurrent

    def total_s(epoch_s: float) -> float:
        trials = settings.budget.trials
        return hours_s if trials is None else min(needed_s(trials, epoch_s), hours_s)

    room = None
    if settings.budget.hours is not None:
        few = fewest_repeats(settings) + 1  # from so many on, each trial adds the same
        few_s, more_s = (needed_s(trials, fmean(known)) for trials in (few, few + 1))
        room = max(1, few + math.floor((hours_s - few_s) / (more_s - few_s)))
    return Estimate(mean_s=total_s(fmean(known)), low_s=total_s(min(known)), high_s=total_s(max(known)), trials=room)


def time_left_s(table: Table, now_ms: int) -> float | None:
    """Seconds until the search ends, at the pace measured so far; None before the first epoch, 0 after the end."""
    if table.ended is not None:
        return 0.0
    since_s = max(0.0, (now_ms - table.last_ms) / 1000)  # the latest event, by the wall clock
    bound_s = max(0.0, table.left_s() - since_s)
    settings, epochs = table.settings, _epochs_s(table)
    if settings.budget.trials is None or not epochs:
        return None if math.isinf(bound_s) else bound_s
    new_s = _new_epoch_s(table, epochs, settings)
    leaders_s = fmean([*(epochs[trial.number] for trial in table.leaders()[:LEADERS]), new_s])
    pace = _Pace(new_s=new_s, leaders_s=leaders_s, between_s=_between_s(table))
    live = [(trial, _epoch_s(table, epochs, trial)) for trial in table.trials.values() if trial.is_live]
    live_s = sum((_next_end(trial, settings) - trial.epochs) * seconds for trial, seconds in live)
    passed_s = min(since_s, max((seconds for _, seconds in live), default=0.0), live_s)  # of the epoch under way
    left_s = live_s - passed_s + _rest_s(list(table.trials.values()), settings, pace)
    return min(left_s / settings.concurrent, bound_s)


def _rest_s(trials: Sequence[Trial], settings: SearchSettings, pace: _Pace) -> float:
    """Seconds of all stretches that have not started, one after the other."""
    asked = settings.budget.trials or 0
    searched = [trial for trial in trials if trial.repeats is None]
    ends = _ends(settings)
    repeats_left = max(0, min(fewest_repeats(settings), asked) - (len(trials) - len(searched)))
    total_s = repeats_left * (ends[-1] * pace.leaders_s + pace.between_s)
    if trials and trials[-1].repeats and (settings.budget.hours is not None or len(searched) >= asked):
        return total_s  # repeats come last: paused trials will not go on
    reach = float(asked)  # trials of the whole search that run the stretch
    for start, end in pairwise([0, *ends]):
        started = sum(trial.epochs > start or (trial.epochs == start and trial.is_live) for trial in searched)
        reach *= _promoted_share(searched, start) if start else 1.0
        epoch_s = pace.leaders_s if start else pace.new_s
        total_s += max(0.0, reach - started) * ((end - start) * epoch_s + pace.between_s)
    default = next((trial for trial in searched if trial.origin == "default"), None)
    if default is None or default.state == "paused":  # it is trained in full at the end
        epochs_left = ends[-1] - (ends[0] if default is None else default.epochs)
        total_s += epochs_left * pace.leaders_s + pace.between_s
    return total_s


def _ends(settings: SearchSettings) -> list[int]:
    """Where the stretches of a full training end: at the rungs, and with its last epoch."""
    return [*rung_epochs(settings), settings.train.num_epochs]


def _next_end(trial: Trial, settings: SearchSettings) -> int:
    """The epoch at which a live trial's present stretch ends."""
    ends = _ends(settings)
    if trial.repeats is not None or trial.shortened or (trial.origin == "default" and trial.epochs > ends[0]):
        return trial.config.num_epochs
    return next((end for end in ends if end > trial.epochs), trial.epochs)


def _promoted_share(searched: Sequence[Trial], rung: int) -> float:
    """Of the trials that reach a rung in the whole search, how many are promoted."""
    reached = [trial for trial in searched if trial.epochs >= rung]
    promoted = sum(trial.epochs > rung or trial.is_live for trial in reached)
    return max(PROMOTED, promoted / (len(reached) + PRIOR_TRIALS))


def _pixels(table: Table, trial: Trial) -> float:
    """What the trial's epoch gives to the detector."""
    return epoch_px(table.header.data, image_size=trial.config.image_size, tile_px=trial.config.tile_px)


def _epochs_s(table: Table) -> dict[int, float]:
    """Trial -> seconds of its epoch, for those that have one; limited where the machine slept in the only one."""
    known = {number: seconds for number, trial in table.trials.items() if (seconds := epoch_s(trial)) is not None}
    usual_s = (
        median(seconds / _pixels(table, table.trials[number]) for number, seconds in known.items()) if known else 0.0
    )
    return {n: min(seconds, OUTLIER * usual_s * _pixels(table, table.trials[n])) for n, seconds in known.items()}


def _epoch_s(table: Table, epochs_s: Mapping[int, float], trial: Trial) -> float:
    """Seconds of a trial's epoch: its own, else those of its image size and tiles, else scaled by the pixels."""
    if trial.number in epochs_s:
        return epochs_s[trial.number]
    pixels = _pixels(table, trial)
    measured = [(_pixels(table, table.trials[number]), seconds) for number, seconds in epochs_s.items()]
    alike = [seconds for other, seconds in measured if other == pixels]
    return median(alike) if alike else median(seconds / other for other, seconds in measured) * pixels


def _new_epoch_s(table: Table, epochs_s: Mapping[int, float], settings: SearchSettings) -> float:
    """Seconds of an epoch of a trial not yet proposed: those measured, with the space's sizes as a prior.

    The latest count most: as the sampler learns which sizes are good, it proposes more of them.
    """
    known = [trial for trial in table.searched if trial.number in epochs_s]
    sampled = [trial.number for trial in known if trial.origin != "default"]
    per_pixel_s = median(epochs_s[trial.number] / _pixels(table, trial) for trial in known)
    sizes = settings.space["image_size"].samples() if "image_size" in settings.space else ()
    squares = [(int(side), int(side)) for side in sizes if not isinstance(side, str)] or [settings.train.image_size]
    prior_px = [
        epoch_px(table.header.data, image_size=size, tile_px=tile_px)
        for size in squares
        for tile_px in searched_tiles(settings)
    ]
    weighted = [(0.5 ** ((sampled[-1] - number) / HALF_LIFE_TRIALS), epochs_s[number]) for number in sampled]
    weighted += [(PRIOR_TRIALS / len(prior_px), per_pixel_s * pixels) for pixels in prior_px]
    return float(sum(weight * seconds for weight, seconds in weighted) / sum(weight for weight, _ in weighted))


def _between_s(table: Table) -> float:
    """Median seconds between trials: what a worker had an ended one beyond its epochs, and from proposal to start."""
    rest = [
        sum(until - since for since, until in trial.spans_s)
        - sum(report.epoch_s for report in trial.reports)
        + (trial.spans_s[0][0] - trial.proposed_s)
        for trial in table.trials.values()
        if trial.ended_s is not None and trial.epochs and trial.spans_s
    ]
    return max(0.0, median(rest)) if rest else BETWEEN_S
