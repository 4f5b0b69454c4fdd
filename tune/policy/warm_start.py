"""Initial points of a search: what did well before, moved into its space.

They become part of the settings when a search starts, so that a resumed search has the same ones. An earlier search on
the same data is asked for by name (``--warm-start``); without it, the portfolio says what did well on other data
(``tune.policy.portfolio``).
"""

from __future__ import annotations

from collections.abc import Iterable

from tune.history.table import Table
from tune.policy.replication import best_trial
from tune.settings import SearchSettings
from tune.space import Params, Space
from vqc.data.dataset import Data
from vqc.errors import SearchError

SEARCH = "python tune/search.py --trials 30"


def best_points(table: Table, settings: SearchSettings, data: Data) -> tuple[Params, ...]:
    """The best configurations of an earlier search, best first, as many as ``startup_trials`` has room for.

    Raises:
        SearchError: it was on other data, with another detector, searched what is not searched now, or has no score.
    """
    header = table.header
    for what, got, expected in (
        ("data", header.data.get("fingerprint"), data.fingerprint),
        ("detector", header.settings["train"]["model"], settings.train.model),
    ):
        if got != expected:
            raise SearchError(
                f"--warm-start {header.name}: its {what} differ: got {got}, expected {expected}; "
                "what did well on other data comes from the portfolio, without this flag",
                command=SEARCH,
            )
    if missing := sorted(set(header.settings["space"]) - set(settings.space)):
        raise SearchError(
            f"--warm-start {header.name}: it searched {', '.join(missing)}, expected no field but "
            f"{', '.join(settings.space)}",
            command=SEARCH,
        )
    best = best_trial(table)
    if best is None:
        raise SearchError(f"--warm-start {header.name}: no trial of it has a score", command=SEARCH)
    # A field that it did not search has the value that all its trials were trained with.
    space = Space(settings.space)
    return distinct_points(
        (space.params_of(trial.config) | trial.params for trial in [best, *table.leaders()]), settings
    )


def distinct_points(points: Iterable[Params], settings: SearchSettings) -> tuple[Params, ...]:
    """The points moved into the space, without the default, up to ``startup_trials`` with it.

    A point that nearly equals one before it is left out: it would take the place of one that can teach more.
    """
    space = Space(settings.space)
    default = space.params_of(settings.train)
    known, found = [default] if space.contains(default) else [], list[Params]()
    for point in map(space.nearest, points):
        if not any(space.repeats(point, other) for other in [*known, *found]):
            found.append(point)
    return tuple(found[: settings.startup_trials - 1])
