"""What the terminal prints before and after a search, and how it lists trials: rich renderables.

They also read well as plain text, 80 columns wide, in ASCII. Strings are printed as they are, never as markup.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tune.history import queries
from tune.history.queries import count_text
from tune.history.table import Table, Trial
from tune.history.workload import views_of_epoch
from tune.policy.replication import winner
from tune.policy.rungs import rung_epochs
from tune.reporting.conclusions import cut_off, edges, is_finished, ranking, resume_command, shortened
from tune.reporting.eta import EpochCost, Estimate
from vqc.config import TrainConfig
from vqc.data.defect_size import DefectSizes
from vqc.reporting.terminal import duration
from vqc.shell import as_typed

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from tune.settings import SearchSettings

MACHINE_SETTINGS = {"gpu_optimization", "num_workers", "seed"}  # decide how it is computed, not what
WIDEST = 42  # characters that the searched values may take in columns of their own, of 80


def leaderboard(trials: Sequence[Trial], metric: str) -> RenderableType:
    """A table of trials in the order given, the first of them in bold."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    in_columns = sum(len(name) + 2 for name in names) <= WIDEST
    titles = ["trial", queries.metric_name(metric), "epochs", *(names if in_columns else ()), "state"]
    rows = []
    for trial in trials:
        value = queries.score(trial, metric)
        cells = [
            str(trial.number),
            "-" if value is None else f"{value:.3f}",
            f"{trial.epochs}/{trial.config.num_epochs}",
        ]
        if in_columns:
            cells += [queries.figure(trial.params[name]) if name in trial.params else "-" for name in names]
        rows.append([*cells, trial.state, *(() if in_columns else (queries.configuration(trial.params),))])
    return grid([*titles, *(() if in_columns else ("configuration",))], rows, left=("state", "configuration"))


