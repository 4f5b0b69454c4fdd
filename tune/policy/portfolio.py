"""What earlier searches learnt: per detector a few configurations of which one does well on any data seen so far.

    python -m tune.policy.portfolio results/*

Reads the journals of searches and writes ``results/portfolio.json``; a search does the same when it ends, so that each
one improves the next. The project's own is ``configs/portfolio.json``.

Every search is a task. A Gaussian process per task predicts what any configuration would reach there, those tried
elsewhere included. Members are chosen greedily among the configurations that some search trained in full, or that
reached more than all that it trained in full: the default first, then the one that raises the best value among the
members most, averaged over tasks and over draws from each task's process, until the next one would hardly raise it.
Tasks have equal weight: a value counts from the task's median trial (0) to its best (1). A field that one search varied
and another did not has in the other the value that all its trials were trained with, so that no search is left out.

The greedy choice: Xu, Hoos and Leyton-Brown, "Hydra: Automatically Configuring Algorithms for Portfolio-Based
Selection", 2010; for hyperparameters: Feurer et al., "Practical Automated Machine Learning", 2018, section 3.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import Field

from tune.history.events import Param
from tune.history.journal import read_table
from tune.history.table import Table, Trial
from tune.paths import JOURNAL
from tune.policy.learning_curves import predict_final_values
from tune.settings import Dimension
from tune.space import Space
from tune.tile_choices import TILES
from vqc.config import Record, load_record, shipped_settings
from vqc.errors import ConfigError, SearchError, UserError
from vqc.files import write_atomically

MAX_MEMBERS = 8
MIN_GAIN = 0.005  # a member is expected to raise the best by so much of the way from a median trial to the best one
WHOLE: dict[str, Param] = {TILES: 0}  # what searches that did not search tiles were trained on
MIN_TRIALS = 8  # fewer say too little about what was not tried
DRAWS = 64


class Members(Record):
    """The portfolio of one detector."""

    members: tuple[dict[str, Param], ...] = Field(description="searched values, the default configuration's first")
    tasks: tuple[str, ...] = Field(description="the searches that it was learnt from")


class Portfolio(Record):
    """Of every detector that a search of eight trials or more was made with."""

    detectors: dict[str, Members] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One search: its trials, the default's first, and what they reached, 0 for the median trial, 1 for the best."""

    name: str
    fields: tuple[str, ...]
    trials: list[Trial]
    values: list[float]
    measured: frozenset[int]  # numbers of the trials that count with what they reached, not with what is predicted


def portfolio_file(results: Path) -> Path:
    """Where the portfolio of the user's own searches is."""
    return results / "portfolio.json"


def members_for(
    detector: str, results: Path, *, fields: Collection[str], shipped: Path | None = None
) -> tuple[tuple[dict[str, Param], ...], str]:
    """Members for a detector that have all searched fields, those of the user's own searches first, and a sentence on
    where they come from.

    Raises:
        ConfigError: a portfolio's file is broken.
    """
    found, counts = list[dict[str, Param]](), list[str]()
    shipped = shipped or shipped_settings("portfolio.json")
    for owner, path in (("your searches", portfolio_file(results)), ("the project's", shipped)):
        known = load_record(Portfolio, path).detectors.get(detector) if path.exists() else None
        members = [{**WHOLE, **member} if TILES in fields else member for member in (known.members if known else ())]
        usable = [member for member in members if member.keys() >= set(fields)]
        if known is not None and usable:
            found += usable
            counts.append(f"{owner} ({len(known.tasks)})")
    if not found:
        return (), (
            f"No portfolio for {detector} yet: the search starts with the default and points spread over the space."
        )
    return tuple(found), f"Starts with what did well for {detector} in earlier searches, {' and '.join(counts)}."


def renew(results: Path) -> Path | None:
    """Build the user's own portfolio from all searches in ``results``; None where none of them says enough.

    Journals that cannot be read are left out.
    """
    tables = []
    for path in sorted(results.glob(f"*/{JOURNAL}")):
        try:
            tables.append(read_table(path))
        except SearchError:
            continue
    return _write(build(tables), portfolio_file(results))


def build(tables: Iterable[Table]) -> Portfolio:
    """The portfolio of these searches. Equal searches give equal portfolios."""
    tasks: dict[str, list[_Task]] = {}
    for table in tables:
        task = _task(table)
        if task is not None:
            tasks.setdefault(str(table.header.settings["train"]["model"]), []).append(task)
    return Portfolio(detectors={detector: _members(tasks[detector]) for detector in sorted(tasks)})


def _write(portfolio: Portfolio, path: Path) -> Path | None:
    if not portfolio.detectors:
        return None
    write_atomically(path, f"{portfolio.model_dump_json(indent=2)}\n".encode())
    return path


