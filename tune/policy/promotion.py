"""Which paused trial is promoted: runs its next epochs. Pure.

Where earlier searches gave initial points, all of these are tried first, with the default, and the best three, or about
half of fewer than six, are trained in full: each did best somewhere, so few are given up at the low rungs, where a fast
starter leads. Without initial points the first few dozen are ranked among one another: for every nine that reach a
rung, the best of those paused there is promoted (Li et al., "A System for Massively Parallel Hyperparameter Tuning",
section 3.2), and one that is as good as the best completed trial was there continues at once. Later trials, and all
paused ones once every configuration was tried, are compared with the best completed trial: the one most likely to
exceed it is promoted, while that is likely enough (``tune.policy.learning_curves``), or while too few epochs are those
of completed trials: what the others may gain is learnt from these. So epochs go into many configurations first and into
the best ones last, and a slow starter is not lost.

Once the hours leave only as much as the best paused trial still needs, at the earliest in their last third, it goes on
in any case, and the next best ones beside and after it, each in as many epochs as are left (``tune.policy.schedule``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tune.history.table import Table, Trial
from tune.policy.learning_curves import predict_final_values
from tune.policy.replication import epoch_under_way_s, last_epoch, rest_of_run_s
from tune.policy.rungs import pauses_at, rung_epochs
from tune.settings import SearchSettings

MIN_LEARNT = 0.005  # half a point: a detector with less at a rung has learnt nothing yet
REDUCTION_FACTOR = 9  # one in so many trials that reach a rung is promoted,
RANKED = 4  # until so many times ``startup_trials`` were proposed;
OPENING = (3, 5, 6)  # of six or more initial points and default, so many pass the highest rung, the next, any lower;
MIN_PROBABILITY = 0.1  # after that, each trial with this probability of becoming the best,
MIN_COMPLETED_SHARE = 0.35  # or the likeliest, while completed trials have less than this share of all epochs
LAST_SHARE = 1 / 3  # of the hours, at most, in which the best paused trials are finished before anything new is tried
MIN_COMPLETED = 3  # trials that run all epochs in any case by the end; with fewer, nobody knows what others may gain


def next_promotion(table: Table, settings: SearchSettings, *, left_s: float = math.inf) -> Trial | None:
    """The paused trial that runs its next epochs, if any; the default at the latest, once all were tried.

    Args:
        left_s: awake seconds for searched trials.
    """
    default = default_to_complete(table) if all_tried(table, settings) else None
    return most_promising(table, settings, left_s=left_s) or default


def default_to_complete(table: Table) -> Trial | None:
    """The default while it is paused: at the end it is trained in full, because every result is compared with it."""
    default = table.trials.get(1)
    return default if default is not None and default.state == "paused" else None


def promoted_epochs(table: Table, settings: SearchSettings, trial: Trial, *, left_s: float) -> int:
    """``num_epochs`` of a searched trial that is promoted now: its own, or only as many as end with the hours.

    These it gets near the end of the hours, and earlier where they do not leave it its next rung.

    Args:
        left_s: awake seconds for searched trials, without what is kept for an epoch under way.
    """
    if math.isinf(left_s):
        return trial.config.num_epochs
    last = last_epoch(trial, left_s + epoch_under_way_s(table))
    next_end = next((rung for rung in rung_epochs(settings) if rung > trial.epochs), trial.config.num_epochs)
    return last if last < next_end or is_late(table, left_s) else trial.config.num_epochs


def is_late(table: Table, left_s: float) -> bool:
    """Whether so many seconds are the last third of the hours, or less."""
    return not math.isinf(left_s) and left_s <= LAST_SHARE * 3600 * table.whole_hours


def all_tried(table: Table, settings: SearchSettings) -> bool:
    """Whether as many trials were proposed as the budget has; never where it has hours alone."""
    return settings.budget.trials is not None and len(table.searched) >= settings.budget.trials


def most_promising(
    table: Table, settings: SearchSettings, *, left_s: float = math.inf, arrived: Trial | None = None
) -> Trial | None:
    """The trial that is promoted next, of the paused ones and ``arrived``, which has just reached a rung."""
    by_rank = len(table.searched) <= RANKED * settings.startup_trials and not all_tried(table, settings)
    rungs = rung_epochs(settings)
    waiting = [
        trial for trial in table.searched if trial.epochs in rungs and (trial.state == "paused" or trial is arrived)
    ]
    if not waiting:
        return None
    last_to_finish = _last_to_finish(table, settings, waiting, left_s)
    if last_to_finish is not None:
        return last_to_finish
    if settings.initial_points:
        return _best_of_opening(table, settings, waiting, arrived, by_rank=by_rank)
    if by_rank:
        return _best_by_rank(table, settings, waiting, arrived)
    return _likeliest_best(table, settings, waiting)


def _last_to_finish(table: Table, settings: SearchSettings, waiting: Sequence[Trial], left_s: float) -> Trial | None:
    """The waiting trial expected to reach most, once the hours leave only its rest, in the last third of them.

    Whatever was proposed then would not come so far. Before it the default, where that waits too: time is kept for it,
    and beside it the best can use all that is left. None once all were tried: nothing else could use the time, and the
    usual rule says who has a chance.
    """
    if not is_late(table, left_s) or all_tried(table, settings):
        return None
    predicted = predict_final_values(waiting, table.completed, settings)
    best = max(waiting, key=lambda trial: (predicted[trial.number].mean, -trial.number))
    if left_s > rest_of_run_s(best):
        return None
    default = default_to_complete(table)
    return default if default in waiting else best


def _best_of_opening(
    table: Table, settings: SearchSettings, waiting: Sequence[Trial], arrived: Trial | None, *, by_rank: bool
) -> Trial | None:
    """The best waiting trial of the default and the initial points, at the lowest rung that too few have passed.

    None until all were proposed, and while others of them are on the way that may be better. After that the best of all
    trials: by rank, where that is asked for and while a small opening has completed few, else the likeliest.
    """
    count = 1 + len(settings.initial_points)
    opening = [trial for trial in table.searched[:count] if trial.state not in ("failed", "infeasible")]
    if len(table.searched) < count and not all_tried(table, settings):
        return None
    numbers = {trial.number for trial in opening}
    # One earlier search gives few, and may have little to say of other photographs: about half are trained in full.
    places = [min(most, max(1, round(most * len(opening) / OPENING[-1]))) for most in OPENING]
    rungs = rung_epochs(settings)
    on_the_way = [trial for trial in opening if trial.is_live and trial is not arrived]
    for below_highest, rung in zip(range(len(rungs) - 1, -1, -1), rungs, strict=True):
        at_rung = [trial for trial in waiting if trial.number in numbers and trial.epochs == rung]
        passed = [trial for trial in opening if _has_passed(trial, rung)] + [t for t in on_the_way if t.epochs == rung]
        left = places[min(below_highest, len(places) - 1)] - len(passed)
        if at_rung and left > 0:  # for the best, not for whoever of several workers arrives first
            coming = [trial for trial in on_the_way if trial.epochs < rung]
            return _best_first(at_rung, settings.metric)[0] if left > len(coming) else None
    if any(trial.epochs <= rungs[-1] for trial in on_the_way):
        return None
    if by_rank and len(table.completed) < MIN_COMPLETED:
        return _best_by_rank(table, settings, waiting, arrived)
    return _likeliest_best(table, settings, waiting)


def _best_by_rank(
    table: Table, settings: SearchSettings, waiting: Sequence[Trial], arrived: Trial | None
) -> Trial | None:
    """The best waiting trial of the highest rung where it is as good as the best completed trial was there, or where
    fewer than one in nine were promoted.
    """
    metric = settings.metric
    champion = next(iter(_best_first(table.completed, metric)), None)
    usable = [trial for trial in table.searched if trial.state not in ("failed", "infeasible")]
    for rung in reversed(rung_epochs(settings)):
        at_rung = [trial for trial in waiting if trial.epochs == rung]
        if not at_rung:
            continue
        best = _best_first(at_rung, metric)[0]
        reached = [trial for trial in usable if trial.epochs >= rung and pauses_at(trial, rung, settings)]
        promoted = sum(
            _has_passed(trial, rung) or (trial.state == "running" and trial is not arrived)
            for trial in reached
            if has_learnt(trial, rung, metric)
        )
        is_record = champion and best.values(metric)[-1] >= champion.values(metric)[min(rung, champion.epochs) - 1]
        if is_record or promoted < len(reached) // REDUCTION_FACTOR:
            return best
    return None


def _likeliest_best(table: Table, settings: SearchSettings, waiting: Sequence[Trial]) -> Trial | None:
    """The trial that is most likely to exceed the best completed one, if likely enough or if few epochs are completed.

    While none is completed, or fewer than three once all were tried: the best of the highest rung, because what the
    others may gain is not known yet.
    """
    metric, completed = settings.metric, table.completed
    if len(completed) < (MIN_COMPLETED if all_tried(table, settings) else 1):
        highest = max(trial.epochs for trial in waiting)
        return _best_first((trial for trial in waiting if trial.epochs == highest), metric)[0]
    best = max(trial.values(metric)[-1] for trial in completed)
    predicted = predict_final_values(waiting, completed, settings)
    probability = {number: 1.0 - one.cdf(best) for number, one in predicted.items()}
    first = max(waiting, key=lambda trial: (probability[trial.number], predicted[trial.number].mean, -trial.number))
    return first if probability[first.number] >= MIN_PROBABILITY or _too_few_completed(table, settings) else None


def _too_few_completed(table: Table, settings: SearchSettings) -> bool:
    """Whether a guess is worth its epochs; never once all were tried, because nothing is learnt for later trials."""
    completed = sum(trial.epochs for trial in table.completed)
    searched = sum(trial.epochs for trial in table.searched)
    return completed < MIN_COMPLETED_SHARE * searched and not all_tried(table, settings)


def _has_passed(trial: Trial, rung: int) -> bool:
    return trial.epochs > rung or trial.state == "completed"  # of a shortened one it may have been the last epoch


def has_learnt(trial: Trial, rung: int, metric: str) -> bool:
    return trial.values(metric)[rung - 1] >= MIN_LEARNT


def _best_first(trials: Iterable[Trial], metric: str) -> list[Trial]:
    """By their latest value; equal ones in the order of proposal."""
    return sorted(trials, key=lambda trial: (-trial.values(metric)[-1], trial.number))
