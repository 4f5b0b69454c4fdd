"""What the terminal says before a search begins and after it ends, and how trials are listed there.

Called by the engine and by the progress display; calls the outcome and rich. Everything here is a rich renderable
that also reads well as plain text, 80 columns wide, in ASCII.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tune.history import queries as outcome
from tune.history.table import Table, Trial
from tune.policy.early_stopping import rung_epochs
from tune.policy.replication import best_trial, repeated
from tune.reporting.eta import EpochCost, Estimate
from vqc.shell import as_typed

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from tune.settings import Dimension, SearchSettings

__all__ = ["console_of", "leaderboard", "lenient", "plan", "show", "summary"]


def leaderboard(trials: Sequence[Trial], metric: str) -> RenderableType:
    """A table of trials in the order given; names and values are shown as they are, never as markup."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    # A column for each searched value is easier to read down, as long as 80 characters hold them all.
    apart = sum(len(name) + 2 for name in names) <= 42
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="dim")
    for title in ("trial", outcome.metric_name(metric), "epochs", *(names if apart else ())):
        grid.add_column(Text(title), justify="right", no_wrap=True)
    grid.add_column("state", no_wrap=True)
    if not apart:
        grid.add_column("configuration", overflow="fold")
    for rank, trial in enumerate(trials):
        value = outcome.score(trial, metric)
        values = [outcome.figure(trial.params[name]) if name in trial.params else "-" for name in names]
        cells = [
            str(trial.number),
            "-" if value is None else f"{value:.3f}",
            f"{trial.epochs}/{trial.config.num_epochs}",
            *(values if apart else ()),
            trial.state,
            *(() if apart else (outcome.configuration(trial.params),)),
        ]
        grid.add_row(*map(Text, cells), style="bold" if rank == 0 else "")
    return grid


def plan(
    settings: SearchSettings,
    data_summary: Mapping[str, Any],
    links: Mapping[str, str],
    *,
    costs: Sequence[EpochCost] = (),
    expected: Estimate | None = None,
) -> RenderableType:
    """What is about to happen: trials, epochs, rungs, space, data, hours, and where to watch.

    Args:
        settings: of the search.
        data_summary: label -> value, as the data reports itself; nested values become "name number" lists.
        costs, expected: from a rehearsal, if there was one.
        links: ``mlflow`` -> the command that opens its pages, ``dashboard`` -> Ray's address; others as they are.
    """
    epochs = settings.train.num_epochs
    what = f"{outcome.trials_text(settings.budget)} of up to {outcome.count_text(epochs, 'epoch')}"
    both = settings.budget.trials is not None and settings.budget.hours is not None
    limit = f", for at most {settings.budget.hours:g} h" if both else ""
    rows = [
        ("search", f"{what}, {settings.concurrent} at a time{limit}"),
        ("stops", _stops(settings)),
        ("goal", f"the highest {outcome.metric_name(settings.metric)} on the val split"),
        ("detector", settings.train.model),
        ("space", "; ".join(f"{name} {_range(dimension)}" for name, dimension in settings.space.items())),
        *_data_rows(data_summary),
        *_hour_rows(costs, expected),
    ]  # fmt: skip
    return _sheet("The plan", rows, _link_rows(links))


def _stops(settings: SearchSettings) -> str:
    rungs = " and ".join(str(epoch) for epoch in rung_epochs(settings))
    if not rungs:
        return "no trial is stopped early"
    return f"trials pause at epoch {rungs} and only the best are promoted; the default is trained in full at the end"


def _hour_rows(costs: Sequence[EpochCost], expected: Estimate | None) -> list[tuple[str, str]]:
    if expected is None:
        return [("time", "measured by the first trial, and shown from its first epoch on")]
    told = [
        f"{cost.image_size} px {'does not fit' if cost.epoch_s is None else outcome.duration(cost.epoch_s)}"
        for cost in costs
    ]
    low, mean, high = map(outcome.duration, (expected.low_s, expected.mean_s, expected.high_s))
    whole = f"about {mean}; {low} if the cheapest image size wins, {high} if the dearest does"
    return [("an epoch", ", ".join(told)), ("time", whole)]