def grid(titles: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[str]) -> RenderableType:
    """A table of figures, the first row in bold; columns are aligned to the right but for those in ``left``."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    drawn = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="dim")
    for title in titles:
        folds = title == "configuration"
        drawn.add_column(Text(title), justify="left" if title in left else "right", no_wrap=not folds, overflow="fold")
    for rank, cells in enumerate(rows):
        drawn.add_row(*map(Text, cells), style="" if rank else "bold")
    return drawn


def plan(
    settings: SearchSettings,
    data_summary: Mapping[str, Any],
    links: Mapping[str, str],
    *,
    costs: Sequence[EpochCost] = (),
    expected: Estimate | None = None,
    checkpoints: tuple[int, int] | None = None,
) -> RenderableType:
    """What the search will do and what not: trials, epochs, rungs, space, data, time, and where to watch it.

    Args:
        data_summary: label -> value, as the data describes itself; nested values become "name number" lists.
        links: ``mlflow`` -> the command that opens its pages, ``dashboard`` -> Ray's address; others as they are.
        costs, expected: of a dry run, if there was one.
        checkpoints: bytes of a trial's state and of its weights alone; None where each epoch's are written.
    """
    epochs = settings.train.num_epochs
    what = f"{queries.trials_text(settings.budget)} of up to {count_text(epochs, 'epoch')}"
    both = settings.budget.trials is not None and settings.budget.hours is not None
    limit = f", for at most {settings.budget.hours:g} h" if both else ""
    space = settings.space.items()
    rows = [
        ("search", f"{what}, {settings.concurrent} at a time{limit}"),
        *_training_rows(settings, data_summary, costs),
        ("stops", _stops(settings)),
        ("goal", f"the highest {queries.metric_name(settings.metric)} on the val split"),
        ("detector", settings.train.model),
        ("space", "; ".join(f"{name} {queries.range_text(dimension)}" for name, dimension in space)),
        ("not tried", f"other values of {', '.join(_fixed(settings))}"),
        *_data_rows(data_summary),
        *_size_rows(data_summary),
        *_time_rows(settings, costs, expected),
        *([] if checkpoints is None else [("checkpoints", _written(settings, *checkpoints, expected))]),
    ]
    return sheet("The plan", rows, _link_rows(links))


def _fixed(settings: SearchSettings) -> list[str]:
    """Names of the training settings that every trial has in common."""
    left_out = settings.space.keys() | MACHINE_SETTINGS | {"initial_model"}  # filled in by weights
    return [name for name in TrainConfig.model_fields if name not in left_out]


def _stops(settings: SearchSettings) -> str:
    rungs = " and ".join(str(epoch) for epoch in rung_epochs(settings))
    if not rungs:
        return "no trial is stopped early"
    hours = settings.budget.hours is not None
    end = "the default and the best go on, in as many epochs as the hours leave" if hours else "the default goes on"
    return f"trials pause at epoch {rungs} and only the best are promoted; at the end {end}"


def _training_rows(
    settings: SearchSettings, data_summary: Mapping[str, Any], costs: Sequence[EpochCost]
) -> list[tuple[str, str]]:
    """Steps of a full training of the default, and its time where a dry run measured an epoch of it."""
    train = settings.train
    if "images" not in data_summary:
        return []
    views, _ = views_of_epoch(data_summary, train.tile_px)
    steps = train.num_epochs * train.steps_per_epoch(views)
    what = f"{steps:,} steps with the default's batches of {train.batch_size}"
    for cost in costs:
        if (cost.image_size, cost.tile_px) == (max(train.image_size), train.tile_px) and cost.epoch_s is not None:
            what += f", about {duration(train.num_epochs * cost.epoch_s)}"
    return [("a full training", what)]


def _time_rows(
    settings: SearchSettings, costs: Sequence[EpochCost], expected: Estimate | None
) -> list[tuple[str, str]]:
    hours, trials = settings.budget.hours, settings.budget.trials
    if expected is None:
        most = "" if hours is None else f"at most {hours:g} h, the end of it for the default and the repeats; "
        return [("time", f"{most}measured by the first trial, and shown from its first epoch on")]
    sizes = [
        f"{cost.image_size} px{f' in tiles of {cost.tile_px} px' if cost.tile_px else ''} "
        f"{'does not fit' if cost.epoch_s is None else duration(cost.epoch_s)}"
        for cost in costs
    ]
    low, mean, high = map(duration, (expected.low_s, expected.mean_s, expected.high_s))
    whole = f"about {mean}; {low} if the cheapest of these wins, {high} if the dearest does"
    rows = [("an epoch", ", ".join(sizes)), ("time", whole)]
    if expected.trials is not None:
        fits = trials is not None and expected.trials >= trials
        room = "all trials" if fits else f"about {count_text(expected.trials, 'trial')}; others are not tried"
        rows.append((f"in {hours:g} h", room))
    return rows


def _written(settings: SearchSettings, state_bytes: int, weights_bytes: int, expected: Estimate | None) -> str:
    """What goes to the disk: states at most as often as the settings say, weights with each best epoch."""
    hours = settings.budget.hours or (1.0 if expected is None else expected.mean_s / 3600)
    states = hours * 3600 / settings.checkpoint_every_s * settings.concurrent
    an_hour = settings.budget.hours is None and expected is None
    span = "an hour" if an_hour else f"in {duration(hours * 3600)}"
    best = f"{weights_bytes / 1e9:.2f} GB for each epoch that is a trial's best"
    return f"at most {states * state_bytes / 1e9:,.1f} GB {span}, and {best}"


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


def _size_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How large the defects are, at each of the detectors' inputs, and how many tiles a photograph gives."""
    rows: list[tuple[str, str]] = []
    for one in map(DefectSizes.model_validate, summary.get("defect_sizes", ())):
        sides = ", ".join(f"{side_px:.1f}" for side_px in one.sides_px)
        text = f"{sides} px {one.place}" + (": too small" if one.enlargement > 1 else "")
        rows.append(("  " if rows else "defects", text if rows else f"shorter sides (10, 50, 90 %): {text}"))
    tiles = [
        f"{evaluated / summary['images']['val']:.0f} of {side} px"
        for side, (_, evaluated) in summary.get("views", {}).items()
        if side != "0"
    ]
    return [*rows, *([("tiles", f"a photograph gives {', '.join(tiles)}")] if tiles else [])]


