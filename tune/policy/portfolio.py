"""What earlier searches learnt: per detector a few configurations of which one does well on any data seen so far.

    python -m tune.policy.portfolio results/*

Reads the journals of searches and writes ``results/portfolio.json``; a search does the same when it ends, so that each
one improves the next. The project's own is ``configs/portfolio.json``.

Every search counts as a task. A Gaussian process of each says what any configuration would reach there, the ones tried
elsewhere included, and members are chosen greedily: the default first, then whichever configuration raises the best
value among the members most, averaged over tasks and over draws from each task's process. Tasks weigh alike: a value
counts from the task's median trial (0) to its best (1).

The greedy choice: Xu, Hoos and Leyton-Brown, "Hydra: Automatically Configuring Algorithms for Portfolio-Based
Selection", 2010; for hyperparameters: Feurer et al., "Practical Automated Machine Learning", 2018, section 3.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from pydantic import Field

from tune.history.journal import Param, Table, Trial, read_table
from tune.paths import JOURNAL
from vqc.config import Record, load_record, shipped_settings
from vqc.errors import SearchError, UserError
from vqc.files import write_atomically

if TYPE_CHECKING:
    from tune.policy.gaussian_process import Array

__all__ = ["Chosen", "Portfolio", "build", "main", "members_for", "own_file", "renew"]

MEMBERS = 8
TRIALS_OF_A_TASK = 8  # fewer say too little about what was not tried
DRAWS = 64


class Chosen(Record):
    """The portfolio of one detector."""

    members: tuple[dict[str, Param], ...] = Field(description="searched values, the default configuration's first")
    tasks: tuple[str, ...] = Field(description="the searches that it was learnt from")


class Portfolio(Record):
    """Of every detector that a search of eight trials or more was made with."""

    detectors: dict[str, Chosen] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One search: what was tried and what it reached, 0 for the median trial, 1 for the best."""

    name: str
    default: dict[str, Param]
    points: list[dict[str, Param]]
    values: list[float]


def own_file(results: Path) -> Path:
    """Where the portfolio of the user's own searches lies."""
    return results / "portfolio.json"


def members_for(
    detector: str, results: Path, *, fields: Iterable[str], shipped: Path | None = None
) -> tuple[tuple[dict[str, Param], ...], str]:
    """Members for a detector that say something of all fields searched, those of the user's own searches first, and a
    sentence on where they come from.

    Raises:
        ConfigError: a portfolio's file is broken.
    """
    sources = {"your searches": own_file(results), "the project's": shipped or shipped_settings("portfolio.json")}
    found, counts = list[dict[str, Param]](), list[str]()
    for whose, path in sources.items():
        chosen = load_record(Portfolio, path).detectors.get(detector) if path.exists() else None
        usable = [one for one in chosen.members if one.keys() >= set(fields)] if chosen is not None else []
        if chosen is not None and usable:
            found += usable
            counts.append(f"{whose} ({len(chosen.tasks)})")
    if not found:
        said = f"No portfolio for {detector} yet: the search opens with the default and points spread over the space."
        return (), said
    return tuple(found), f"Opens with what did well for {detector} in earlier searches, {' and '.join(counts)}."


def renew(results: Path) -> Path | None:
    """Build the user's own portfolio from all searches in ``results``; None where none of them says enough."""
    portfolio = build(_readable(sorted(results.glob(f"*/{JOURNAL}"))))
    if not portfolio.detectors:
        return None
    path = own_file(results)
    write_atomically(path, _text(portfolio))
    return path


def _text(portfolio: Portfolio) -> bytes:
    return (json.dumps(portfolio.model_dump(mode="json"), indent=2) + "\n").encode()


def build(tables: Iterable[Table]) -> Portfolio:
    """The portfolio of these searches. Equal searches give equal portfolios."""
    tasks: dict[str, list[_Task]] = {}
    for table in tables:
        task = _task(table)
        if task is not None:
            tasks.setdefault(str(table.header.settings["train"]["model"]), []).append(task)
    return Portfolio(detectors={detector: _chosen(tasks[detector]) for detector in sorted(tasks)})


def _readable(journals: Iterable[Path]) -> list[Table]:
    """Journals that cannot be read are somebody else's trouble: a portfolio does not fail because of one."""
    tables = []
    for path in journals:
        try:
            tables.append(read_table(path))
        except SearchError:
            continue
    return tables


def _task(table: Table) -> _Task | None:
    metric = table.metric
    trials = [trial for trial in table.searched if trial.epochs and trial.state not in ("failed", "infeasible")]
    if len(trials) < TRIALS_OF_A_TASK:
        return None
    values = [_at_full_length(trial, trials, metric) for trial in trials]
    middle, top = median(values), max(values)
    if top <= middle:
        return None
    images = table.header.data.get("images", {}).get("train", "?")
    return _Task(
        name=f"{Path(table.header.data.get('root', '?')).name}, {images} training images, {len(trials)} trials",
        default=trials[0].params,
        points=[trial.params for trial in trials],
        values=[(value - middle) / (top - middle) for value in values],
    )


