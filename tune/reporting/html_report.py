"""The journal as one page: ``report.html``, which needs nothing but itself, and ``trials.csv``.

    python -m tune.reporting.html_report NAME

Called by the engine when a search ends, and by hand at any time; calls the journal's table, its outcome
and its figures, ``vqc.reporting.html`` for the layout (every string from data is escaped) and Optuna for the
importances.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tune.history import queries as outcome
from tune.history.journal import read_table
from tune.history.table import Table, Trial
from tune.policy.replication import best_trial, repeated, seed_std
from vqc.errors import UserError
from vqc.files import write_atomically
from vqc.reporting.html import both_widths, render

__all__ = ["importances", "main", "page", "trials_csv", "write_report"]

METRICS = ("ap", "ap50", "ap75", "ar")
LEADERS_SHOWN = 10
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet's formula begins with, or skips before it
TRIALS_FOR_IMPORTANCE = 8
TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of a search; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tune.reporting.html_report", description="Write the report of a search."
    )
    parser.add_argument("name", metavar="NAME", help="name of the search: its folder under the results")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    flags = parser.parse_args(argv)
    folder = flags.results / flags.name
    try:
        written = write_report(folder / "journal.jsonl", folder)
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_status
    print(f"wrote {written} and {folder / 'trials.csv'}")  # noqa: T201
    return 0


def write_report(journal: Path, folder: Path) -> Path:
    """Write ``report.html`` and ``trials.csv`` into an existing ``folder``, each whole or not at all.

    Returns:
        Path of the page.

    Raises:
        SearchError: there is no journal, it is empty, or a line of it is broken; nothing is written.
    """
    table = read_table(journal)
    html, rows = page(table), trials_csv(table)
    report = folder / "report.html"
    write_atomically(folder / "trials.csv", rows.encode())
    write_atomically(report, html.encode())
    return report


def page(table: Table) -> str:
    """The report as an HTML document without any outside reference."""
    filters: dict[str, Callable[..., Any]] = {
        "figure": outcome.figure,
        "duration": outcome.duration,
        "count": outcome.count_text,
        "config": outcome.configuration,
    }
    return render(
        TEMPLATE,
        filters=filters,
        name=table.header.name,
        metric=table.metric,
        metric_name=outcome.metric_name(table.metric),
        other_metrics=[name for name in METRICS if name != table.metric],
        status=_status(table),
        rows=_leaderboard(table),
        leaders_shown=LEADERS_SHOWN,
        param_names=_param_names(table),
        casualties=[t for t in table.trials.values() if t.state in ("failed", "infeasible")],
        importances=importances(table),
        importances_need=TRIALS_FOR_IMPORTANCE,
        header=table.header,
        settings_json=json.dumps(table.header.settings, indent=2, ensure_ascii=False),
        data_json=json.dumps(table.header.data, indent=2, ensure_ascii=False),
        begun=datetime.fromtimestamp(table.header.at_ms / 1000).strftime("%d %B %Y, %H:%M"),
        last=datetime.fromtimestamp(table.last_ms / 1000).strftime("%d %B %Y, %H:%M"),
        **_verdict(table),
        confirmed=repeated(table),
        noise=seed_std(table),
        **_clock(table),
        **_plots(table),
    )


def _verdict(table: Table) -> dict[str, Any]:
    """What the head of the page and its tiles say; None where it is unknown."""
    best, default, gain = best_trial(table), outcome.default_trial(table), outcome.gain(table, best_trial(table))
    base = None if default is None else outcome.score(default, table.metric)
    scores = None if best is None else outcome.best_scores(best, table.metric)
    return {
        "best": best,
        "best_score": None if best is None else outcome.score(best, table.metric),
        "best_epoch": None if best is None else best.best(table.metric)[1],
        "class_ap": {} if scores is None else scores.class_ap,
        "default": default,
        "default_score": base,
        "gain": gain,
        "gain_percent": round(100 * gain / base) if gain is not None and base else None,
        "counts": outcome.state_counts(table),
        "searched": len(table.searched),
        "trials_asked": table.budget.trials,
        "export_command": outcome.export_command(table.header.name),
    }


def _status(table: Table) -> dict[str, str]:
    """How the search stands: a class for its colour, a sentence, and the command to go on (or an empty string)."""
    ended = sum(trial.ended_s is not None and trial.state != "interrupted" for trial in table.searched)
    asked = table.budget.trials
    done = outcome.count_text(ended, "trial") if asked is None else f"{ended} of {outcome.count_text(asked, 'trial')}"
    go_on = outcome.resume_command(table.header.name)
    if table.ended is None:
        said = f"The journal has no end yet: the search is still running, or was killed, after {done}."
        return {"kind": "odd", "text": said, "command": go_on}
    match table.ended.reason:
        case "trials":
            return {"kind": "good", "text": f"The search is finished: {done}.", "command": ""}
        case "hours":
            return {"kind": "good", "text": f"The search used up its hours after {done}.", "command": go_on}
        case "interrupted":
            return {"kind": "odd", "text": f"The search was interrupted after {done}.", "command": go_on}
        case "failed":
            return {"kind": "bad", "text": f"The search failed after {done}.", "command": go_on}


def _leaderboard(table: Table) -> list[dict[str, Any]]:
    """One row per trial: those with a score first, best first, then the others in the order of proposal."""
    ranked = outcome.scored(table)
    known = {trial.number for trial in ranked}
    others = [trial for trial in table.trials.values() if trial.number not in known]
    return [_row(trial, table.metric) for trial in [*ranked, *others]]


def _row(trial: Trial, metric: str) -> dict[str, Any]:
    scores, value = outcome.best_scores(trial, metric), outcome.score(trial, metric)
    work_s = sum(report.train_s + report.eval_s for report in trial.reports)
    return {
        "trial": trial,
        "value": value,
        "epoch": None if scores is None else trial.best(metric)[1],
        "scores": scores,
        "work_s": work_s or None,
        "value_per_hour": None if value is None or not work_s else value / (work_s / 3600),
    }


def _param_names(table: Table) -> list[str]:
    names = list(table.header.settings.get("space", {}))
    return list(dict.fromkeys([*names, *(name for trial in table.trials.values() for name in trial.params)]))


def _clock(table: Table) -> dict[str, Any]:
    """Seconds by use; shares are of the wall clock times the trials that run at a time."""
    reports = [report for trial in table.trials.values() for report in trial.reports]
    train_s, eval_s = sum(report.train_s for report in reports), sum(report.eval_s for report in reports)
    wall_s = table.awake_s
    slots = int(table.header.settings.get("concurrent", 1))
    capacity_s = max(wall_s * slots, train_s + eval_s)
    saved_epochs, saved_s = outcome.saved_by_stopping(table)
    uses = {"training": train_s, "evaluation": eval_s, "overhead": capacity_s - train_s - eval_s}
    return {
        "wall_s": wall_s,
        "slots": slots,
        "uses": [(use, seconds, 100 * seconds / capacity_s) for use, seconds in uses.items()] if reports else [],
        "sessions": table.sessions,
        "epochs_run": outcome.epochs_run(table),
        "epochs_asked": outcome.epochs_asked(table),
        "saved_epochs": saved_epochs,
        "saved_s": saved_s,
    }


def _plots(table: Table) -> dict[str, Any]:
    """The figures; the wide ones in two widths, of which the page shows the one that fits."""
    from markupsafe import Markup

    from tune.reporting import plots as figures

    if not outcome.scored(table):
        return {"curves": [], "influences": [], "timeline": []}
    drawn = [Markup(figures.influence(table, name)) for name in _param_names(table)]
    return {
        "curves": both_widths(lambda width_px: figures.curves(table, width_px=width_px)),
        "influences": drawn,
        "timeline": both_widths(lambda width_px: figures.timeline(table, width_px=width_px)),
    }


def importances(table: Table) -> dict[str, float] | None:
    """How much each searched value decides whether a trial is among the best tenth: shares of 1, largest first.

    PED-ANOVA (Watanabe et al., 2023) over the trials that have a score; a stopped trial counts with the one it had
    reached. None when fewer than 8 trials can be used, or when all their scores are equal.
    """
    import optuna

    from tune.space import Space

    space = Space(table.settings.space)
    cube = space.distributions()
    usable = [
        (dict(zip(cube, space.to_unit(trial.params), strict=True)), trial.best(table.metric)[0])
        for trial in outcome.scored(table)
        if trial.state != "failed" and cube.keys() <= trial.params.keys()
        and space.contains(trial.params)  # the default may lie outside
    ]  # fmt: skip
    if len(usable) < TRIALS_FOR_IMPORTANCE or len({score for _, score in usable}) < 2:
        return None
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize")
    finally:
        optuna.logging.set_verbosity(verbosity)
    for params, value in usable:
        study.add_trial(optuna.trial.create_trial(params=params, distributions=cube, value=value))
    # Not fANOVA: it needs scikit-learn, and on simulated searches of 30 trials it named the wrong value more often.
    return optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())


def trials_csv(table: Table) -> str:
    """One line per trial, in the order of proposal; the scores are those of the trial's best epoch."""
    names = _param_names(table)
    out = io.StringIO()
    lines = csv.writer(out)
    lines.writerow(["trial", "state", "origin", "repeats", *map(_cell, names), "best_epoch", *METRICS, "epochs",
                    "epochs_asked", "train_s", "eval_s", "reason"])  # fmt: skip
    for trial in table.trials.values():
        row = _row(trial, table.metric)
        scores = [None] * 4 if row["scores"] is None else [getattr(row["scores"], k) for k in METRICS]
        seconds = [round(sum(getattr(r, part) for r in trial.reports), 3) for part in ("train_s", "eval_s")]
        values = [trial.params.get(name) for name in names]
        cells = [trial.number, trial.state, trial.origin, trial.repeats, *values, row["epoch"],
                 *scores, trial.epochs, trial.config.num_epochs, *seconds, trial.reason]  # fmt: skip
        lines.writerow([_cell(value) for value in cells])
    return out.getvalue()


def _cell(value: Any) -> Any:
    """A spreadsheet takes a text that begins like a formula for one, unless an apostrophe goes before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


if __name__ == "__main__":
    sys.exit(main())