def _task(table: Table) -> _Task | None:
    """None of a search that says too little, or whose settings are not known here any more."""
    trials = [trial for trial in table.searched if trial.epochs and trial.state not in ("failed", "infeasible")]
    completed = [trial for trial in trials if trial.state == "completed"]
    if len(trials) < MIN_TRIALS or not completed:
        return None
    try:
        predicted = predict_final_values(trials, completed, table.settings)
    except ConfigError:
        return None
    metric = table.settings.metric
    latest = {trial.number: trial.values(metric)[-1] for trial in trials}
    best = max(trial.best(metric)[0] for trial in completed)  # some get worse in their last epochs
    # In a short night the hours cut off the best one, above what the default reached in all its epochs.
    measured = frozenset(trial.number for trial in trials if trial.state == "completed" or latest[trial.number] > best)
    top = max(latest[number] for number in measured)
    values = [
        latest[trial.number] if trial.number in measured else min(predicted[trial.number].mean, top) for trial in trials
    ]
    middle = median(values)
    if middle >= top:  # one full training, of a slow starter, promises everybody as much as the best has
        middle = median(latest.values())
    if top <= middle:
        return None
    data = table.header.data
    images = data.get("images", {}).get("train", "?")
    return _Task(
        name=f"{Path(data.get('root', '?')).name}, {images} training images, {len(trials)} trials",
        fields=tuple(trials[0].params),
        trials=trials,
        values=[(value - middle) / (top - middle) for value in values],
        measured=measured,
    )


def _members(tasks: Sequence[_Task]) -> Members:
    """Greedy choice among the points that were measured anywhere, over all fields that were searched anywhere.

    What other short trainings seem to promise is only told to the processes: most of them would be fast starters.
    """
    import numpy as np

    from tune.policy.gaussian_process import fit

    fields = list(dict.fromkeys(field for task in tasks for field in task.fields))
    tried = [[_point(trial, fields) for trial in task.trials] for task in tasks]
    points = list({tuple(point.items()): point for of_task in tried for point in of_task}.values())
    space = _enclosing_space(points, fields)
    cube = np.array([space.to_unit(point) for point in points])
    draws = []  # [DRAWS, points] per task, jointly drawn, so that neighbours rise together
    measured = set[int]()
    for task, of_task in zip(tasks, tried, strict=True):
        rows = [points.index(point) for point in of_task]
        process = fit(cube[rows], np.array(task.values), unordered=space.unordered)
        draws.append(process.draw(cube, DRAWS, np.random.default_rng(0)))
        for row, trial, value in zip(rows, task.trials, task.values, strict=True):
            if trial.number in task.measured:
                draws[-1][:, row] = value  # known, as well as one training knows it
                measured.add(row)
    reachable = np.concatenate(draws)
    chosen = [points.index(tried[-1][0])]
    reached = reachable[:, chosen[0]]
    while len(chosen) < MAX_MEMBERS and measured - set(chosen):
        left = sorted(measured - set(chosen))
        gains = np.maximum(reachable[:, left] - reached[:, None], 0.0).mean(0)
        if gains.max() < MIN_GAIN:
            break
        chosen.append(left[int(gains.argmax())])
        reached = np.maximum(reached, reachable[:, chosen[-1]])
    # Three digits: more would claim what no search can tell.
    members = tuple(
        {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in points[index].items()}
        for index in chosen
    )
    return Members(members=members, tasks=tuple(task.name for task in tasks))


def _point(trial: Trial, fields: Sequence[str]) -> dict[str, Param]:
    """What the trial was trained with; of an image size that is not square, the longer side."""
    values: dict[str, Any] = {**trial.config.model_dump(), **trial.params}
    return {name: max(values[name]) if isinstance(values[name], tuple) else values[name] for name in fields}


def _enclosing_space(points: Sequence[dict[str, Param]], fields: Sequence[str]) -> Space:
    """The smallest space around the points, positive numbers on a logarithmic scale."""
    dimensions = {}
    for name in fields:
        values = sorted({point[name] for point in points}, key=lambda value: (str(type(value)), value))
        numbers = [float(value) for value in values if not isinstance(value, str)]
        if len(numbers) < len(values) or min(numbers) == max(numbers):
            dimensions[name] = Dimension(choices=tuple(values))
        else:
            dimensions[name] = Dimension(low=min(numbers), high=max(numbers), log=min(numbers) > 0)
    return Space(dimensions)


def main(argv: Sequence[str] | None = None) -> int:
    """Build a portfolio from searches' folders; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tune.policy.portfolio",
        description="Learn from earlier searches what to try first in the next one.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of searches: results/*")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: portfolio.json beside the first folder")
    flags = parser.parse_args(argv)
    output = flags.output or portfolio_file(flags.folders[0].parent)
    try:
        named: list[Path] = flags.folders
        # Not every shell expands stars.
        expanded = [sorted(one.parent.glob(one.name)) if "*" in one.name else [one] for one in named]
        journals = [folder / JOURNAL for found in expanded for folder in found if (folder / JOURNAL).is_file()]
        portfolio = build(read_table(path) for path in journals)
        if _write(portfolio, output) is None:
            raise SearchError(
                f"{flags.folders[0].parent}: got {len(journals)} searches, expected one of at least {MIN_TRIALS} "
                "trials with a score",
                command="python tune/search.py --trials 30",
            )
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    for detector, chosen in portfolio.detectors.items():
        sys.stdout.write(f"{detector}: {len(chosen.members)} configurations from {len(chosen.tasks)} searches\n")
    sys.stdout.write(f"wrote {output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