def _at_full_length(trial: Trial, trials: Sequence[Trial], metric: str) -> float:
    """A trial's best value; for one that was cut short, raised by what longer ones gained after that epoch (median)."""
    value = trial.best(metric)[0]
    longest = max(other.epochs for other in trials)
    if trial.epochs == longest:
        return value
    full = [other for other in trials if other.epochs == longest]
    gains = [other.best(metric)[0] - max(other.values(metric)[: trial.epochs]) for other in full]
    return min(value + median(gains), max(other.best(metric)[0] for other in full))


def _chosen(tasks: Sequence[_Task]) -> Chosen:
    """Greedy choice among all points that were tried anywhere and have all fields."""
    import numpy as np

    names = list(tasks[-1].default)
    usable = [task for task in tasks if task.default.keys() == tasks[-1].default.keys()]
    points: list[dict[str, Param]] = []
    for point in (point for task in usable for point in (task.default, *task.points)):
        if point not in points:
            points.append(point)
    cube, choices = _cube(points, names)
    draws = np.concatenate([_draws(task, points, cube, choices) for task in usable])  # [tasks * DRAWS, points]
    members = [points.index(usable[-1].default)]
    reached = draws[:, members[0]]
    while len(members) < min(MEMBERS, len(points)):
        gains = np.maximum(draws - reached[:, None], 0.0).mean(0)
        gains[members] = -1.0
        members.append(int(gains.argmax()))
        reached = np.maximum(reached, draws[:, members[-1]])
    shown = tuple({name: _rounded(value) for name, value in points[index].items()} for index in members)
    return Chosen(members=shown, tasks=tuple(task.name for task in usable))


def _rounded(value: Param) -> Param:
    """Three digits: more would claim what no search can tell."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _cube(points: Sequence[Mapping[str, Param]], names: Sequence[str]) -> tuple[Array, list[int]]:
    """The points [m, d] in the unit cube of their extent, positive numbers by ratio; and counts of named choices."""
    import numpy as np

    columns, choices = [], []
    for name in names:
        values = [point[name] for point in points]
        numbers = [value for value in values if not isinstance(value, str)]
        if len(numbers) < len(values):
            kinds = sorted({str(value) for value in values})
            columns.append([(kinds.index(str(value)) + 0.5) / len(kinds) for value in values])
            choices.append(len(kinds))
            continue
        by_ratio = min(numbers) > 0
        scaled = [math.log(value) if by_ratio else float(value) for value in numbers]
        low, extent = min(scaled), (max(scaled) - min(scaled)) or 1.0
        columns.append([(value - low) / extent for value in scaled])
        choices.append(0)
    return np.array(columns).T, choices


def _draws(task: _Task, points: Sequence[dict[str, Param]], cube: Array, choices: list[int]) -> Array:
    """What each point may reach on the task: [DRAWS, points], jointly drawn, so that neighbours rise together."""
    import numpy as np

    from tune.policy.gaussian_process import fit

    tried = [points.index(point) for point in task.points]
    values = np.array(task.values)
    drawn = fit(cube[tried], values, choices=choices).draw(cube, DRAWS, np.random.default_rng(0))
    drawn[:, tried] = values  # what was measured is known, as well as one run knows it
    return drawn


def main(argv: Sequence[str] | None = None) -> int:
    """Build a portfolio from searches' folders; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tune.policy.portfolio",
        description="Learn from earlier searches what to try first in the next one.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of searches: results/*")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: portfolio.json beside the first folder")
    flags = parser.parse_args(argv)
    try:
        journals = [folder / JOURNAL for folder in _expanded(flags.folders) if (folder / JOURNAL).is_file()]
        portfolio = build([read_table(path) for path in journals])
        if not portfolio.detectors:
            raise SearchError(
                f"{flags.folders[0].parent}: got {len(journals)} searches, expected one of at least {TRIALS_OF_A_TASK} "
                "trials with a score",
                command="python tune/search.py --trials 30",
            )
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_status
    output = flags.output or own_file(flags.folders[0].parent)
    write_atomically(output, _text(portfolio))
    for detector, chosen in portfolio.detectors.items():
        print(f"{detector}: {len(chosen.members)} configurations from {len(chosen.tasks)} searches")  # noqa: T201
    print(f"wrote {output}")  # noqa: T201
    return 0


def _expanded(folders: Sequence[Path]) -> list[Path]:
    """Stars are expanded here as well: not every shell does."""
    return [
        found
        for folder in folders
        for found in (sorted(folder.parent.glob(folder.name)) if "*" in folder.name else [folder])
    ]


if __name__ == "__main__":
    sys.exit(main())