def _range(dimension: Dimension) -> str:
    if dimension.choices is not None:
        said = ", ".join(outcome.figure(choice) for choice in dimension.choices)
    else:
        said = f"{outcome.figure(dimension.low)} to {outcome.figure(dimension.high)}{' (log)' if dimension.log else ''}"
    return f"{said} {dimension.unit}".strip()


def _data_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The data's name and categories, then a line for each split."""
    rows = []
    if "root" in summary:
        rows.append(("data", f"{summary['root']}: {', '.join(summary.get('categories', ()))}"))
    for split, images in summary.get("images", {}).items():
        counts = [f"{images:,} images"]
        counts += [f"{summary[what][split]:,} {what}" for what in ("defective", "good", "boxes") if what in summary]
        rows.append((f"  {split}", ", ".join(counts)))
    return rows


def _link_rows(links: Mapping[str, str]) -> list[tuple[str, str]]:
    names = {"mlflow": "MLflow, in another terminal", "dashboard": "Ray dashboard"}
    token = [("its token, which it asks for", as_typed("ray get-auth-token"))] if links.get("dashboard") else []
    return [*((names.get(label, label), text) for label, text in links.items() if text), *token]


def summary(table: Table, folder: Path) -> RenderableType:
    """What came of the search: the leaders, the improvement, what was saved, the files and the next command."""
    from rich.console import Group
    from rich.text import Text

    ranked = outcome.scored(table)
    metric, name = outcome.metric_name(table.metric), table.header.name
    rows = [("trials", ", ".join(f"{count} {state}" for state, count in outcome.state_counts(table).items()) or "none")]
    best, groups = best_trial(table), repeated(table)
    if groups:
        won = groups[0]
        runs = f"{min(won.values):.3f} to {max(won.values):.3f} in {len(won.values)} runs, mean {won.mean:.3f}"
        rows.append(("run again", f"{metric} {runs} (trial {won.trials[0].number} and its repeats)"))
    gain, default = outcome.gain(table, best_trial(table)), outcome.default_trial(table)
    if gain is None:
        rows.append(("improvement", "cannot be stated: the default configuration or all others have no score"))
    elif default is not None:
        base = outcome.score(default, table.metric)
        told = (
            f"{metric} {gain:.3f} above the default's {base:.3f}" if gain > 0 else "none: the default is the best yet"
        )
        rows.append(("improvement", told))
    saved_epochs, saved_s = outcome.saved_by_stopping(table)
    run = f"{outcome.epochs_run(table):,} of {outcome.count_text(outcome.epochs_asked(table), 'epoch')}"
    rows.append(("epochs run", f"{run} in {outcome.duration(table.awake_s)}"))
    if saved_epochs:
        rows.append(("saved", f"{outcome.count_text(saved_epochs, 'epoch')}, about {outcome.duration(saved_s)}"))
    on = [] if table.ended and table.ended.reason == "trials" else [("go on with", outcome.resume_command(name))]
    next_ = [("promote the best", outcome.export_command(name))] if ranked else []
    commands = [("report", str(folder / "report.html")), ("table", str(folder / "trials.csv")), *on, *next_]
    head = f"Best: {metric} {outcome.best_text(best, table.metric)}" if best else "No trial has a score yet"
    board = [leaderboard(ranked[:5], table.metric), Text("")] if ranked else []
    return Group(Text(""), *board, _sheet(head, rows, commands))


def _sheet(head: str, rows: list[tuple[str, str]], commands: list[tuple[str, str]]) -> RenderableType:
    """A headline, a table of facts, and lines to copy, each whole on a line of its own."""
    from rich.console import Group
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(Text(label), Text(text))
    lines = [Text.assemble((f"{label}: ", "dim"), (text, "cyan"), no_wrap=True) for label, text in commands]
    return Group(Text(head, style="bold"), grid, Text(""), *lines, Text(""))


def show(renderable: RenderableType, stream: TextIO) -> None:
    """Print a plan or a summary to a text stream; lines to copy are not broken, whatever the width."""
    console_of(lenient(stream)).print(renderable, soft_wrap=True)


def console_of(stream: TextIO, *, terminal: bool | None = None) -> Console:
    from rich.console import Console

    return Console(file=stream, force_terminal=terminal, highlight=False, markup=True, emoji=False)


def lenient(stream: TextIO) -> TextIO:
    """The stream, told to replace what its code page cannot show (a name in another script) instead of failing."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return stream
