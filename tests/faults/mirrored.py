"""What MLflow's database should hold of a journal, down to the last digit, and what it does hold."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from tune.history.events import EpochMeasured, TrialEnded
from tune.history.journal import Follower, read_table
from tune.history.table import Trial
from vqc.tracking.metric_names import epoch_figures, flat_settings

__all__ = ["differences", "rows"]

STATUS = {"completed": "FINISHED", "stopped": "FINISHED", "infeasible": "FAILED", "failed": "FAILED"}


def rows(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(connection.execute(f'SELECT * FROM "{name}"'), key=repr) for name in names}


def differences(database: Path, journal: Path) -> list[str]:
    """What is missing in MLflow, or is there and should not be: one run a trial, one point an epoch and metric, equal
    to the last digit, the journal's times, states and settings. Of a search that came to its end.
    """
    table = read_table(journal)
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        runs = _runs(connection, table.header.search_id)
        found: list[str] = []
        wanted = {"0": 1} | {str(number): 1 for number in table.trials}
        have = Counter(tags.get("vqc.trial", "0") for _, tags in runs.values())
        found += [f"{have[key]} runs of trial {key}" for key in wanted.keys() | have.keys() if have[key] != 1]
        found += [f"trial {key} is not in the journal" for key in have.keys() - wanted.keys()]
        by_trial = {tags.get("vqc.trial", "0"): run for run, (_, tags) in runs.items()}
        for number, trial in table.trials.items():
            run = by_trial.get(str(number))
            if run is not None:
                status, tags = runs[run]
                found += _different(f"trial {number}", _trial_facts(journal, trial, by_trial.get("0")), {
                    "status": status[0], "end": status[1], "state": tags.get("vqc.state"),
                    "reason": tags.get("vqc.reason"), "epochs": tags.get("vqc.epochs"),
                    "parent": tags.get("mlflow.parentRunId"), "params": _params(connection, run),
                })  # fmt: skip
                found += _different(f"trial {number}", _points_wanted(journal, trial), _points(connection, run))
        if "0" in by_trial and table.ended is not None:
            (status, _) = runs[by_trial["0"]]
            found += _different("the search", {"status": "FINISHED", "end": table.ended.at_ms},
                                {"status": status[0], "end": status[1]})  # fmt: skip
            found += _different("the search", _totals(journal), _last_totals(_points(connection, by_trial["0"])))
    return found


def _runs(
    connection: sqlite3.Connection, search_id: str
) -> dict[str, tuple[tuple[str, int], dict[str, str]]]:  # run id -> (status, end), tags
    query = (
        "SELECT run_uuid, status, end_time FROM runs WHERE lifecycle_stage = 'active' AND run_uuid IN "
        "(SELECT run_uuid FROM tags WHERE key = 'vqc.search_id' AND value = ?)"
    )
    tags = "SELECT key, value FROM tags WHERE run_uuid = ?"
    return {
        run: ((status, end_ms), dict(connection.execute(tags, [run])))
        for run, status, end_ms in connection.execute(query, [search_id]).fetchall()
    }


def _trial_facts(journal: Path, trial: Trial, parent: str | None) -> dict[str, Any]:
    some = Follower(journal).poll()
    *_, ended_ms = (event.at_ms for event in some if isinstance(event, TrialEnded) and event.trial == trial.number)
    return {
        "status": STATUS[trial.state],
        "end": ended_ms,
        "state": trial.state,
        "reason": trial.reason,
        "epochs": str(trial.epochs) if trial.epochs else None,
        "parent": parent,
        "params": {**flat_settings(trial.config.model_dump(mode="json")), **flat_settings(trial.params)},
    }


def _points_wanted(journal: Path, trial: Trial) -> Counter[tuple[str, float, int, int]]:
    """(metric, value, epoch, time) of each point that the trial's run should hold."""
    wanted: Counter[tuple[str, float, int, int]] = Counter()
    best, metric = 0.0, read_table(journal).metric
    for event in Follower(journal).poll():
        if isinstance(event, EpochMeasured) and event.trial == trial.number:
            best = max(best, getattr(event.report.scores, metric) or 0.0)
            figures = {**epoch_figures(event.report), f"best_{metric}": best}
            wanted.update((name, value, event.report.epoch, event.at_ms) for name, value in figures.items())
    return wanted


def _totals(journal: Path) -> dict[str, float]:
    """What the parent's curves should come to."""
    some = list(Follower(journal).poll())
    ended = {event.trial for event in some if event.event == "trial_ended"}  # some were interrupted before
    return {"epochs_run": float(sum(event.event == "epoch" for event in some)), "trials_ended": float(len(ended))}


def _last_totals(points: Counter[tuple[str, float, int, int]]) -> dict[str, float]:
    return {
        name: max((value for key, value, *_ in points if key == name), default=0.0)
        for name in ("epochs_run", "trials_ended")
    }


def _points(connection: sqlite3.Connection, run: str) -> Counter[tuple[str, float, int, int]]:
    query = "SELECT key, value, step, timestamp FROM metrics WHERE run_uuid = ?"
    return Counter(connection.execute(query, [run]).fetchall())


def _params(connection: sqlite3.Connection, run: str) -> dict[str, str]:
    return dict(connection.execute("SELECT key, value FROM params WHERE run_uuid = ?", [run]))


def _different(what: str, wanted: dict[Any, Any], have: dict[Any, Any]) -> list[str]:
    return [
        f"{what}: {key}: {have.get(key)} instead of {wanted.get(key)}"
        for key in wanted.keys() | have.keys()
        if wanted.get(key) != have.get(key)
    ]
