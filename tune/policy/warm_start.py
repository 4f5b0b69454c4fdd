"""What a search tries right after the default: what did well before, here or elsewhere.

Called when a search begins; the points become part of its settings, so that a resumed search opens with the same
ones. An earlier search on the same data is asked for by name (``--warm-start``); without one, the portfolio says what
did well on other data (``tune.policy.portfolio``).
"""

from __future__ import annotations

from collections.abc import Iterable

from tune.history.queries import scored
from tune.history.table import Table
from tune.policy.replication import best_trial
from tune.settings import Dimension, SearchSettings
from tune.space import Params, Space, default_params, nearest_choice
from vqc.data.dataset import Data
from vqc.errors import SearchError

__all__ = ["best_of", "distinct", "inside"]

SEARCH = "python tune/search.py --trials 30"


def best_of(table: Table, settings: SearchSettings, data: Data) -> tuple[Params, ...]:
    """The best configurations of an earlier search, best first, as many as the start-up has room for.

    Raises:
        SearchError: it was on other data, over another space, with another detector, or has no score.
    """
    header = table.header
    for what, got, expected in (
        ("data", header.data.get("fingerprint"), data.fingerprint),
        ("detector", header.settings["train"]["model"], settings.train.model),
        ("searched fields", sorted(header.settings["space"]), sorted(settings.space)),
    ):
        if got != expected:
            raise SearchError(
                f"--warm-start {header.name}: its {what} differ: got {got}, expected {expected}; "
                "what did well on other data comes from the portfolio, without this flag",
                command=SEARCH,
            )
    best = best_trial(table)
    if best is None:
        raise SearchError(f"--warm-start {header.name}: no trial of it has a score", command=SEARCH)
    ranked = [best, *(trial for trial in scored(table) if trial is not best)]
    return distinct((trial.params for trial in ranked), settings)


def distinct(points: Iterable[Params], settings: SearchSettings) -> tuple[Params, ...]:
    """The points moved into the space, without repetitions and without the default, up to the start-up's number."""
    known = [default_params(settings.space, settings.train)]
    for point in points:
        moved = inside(settings.space, point)
        if moved not in known:
            known.append(moved)
    return tuple(known[1 : settings.startup_trials])


def inside(space: Space, point: Params) -> Params:
    """The point of the space that is nearest to ``point``, dimension by dimension."""
    return {name: _nearest(dimension, point[name]) for name, dimension in space.items()}


def _nearest(dimension: Dimension, value: float | int | str) -> float | int | str:
    if dimension.choices is not None:
        return nearest_choice(dimension.choices, value)
    if isinstance(value, str):
        raise TypeError(f"not a number: {value!r}")
    low, high = dimension.low or 0.0, dimension.high or 0.0
    held = min(max(value, low), high)
    return round(held) if dimension.integer else float(held)