def _link_rows(links: Mapping[str, str]) -> list[tuple[str, str]]:
    names = {"mlflow": "MLflow, in another terminal", "dashboard": "Ray dashboard"}
    token = [("the token that it asks for", as_typed("ray get-auth-token"))] if links.get("dashboard") else []
    return [*((names.get(label, label), text) for label, text in links.items() if text), *token]


def summary(table: Table, folder: Path) -> RenderableType:
    """The results: the best trials, the improvement, what was saved, the files and the next command."""
    from rich.console import Group
    from rich.text import Text

    ranked = ranking(table)
    best = ranked[0] if ranked else None
    metric, name = queries.metric_name(table.metric), table.header.name
    rows = [("trials", queries.states_text(queries.state_counts(table)))]
    if won := winner(table):
        runs = f"{min(won.values):.3f} to {max(won.values):.3f} in {len(won.values)} runs, mean {won.mean:.3f}"
        rows.append(("run again", f"{metric} {runs} (trial {won.trials[0].number} and its repeats)"))
    saved_epochs, saved_s = queries.saved_by_stopping(table)
    run = f"{queries.epochs_run(table):,} of {count_text(queries.epochs_asked(table), 'epoch')}"
    rows += [("improvement", _improvement(table, best)), ("epochs run", f"{run} in {duration(table.awake_s)}")]
    if saved_epochs:
        rows.append(("saved", f"{count_text(saved_epochs, 'epoch')}, about {duration(saved_s)}"))
    if sentence := shortened(table):
        rows.append(("shortened", sentence))
    if sentence := cut_off(table):
        rows.append(("cut off", sentence))
    rows += [("at an edge", sentence) for sentence in edges(table)]
    commands = [("report", str(folder / "report.html")), ("table", str(folder / "trials.csv"))]
    if not is_finished(table):
        commands.append(("resume", resume_command(table)))
    if best is not None:
        commands.append(("promote the best", queries.export_command(name)))
    head = f"Best: {metric} {queries.best_text(best, table.metric)}" if best else "No trial has a score yet"
    board = [leaderboard(ranked[:5], table.metric), Text("")] if ranked else []
    return Group(Text(""), *board, sheet(head, rows, commands))


def _improvement(table: Table, best: Trial | None) -> str:
    gain, default = queries.gain(table, best), queries.default_trial(table)
    base = None if default is None else queries.score(default, table.metric)
    if gain is None or base is None:
        return "unknown: the default configuration or all others have no score"
    if gain <= 0:
        return "none: the default configuration is the best so far"
    return f"{queries.metric_name(table.metric)} {gain:.3f} above the default's {base:.3f}"


def sheet(head: str, rows: Iterable[tuple[str, str]], commands: Iterable[tuple[str, str]]) -> RenderableType:
    """A headline, a table of facts, and lines to copy, each whole on a line of its own."""
    from rich.console import Group
    from rich.table import Table as Grid
    from rich.text import Text

    facts = Grid.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for label, text in rows:
        facts.add_row(Text(label), Text(text))
    lines = [Text.assemble((f"{label}: ", "dim"), (text, "cyan"), no_wrap=True) for label, text in commands]
    return Group(Text(head, style="bold"), facts, Text(""), *lines, Text(""))


def show(renderable: RenderableType, stream: TextIO) -> None:
    """Print a plan or a summary; lines to copy are not broken, whatever the width."""
    console_of(lenient(stream)).print(renderable, soft_wrap=True)


def console_of(stream: TextIO, *, terminal: bool | None = None) -> Console:
    from rich.console import Console

    return Console(file=stream, force_terminal=terminal, highlight=False, markup=True, emoji=False)


def lenient(stream: TextIO) -> TextIO:
    """The stream, set to replace what its code page cannot show (a name in another script) instead of failing."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return stream
