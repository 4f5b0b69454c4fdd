"""What the runs in MLflow should hold on account of a search's journal: events in, updates out.

One parent run for the search (found by the tag ``vqc.search_id``) and one child for each trial (``vqc.trial``).
Pure: ``tune.reporting.mlflow_sync`` asks a ``Translator`` event by event and does the talking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tune.history.events import (
    EpochMeasured,
    Event,
    SearchEnded,
    SearchResumed,
    SearchStarted,
    TrialEnded,
    TrialPaused,
    TrialProposed,
    TrialStarted,
)
from tune.history.queries import trials_text
from tune.history.table import Table, Trial
from vqc.tracking.metric_names import epoch_figures, flat_settings
from vqc.tracking.mlflow_client import Point, RunStatus

__all__ = ["PARENT", "RunKey", "Translator", "Update", "counted"]

RunKey: TypeAlias = int  # a trial's number, from 1; 0 is the parent
PARENT: RunKey = 0

_STATUS: dict[str, RunStatus] = {
    "completed": "FINISHED",
    "stopped": "FINISHED",
    "infeasible": "FAILED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
_SEARCH_STATUS: dict[str, RunStatus] = {
    "trials": "FINISHED",
    "hours": "FINISHED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}
_SEARCH_STATE = {"trials": "completed", "hours": "completed", "interrupted": "interrupted", "failed": "failed"}


@dataclass(kw_only=True)
class Update:
    """What one run in MLflow is to be told, on account of the journal up to ``line``."""

    run: RunKey
    line: int
    name: str = ""
    started_ms: int | None = None  # given by the event that brings the run into being
    points: list[Point] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    status: RunStatus | None = None
    ended_ms: int | None = None

    def merge(self, later: Update) -> None:
        """Take in a later update of the same run."""
        self.line = later.line
        self.points += later.points
        self.params |= later.params
        self.tags |= later.tags
        if later.status is not None:
            self.status, self.ended_ms = later.status, later.ended_ms


class Translator:
    """Events in, updates out. Equal journals give equal updates: nothing else is asked, no clock either."""

    def __init__(self) -> None:
        self.table = Table()
        self.line = 0
        self._epochs_run = 0
        self._ended: set[int] = set()  # a trial that was interrupted ends again
        self._best = 0.0
        self._leader: Trial | None = None  # kept at hand: sorting all trials at each end of one would be quadratic

    def updates(self, event: Event) -> list[Update]:
        """What the next event of the journal means to the runs it touches."""
        live = self.live()
        before_ms = self.table.last_ms
        self.table.apply(event)
        self.line += 1
        match event:
            case SearchStarted():
                return [self._search_started(event)]
            case SearchResumed():
                # Trials that a killed search left open end where it ended, until they are taken up again.
                parent = self._update(PARENT, status="RUNNING", tags={**self._summary(), "vqc.state": "running"})
                return [parent, *self._cut_short(live, before_ms)]
            case SearchEnded():
                tags = {**self._summary(), "vqc.state": _SEARCH_STATE[event.reason]}
                status = _SEARCH_STATUS[event.reason]
                parent = self._update(PARENT, status=status, ended_ms=event.at_ms, tags=tags)
                return [parent, *self._cut_short(live, event.at_ms)]
            case TrialProposed():
                return [self._trial_proposed(event)]
            case TrialStarted():
                return [self._update(event.trial, status="RUNNING", tags={"vqc.state": "running"})]
            case TrialPaused():
                return [self._update(event.trial, tags={"vqc.state": "paused"})]
            case EpochMeasured():
                return self._epoch_measured(event)
            case TrialEnded():
                return self._trial_ended(event)
        return []

    def live(self) -> list[int]:
        """Numbers of the trials that have not ended."""
        return [number for number, trial in self.table.trials.items() if trial.state not in _STATUS]

    def cut_short(self) -> list[Update]:
        """Every run that is still open, ended where the journal ends: for a search that was killed."""
        if self.table.started is None or self.table.ended is not None:
            return []
        at_ms = self.table.last_ms
        parent = self._update(PARENT, status="KILLED", ended_ms=at_ms, tags={"vqc.state": "interrupted"})
        return [parent, *self._cut_short(self.live(), at_ms)]

    def _update(self, run: RunKey, **what: Any) -> Update:
        return Update(run=run, line=self.line, **what)

    def _cut_short(self, live: Sequence[int], at_ms: int) -> list[Update]:
        tags = {"vqc.state": "interrupted"}
        return [self._update(number, status="KILLED", ended_ms=at_ms, tags=tags) for number in live]

    def _search_started(self, event: SearchStarted) -> Update:
        settings = {key: value for key, value in event.settings.items() if key not in ("space", "train")}
        space = {f"space.{name}": _range(entry) for name, entry in event.settings.get("space", {}).items()}
        train = flat_settings(event.settings.get("train", {}), "train.")
        tags = {
            "vqc.search_id": event.search_id,
            "vqc.name": event.name,
            "vqc.state": "running",
            "vqc.data": str(event.data.get("root", "")),
            "vqc.data_fingerprint": str(event.data.get("fingerprint", "")),
            "mlflow.source.name": event.command,
            "mlflow.source.type": "LOCAL",
            "vqc.versions": ", ".join(f"{package} {version}" for package, version in event.versions.items()),
            **self._summary(),
        }
        if "commit" in event.versions:
            tags["mlflow.source.git.commit"] = event.versions["commit"]
        params = {**flat_settings(settings), **space, **train}
        return self._update(PARENT, name=event.name, started_ms=event.at_ms, params=params, tags=tags)

    def _trial_proposed(self, event: TrialProposed) -> Update:
        header = self.table.header
        digits = 3 if self.table.budget.trials is None else max(3, len(str(self.table.budget.trials)))
        tags = {
            "vqc.search_id": header.search_id,
            "vqc.trial": str(event.trial),
            "vqc.state": "proposed",
            "vqc.origin": event.origin,
            "mlflow.source.name": header.command,
            "mlflow.source.type": "LOCAL",
        }
        return self._update(
            event.trial,
            name=f"{header.name}/{event.trial:0{digits}d}",
            started_ms=event.at_ms,
            params={**flat_settings(event.config.model_dump(mode="json")), **flat_settings(event.params)},
            tags=tags,
        )

    def _epoch_measured(self, event: EpochMeasured) -> list[Update]:
        metric, trial = self.table.metric, self.table.trials[event.trial]
        best = trial.best(metric)[0]
        epoch, at_ms = event.report.epoch, event.at_ms
        points = [Point(name, value, epoch, at_ms) for name, value in epoch_figures(event.report).items()]
        points.append(Point(f"best_{metric}", best, epoch, at_ms))
        self._epochs_run += 1
        child = self._update(event.trial, points=points, tags={"vqc.epochs": f"{trial.epochs}"})
        if best <= self._best:
            return [child]
        self._best, self._leader = best, trial
        return [child, self._progress(at_ms)]

    def _trial_ended(self, event: TrialEnded) -> list[Update]:
        trial = self.table.trials[event.trial]
        note = f"**{event.state}** after {trial.epochs} of {counted(trial.config.num_epochs, 'epoch')}: {event.reason}"
        tags = {"vqc.state": event.state, "vqc.reason": event.reason, "mlflow.note.content": note}
        self._ended.add(event.trial)
        child = self._update(event.trial, status=_STATUS[event.state], ended_ms=event.at_ms, tags=tags)
        return [child, self._progress(event.at_ms)]

    def _progress(self, at_ms: int) -> Update:
        """The parent's curves: over epochs run, the currency that all trials spend."""
        figures = {
            f"best_{self.table.metric}": self._best,
            "trials_ended": float(len(self._ended)),
            "epochs_run": float(self._epochs_run),
        }
        points = [Point(name, value, self._epochs_run, at_ms) for name, value in figures.items()]
        return self._update(PARENT, points=points, tags=self._summary())

    def _summary(self) -> dict[str, str]:
        """The parent's description, in Markdown, and the number of the leading trial."""
        table, header = self.table, self.table.header
        images = ", ".join(f"{count} {split}" for split, count in header.data.get("images", {}).items())
        states = [trial.state for trial in table.trials.values()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
        lines = [
            f"Search **{header.name}** for the highest `{table.metric}` on the validation images.",
            f"- data: {header.data.get('root', '?')} ({images} images), fingerprint `{header.data.get('fingerprint')}`",
            f"- trials: {len(states)} of {trials_text(table.budget)} ({counts or 'none yet'}), "
            f"{self._epochs_run} epochs run",
        ]
        tags = {}
        if self._leader is not None:
            value, epoch = self._leader.best(table.metric)
            chosen = ", ".join(f"{name} = {_short(picked)}" for name, picked in self._leader.params.items())
            lines.append(f"- best: trial {self._leader.number}, **{value:.4f}** after epoch {epoch}, with {chosen}")
            tags["vqc.best_trial"] = str(self._leader.number)
        return {"mlflow.note.content": "\n".join([lines[0], "", *lines[1:]]), **tags}


def counted(number: int, noun: str) -> str:
    """``1 event``, ``2 events``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _range(dimension: Mapping[str, Any]) -> str:
    """A searched field in words: ``0.0001 to 0.01 (log)``, ``4, 8``, ``96, 128 px``."""
    if choices := dimension.get("choices"):
        words = ", ".join(_short(choice) for choice in choices)
    else:
        words = f"{_short(dimension.get('low'))} to {_short(dimension.get('high'))}"
    unit = dimension.get("unit")
    return words + (f" {unit}" if unit else "") + (" (log)" if dimension.get("log") else "")
