"""What earlier searches of other photographs are worth: searches that begin cold, and that begin with their portfolio.

    python tests/benchmarks/opened.py --data ../shared/data/deeppcb-mini --portfolio results/portfolio.json
    ... [--seeds 0 1 2] [--hours 0.15] [--trials 30] [--epochs 10]

Two searches for each seed, one after the other, as a user runs them, with the CPU's settings; the pair's order changes
from seed to seed. The table has the best AP50 on val so far at each quarter of the hours, as means with standard
errors, and the differences, paired by seed. Seconds count from the start of the command.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.photographs import Side, run, search_settings, told_by
from tune.history.journal import read_table
from tune.paths import journal_of
from tune.policy.portfolio import portfolio_file

QUARTERS = 4


def search(asked: argparse.Namespace, seed: int, folder: Path, *, portfolio: Path | None) -> Side:
    """One search in a folder of its own; with a portfolio it begins with the project's too.

    Raises:
        ValueError: it began with a portfolio where it should not, or without.
    """
    results = folder / f"{'opened' if portfolio else 'cold'}-{seed}"
    results.mkdir(parents=True)
    settings, config = search_settings(portfolio=portfolio is not None), folder / f"{results.name}.json"
    config.write_text(json.dumps(settings), encoding="utf-8")
    if portfolio:
        shutil.copy(portfolio, portfolio_file(results))
    words = [sys.executable, "-m", "tune.search", "--data", str(asked.data), "--config", str(config), "--name", "a"]
    words += ["--results", str(results), "--seed", str(seed), "--confirm", "0", "--epochs", str(asked.epochs)]
    words += ["--trials", str(asked.trials), "--hours", str(asked.hours)]
    started_s, wall_s = run(words, folder / f"{results.name}.log", dict(os.environ))
    points = read_table(journal_of(results / "a")).settings.initial_points
    if bool(points) != bool(portfolio):
        raise ValueError(f"{results.name}: began with {len(points)} configurations of a portfolio")
    return told_by(results / "a", results.name, started_s, wall_s, metric=settings["metric"])


def table(cold: Sequence[Side], opened: Sequence[Side], hours: float) -> list[list[str]]:
    """Rows of the best score so far at each quarter of the hours: cold, opened, and their difference."""
    marks = [3600 * hours * quarter / QUARTERS for quarter in range(1, QUARTERS + 1)]
    rows = [["", *(f"{mark:.0f} s" for mark in marks), "end", "trials", "epochs"]]
    values = [[[*map(side.best_at, marks), side.best] for side in sides] for sides in (cold, opened)]
    for name, sides, scores in zip(("cold", "opened"), (cold, opened), values, strict=True):
        counts = [sum(side.trials for side in sides), sum(len(side.epochs) for side in sides)]
        rows.append([name, *map(_mean, zip(*scores, strict=True)), *(f"{c / len(sides):.1f}" for c in counts)])
    pairs = zip(*values, strict=True)
    differences = [[two - one for one, two in zip(*pair, strict=True)] for pair in pairs]
    return [*rows, ["difference", *map(_mean, zip(*differences, strict=True)), "", ""]]


def _mean(values: Sequence[float]) -> str:
    error = f" ± {statistics.stdev(values) / math.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--portfolio", type=Path, required=True, help="of searches of other photographs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--hours", type=float, default=0.15)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=10)
    asked = parser.parse_args()
    sides: dict[bool, list[Side]] = {False: [], True: []}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for turn, seed in enumerate(asked.seeds):
            for opens in (False, True) if turn % 2 == 0 else (True, False):
                side = search(asked, seed, Path(folder), portfolio=asked.portfolio if opens else None)
                sides[opens].append(side)
                print(f"{side.name:10} best {side.best:.3f}, {side.trials} trials, {len(side.epochs)} epochs, ", end="")
                print(f"{side.failed} failed, {side.wall_s:.0f} s", flush=True)
    for row in table(sides[False], sides[True], asked.hours):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
