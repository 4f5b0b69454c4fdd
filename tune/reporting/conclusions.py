"""What a search's results allow to conclude, in the words that terminal, report and MLflow share. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from tune.history import queries
from tune.history.queries import figure, range_text, scored
from tune.history.table import Table, Trial
from tune.policy.replication import best_trial, rest_of_run_s
from tune.policy.schedule import MAX_RESERVED
from tune.settings import Dimension, with_params
from tune.tile_choices import TILES
from vqc.errors import ConfigError
from vqc.reporting.terminal import duration

NEAR = 0.05  # of a range: what is closer to its end counts as at the end
WIDER = 0.25  # of the range: how far to widen it
CUT_OFF = ("paused", "interrupted")  # trials that a resumed search may go on with


def is_finished(table: Table) -> bool:
    """Whether all trials were tried, so that nothing is left to resume."""
    return table.ended is not None and table.ended.reason == "trials"


def ranking(table: Table) -> list[Trial]:
    """Trials with a score: the best trial, then the others by value.

    Where configurations were repeated, the best trial is of the highest mean and need not have the highest value.
    """
    best = best_trial(table)
    return [] if best is None else [best, *(trial for trial in scored(table) if trial is not best)]


def cut_off(table: Table) -> str:
    """A sentence where the hours ended before the best trial had run all its epochs; else empty."""
    best = _cut_off_trial(table)
    if best is None:
        return ""
    epochs, rest = f"{best.epochs} of {best.config.num_epochs} epochs", duration(rest_of_run_s(best))
    return f"trial {best.number}, the best, had {epochs} when the hours ended: the rest needs about {rest}"


def shortened(table: Table) -> str:
    """A sentence where the hours left trials fewer epochs than a full training has; else empty."""
    found = [trial for trial in table.trials.values() if trial.shortened]
    each = ", ".join(f"trial {trial.number} only {trial.config.num_epochs}" for trial in found)
    return f"of {table.settings.train.num_epochs} epochs the hours left {each}" if found else ""


def resume_command(table: Table) -> str:
    """The command that goes on. Where the hours are used up, it asks for as many as the search began with, or for what
    the best trial still needs and an epoch, beside the share that is kept for the default and the repeats.
    """
    command = queries.resume_command(table.header.name)
    if not _ended_with_its_hours(table):
        return command
    hours, best = table.header.budget.hours or 0.0, _cut_off_trial(table)
    if best is not None:
        rest_s = rest_of_run_s(best) + (queries.epoch_s(best) or 0.0)
        hours = max(hours, rest_s / 3600 / (1 - MAX_RESERVED))
    return f"{command} --hours {math.ceil(hours * 10) / 10:g}" if hours else command


def _cut_off_trial(table: Table) -> Trial | None:
    """The best trial where the hours ended before it did."""
    best = best_trial(table) if _ended_with_its_hours(table) else None
    return best if best is not None and best.state in CUT_OFF else None


def _ended_with_its_hours(table: Table) -> bool:
    return table.ended is not None and table.ended.reason == "hours"


def edges(table: Table) -> list[str]:
    """A sentence for each searched value of the best trial at an end of its range: beyond it nothing was tried.

    Where the training configuration allows nothing beyond, such as a batch size below 1, there is none; nor for tiles,
    which have no order: 0 is the whole photograph, and larger ones than were tried are nearly that.
    """
    best = best_trial(table)
    if best is None:
        return []
    found = []
    for name, dimension in table.settings.space.items():
        value = None if name == TILES else best.params.get(name)
        beyond = None if value is None or isinstance(value, str) else _beyond(dimension, value)
        if value is None or beyond is None or not _is_allowed(best, name, beyond[1]):
            continue
        end, wider = beyond
        if dimension.choices is not None:
            where, change = f"the {end}est", f"add {figure(wider)} to space.{name}.choices"
        else:
            where, change = f"at the {end} end", f"set space.{name}.{end} to {figure(wider)}"
        found.append(f"{name} {figure(value)} is {where} of {range_text(dimension)}: {change}")
    return found


def _is_allowed(trial: Trial, name: str, value: float) -> bool:
    try:
        with_params(trial.config, {name: value})
    except ConfigError:
        return False
    return True


def _beyond(dimension: Dimension, value: float) -> tuple[str, float] | None:
    """The end of the range that the value is at, and a value beyond it; None inside, or where values have no order."""
    if dimension.choices is not None:
        numbers = [choice for choice in dimension.choices if not isinstance(choice, str)]
        if len(numbers) < max(2, len(dimension.choices)) or numbers != sorted(numbers):
            return None
        is_low, is_high = value <= numbers[0], value >= numbers[-1]
        wider = _continued(numbers[::-1] if is_low else numbers)
    else:
        scale, back = (math.log, math.exp) if dimension.log else (float, float)
        low, high = scale(dimension.low or 0.0), scale(dimension.high or 0.0)
        place = (scale(value) - low) / (high - low)
        is_low, is_high = place <= NEAR, place >= 1 - NEAR
        exact = back(low - WIDER * (high - low) if is_low else high + WIDER * (high - low))
        wider = round(exact) if dimension.integer else float(f"{exact:.2g}")
    if not (is_low or is_high):
        return None
    # The default may lie outside of the space, and further out than that.
    return ("low", min(wider, value)) if is_low else ("high", max(wider, value))


def _continued(numbers: Sequence[float | int]) -> float | int:
    """The number that follows: by ratio where all others do and it stays whole, else by difference."""
    before, last = numbers[-2:]
    ratios = {second / first if first else math.nan for first, second in pairwise(numbers)}
    by_ratio = len(ratios) == 1 and before and last and last * last % before == 0
    return last * last // before if by_ratio else 2 * last - before
