"""The journal as one page, ``report.html``, which needs nothing but itself, and as a table, ``trials.csv``.

    python -m tune.reporting.html_report [NAME]

Every string from data is escaped.
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
from statistics import fmean
from typing import Any

from tune.history import queries
from tune.history.journal import read_table
from tune.history.table import Table, Trial
from tune.paths import find_search, journal_of
from tune.policy.replication import repeated, seed_std, winner
from tune.reporting import conclusions
from vqc.data.defect_size import DefectSizes
from vqc.errors import UserError
from vqc.files import write_atomically
from vqc.reporting.html import both_widths, render
from vqc.reporting.terminal import duration

METRICS = ("ap", "ap50", "ap75", "ar")
LEADERS_SHOWN = 10
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for a formula's beginning, or skips before it
TRIALS_FOR_IMPORTANCE = 8
TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of a search; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tune.reporting.html_report", description="Write the report of a search."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the search, as given to --name (default: the latest)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    flags = parser.parse_args(argv)
    try:
        folder = find_search(flags.results, flags.name)
        written = write_report(journal_of(folder), folder)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    sys.stdout.write(f"wrote {written} and {folder / 'trials.csv'}\n")
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
    write_atomically(folder / "trials.csv", rows.encode())
    write_atomically(folder / "report.html", html.encode())
    return folder / "report.html"


def page(table: Table) -> str:
    """The report as an HTML document without any outside reference."""
    filters: dict[str, Callable[..., Any]] = {
        "figure": queries.figure,
        "duration": duration,
        "count": queries.count_text,
        "config": queries.configuration,
        "date": lambda at_ms: datetime.fromtimestamp(at_ms / 1000).strftime("%d %B %Y, %H:%M"),
        "json": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    }
    saved_epochs, saved_s = queries.saved_by_stopping(table)
    return render(
        TEMPLATE,
        filters=filters,
        table=table,
        header=table.header,
        metric_name=queries.metric_name(table.metric),
        other_metrics=[name for name in METRICS if name != table.metric],
        param_names=_param_names(table),
        leaders_shown=LEADERS_SHOWN,
        status=_status(table),
        counts=queries.state_counts(table),
        epochs_run=queries.epochs_run(table),
        epochs_asked=queries.epochs_asked(table),
        saved_epochs=saved_epochs,
        saved_s=saved_s,
        ends_early=[sentence for sentence in (conclusions.shortened(table), conclusions.cut_off(table)) if sentence],
        edges=conclusions.edges(table),
        repeated=repeated(table),
        winner=winner(table),
        seed_std=seed_std(table),
        rows=_leaderboard(table),
        defect_sizes=[DefectSizes.model_validate(one) for one in table.header.data.get("defect_sizes", ())],
        failures=_failures(table),
        importances=importances(table),
        importances_need=TRIALS_FOR_IMPORTANCE,
        export_command=queries.export_command(table.header.name),
        **_best(table),
        **_time_use(table),
        **_plots(table),
    )


def _best(table: Table) -> dict[str, Any]:
    """The best trial beside the default; None where unknown."""
    best, default = next(iter(conclusions.ranking(table)), None), queries.default_trial(table)
    base = None if default is None else queries.score(default, table.metric)
    scores = None if best is None else queries.best_scores(best, table.metric)
    gain = queries.gain(table, best)
    return {
        "best": best,
        "best_score": None if best is None else queries.score(best, table.metric),
        "best_epoch": None if best is None else best.best(table.metric)[1],
        "class_ap": {} if scores is None else scores.class_ap,
        "default": default,
        "default_score": base,
        "gain": gain,
        "gain_percent": round(100 * gain / base) if gain is not None and base else None,
    }


def _status(table: Table) -> dict[str, str]:
    """Whether the search has ended and why: a class for its colour, a sentence, and the command to resume it."""
    ended = sum(trial.ended_s is not None and trial.state != "interrupted" for trial in table.searched)
    asked = table.budget.trials
    done = queries.count_text(ended, "trial") if asked is None else f"{ended} of {queries.count_text(asked, 'trial')}"
    kind, text = {
        None: ("odd", f"The journal has no end: the search is still running, or was killed, after {done}."),
        "trials": ("good", f"The search is finished: {done}."),
        "hours": ("good", f"The search ended with its hours, after {done}."),
        "interrupted": ("odd", f"The search was interrupted after {done}."),
        "failed": ("bad", f"The search failed after {done}."),
    }[None if table.ended is None else table.ended.reason]
    command = "" if conclusions.is_finished(table) else conclusions.resume_command(table)
    return {"kind": kind, "text": text, "command": command}


def _leaderboard(table: Table) -> list[dict[str, Any]]:
    """One row per trial: those with a score first, the best one on top, then the others in the order of proposal."""
    ranked = conclusions.ranking(table)
    known = {trial.number for trial in ranked}
    others = [trial for trial in table.trials.values() if trial.number not in known]
    return [_row(trial, table.metric) for trial in [*ranked, *others]]


def _row(trial: Trial, metric: str) -> dict[str, Any]:
    scores, value = queries.best_scores(trial, metric), queries.score(trial, metric)
    work_s = sum(report.epoch_s for report in trial.reports)
    return {
        "trial": trial,
        "value": value,
        "epoch": None if scores is None else trial.best(metric)[1],
        "scores": scores,
        "work_s": work_s or None,
        "value_per_hour": None if value is None or not work_s else value / (work_s / 3600),
    }


def _failures(table: Table) -> list[dict[str, Any]]:
    """Trials of which an attempt failed, and infeasible ones, each with its latest reason."""
    return [
        {
            "trial": trial,
            "attempts": len(trial.failures),
            "reason": trial.reason if trial.state in ("failed", "infeasible") else trial.failures[-1].reason,
        }
        for trial in table.trials.values()
        if trial.failures or trial.state in ("failed", "infeasible")
    ]


def _param_names(table: Table) -> list[str]:
    names = list(table.header.settings.get("space", {}))
    return list(dict.fromkeys([*names, *(name for trial in table.trials.values() for name in trial.params)]))


def _time_use(table: Table) -> dict[str, Any]:
    """Seconds and percent by use; percent of the search's time multiplied by the trials that run at a time."""
    reports = [report for trial in table.trials.values() for report in trial.reports]
    train_s, eval_s = sum(report.train_s for report in reports), sum(report.eval_s for report in reports)
    cooling_s = sum(report.cooling_s for report in reports)
    slots = int(table.header.settings.get("concurrent", 1))
    capacity_s = max(table.awake_s * slots, train_s + eval_s + cooling_s)
    uses = {"training": train_s, "evaluation": eval_s} | ({"cooling": cooling_s} if cooling_s else {})
    uses["overhead"] = capacity_s - sum(uses.values())
    shares = [(use, seconds, 100 * seconds / capacity_s) for use, seconds in uses.items()] if reports else []
    machines = [report.machine for report in reports if report.machine is not None]
    heat = [share for machine in machines if (share := machine.gpu_slowed_by_heat) is not None]
    return {"slots": slots, "uses": shares, "slowed_by_heat": fmean(heat) if heat else 0.0}


def _plots(table: Table) -> dict[str, Any]:
    """The plots; the wide ones in two widths, of which the page shows the one that fits."""
    from markupsafe import Markup

    from tune.reporting import plots

    if not queries.scored(table):
        return {"curves": [], "influences": [], "timeline": []}
    return {
        "curves": both_widths(lambda width_px: plots.curves(table, width_px=width_px)),
        "influences": [Markup(plots.influence(table, name)) for name in _param_names(table)],
        "timeline": both_widths(lambda width_px: plots.timeline(table, width_px=width_px)),
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
        for trial in queries.scored(table)
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
