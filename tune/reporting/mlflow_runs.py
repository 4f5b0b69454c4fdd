"""What MLflow's runs should hold of a search: events of the journal in, updates of runs out. Pure.

One parent run for the search (found by the tag ``vqc.search_id``) and one child for each trial (``vqc.trial``).
``tune.reporting.mlflow_sync`` writes the updates.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TypeAlias

from tune.history.events import (
    AttemptFailed,
    Ended,
    EpochMeasured,
    Event,
    SearchEnded,
    SearchEndReason,
    SearchResumed,
    SearchStarted,
    TrialEnded,
    TrialEvent,
    TrialProposed,
    TrialShortened,
    TrialStarted,
    WorkerReplaced,
)
from tune.history.queries import configuration, count_text, range_text, score, state_counts, states_text, trials_text
from tune.history.table import Table, Trial
from tune.policy.replication import best_trial, leading_trial
from tune.settings import Dimension
from vqc.tracking.metric_names import epoch_figures, flat_settings, source_tags
from vqc.tracking.mlflow_client import Point, RunStatus

RunKey: TypeAlias = int  # a trial's number, from 1; 0 is the parent
PARENT: RunKey = 0
_TrialEvent: TypeAlias = TrialProposed | TrialEvent

_STATUS: dict[Ended, RunStatus] = {
    "completed": "FINISHED",
    "stopped": "FINISHED",
    "infeasible": "FAILED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
_SEARCH_ENDS: dict[SearchEndReason, Ended] = {
    "trials": "completed",
    "hours": "completed",
    "interrupted": "interrupted",
    "failed": "failed",
}


@dataclass(kw_only=True)
class Update:
    """What to write into one run, from the journal up to ``line``."""

    run: RunKey
    line: int
    name: str = ""
    started_ms: int | None = None  # only of the event that creates the run
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
    """Equal journals give equal updates: they depend on nothing else, on no clock either."""

    def __init__(self) -> None:
        self.table = Table()
        self.line = 0
        self._open: dict[RunKey, None] = {}  # runs that are RUNNING, in order
        self._epochs_run = 0  # with those that were lost and measured again
        self._ended: set[int] = set()  # a trial that was interrupted ends again
        self._failed_attempts: Counter[int] = Counter()  # by trial
        self._best: Trial | None = None
        self._best_value = 0.0
        self._leading: Trial | None = None
        self._leading_value = 0.0
        self._repeated: set[int] = set()  # trials whose configuration is run again

    def updates(self, event: Event) -> list[Update]:
        """What the next event of the journal changes in the runs."""
        before_ms = self.table.last_ms
        self.table.apply(event)
        self.line += 1
        match event:
            case SearchStarted():
                return [self._search_started(event)]
            case SearchResumed():
                # Runs that a killed session left open end where it ended, until their trials go on.
                left_open = self._close(before_ms)
                self._open[PARENT] = None
                tags = {**self._summary(), "vqc.state": "running"}
                return [*left_open, Update(run=PARENT, line=self.line, status="RUNNING", tags=tags)]
            case SearchEnded():
                self._open.pop(PARENT, None)
                state = _SEARCH_ENDS[event.reason]
                tags = {**self._summary(), "vqc.state": state}
                parent = Update(run=PARENT, line=self.line, status=_STATUS[state], ended_ms=event.at_ms, tags=tags)
                return [parent, *self._close(event.at_ms)]
            case WorkerReplaced():
                return []
        child = self._trial_changed(event)
        if self._follow_best(event) or isinstance(event, AttemptFailed | TrialEnded):
            return [child, self._progress(event.at_ms)]
        return [child]

    def cut_short(self) -> list[Update]:
        """The end of every run that is still open, where the journal ends: for a search that was killed."""
        return self._close(self.table.last_ms)

    def _close(self, at_ms: int) -> list[Update]:
        runs, self._open = self._open, {}
        tags = {"vqc.state": "interrupted"}
        return [Update(run=run, line=self.line, status="KILLED", ended_ms=at_ms, tags=dict(tags)) for run in runs]

    def _search_started(self, event: SearchStarted) -> Update:
        self._open[PARENT] = None
        settings = {key: value for key, value in event.settings.items() if key != "space"}
        space = {
            name: range_text(Dimension.model_validate(dimension))
            for name, dimension in event.settings.get("space", {}).items()
        }
        return Update(
            run=PARENT,
            line=self.line,
            name=event.name,
            started_ms=event.at_ms,
            params=flat_settings({**settings, "space": space}),
            tags={
                "vqc.search_id": event.search_id,
                "vqc.state": "running",
                **source_tags(event.name, event.data, event.versions, event.command),
                **self._summary(),
            },
        )

    def _trial_changed(self, event: _TrialEvent) -> Update:
        table, trial = self.table, self.table.trials[event.trial]
        update = Update(run=event.trial, line=self.line, tags={"vqc.state": trial.state})
        match event:
            case TrialProposed():
                self._open[event.trial] = None
                digits = max(3, len(str(table.budget.trials or 0)))
                update.name, update.started_ms = f"{table.header.name}/{event.trial:0{digits}d}", event.at_ms
                update.params = flat_settings({**event.config.model_dump(mode="json"), **event.params})
                update.tags |= {
                    "vqc.search_id": table.header.search_id,
                    "vqc.trial": str(event.trial),
                    "vqc.origin": event.origin,
                    "mlflow.source.name": table.header.command,
                }
            case TrialStarted():
                self._open[event.trial] = None
                update.status = "RUNNING"
            case EpochMeasured():
                self._epochs_run += 1
                figures = {**epoch_figures(event.report), f"best_{table.metric}": trial.best(table.metric)[0]}
                update.points = [Point(name, value, event.report.epoch, event.at_ms) for name, value in figures.items()]
                update.tags["vqc.epochs"] = str(trial.epochs)
            case TrialShortened():  # MLflow changes no parameter of a run
                update.tags["vqc.num_epochs"] = str(event.num_epochs)
            case AttemptFailed():
                self._failed_attempts[event.trial] += 1
                update.tags["vqc.failed_attempts"] = str(self._failed_attempts[event.trial])
                update.tags["vqc.last_failure"] = event.reason
            case TrialEnded():
                self._open.pop(event.trial, None)
                self._ended.add(event.trial)
                update.status, update.ended_ms = _STATUS[event.state], event.at_ms
                epochs = count_text(trial.config.num_epochs, "epoch")
                note = f"**{event.state}** after {trial.epochs} of {epochs}: {event.reason}"
                update.tags |= {"vqc.reason": event.reason, "mlflow.note.content": note}
        return update

    def _follow_best(self, event: _TrialEvent) -> bool:
        """Keep ``best_trial`` at hand, and say whether it changed: asking for it at each event would be quadratic."""
        metric, trial, before = self.table.metric, self.table.trials[event.trial], (self._best, self._best_value)
        if trial.repeats is not None:
            self._repeated.add(trial.repeats)
        lost = isinstance(event, TrialStarted) and trial in (self._best, self._leading)  # its latest epochs may be
        if trial.repeats is not None or trial.number in self._repeated or lost or self._leads(event, trial):
            self._best, self._leading = best_trial(self.table), leading_trial(self.table)
            self._leading_value = 0.0 if self._leading is None else self._leading.best(metric)[0]
            self._best_value = 0.0 if self._best is None else self._best.best(metric)[0]
        return (self._best, self._best_value) != before

    def _leads(self, event: _TrialEvent, trial: Trial) -> bool:
        """Whether the event is an epoch after which the trial has the highest value."""
        value = score(trial, self.table.metric) if isinstance(event, EpochMeasured) else None
        if value is None or self._leading is None:
            return value is not None
        return (-value, trial.number) <= (-self._leading_value, self._leading.number)

    def _progress(self, at_ms: int) -> Update:
        """The parent's curves, over the epochs run so far: what all trials cost alike."""
        figures = {
            f"best_{self.table.metric}": self._best_value,
            "trials_ended": float(len(self._ended)),
            "epochs_run": float(self._epochs_run),
            "failed_attempts": float(self._failed_attempts.total()),
        }
        points = [Point(name, value, self._epochs_run, at_ms) for name, value in figures.items()]
        return Update(run=PARENT, line=self.line, points=points, tags=self._summary())

    def _summary(self) -> dict[str, str]:
        """The parent's description, in Markdown, and the number of the best trial."""
        table, header = self.table, self.table.header
        images = ", ".join(f"{count} {split}" for split, count in header.data.get("images", {}).items())
        lines = [
            f"Search **{header.name}** for the highest `{table.metric}` on the validation images.",
            "",
            f"- data: {header.data.get('root', '?')} ({images} images), fingerprint `{header.data.get('fingerprint')}`",
            f"- trials: {len(table.trials)} of {trials_text(table.budget)} ({states_text(state_counts(table))}), "
            f"{count_text(self._epochs_run, 'epoch')} run",
        ]
        tags = {}
        if failed := self._failed_attempts:
            lines.append(f"- {count_text(failed.total(), 'failed attempt')} in {count_text(len(failed), 'trial')}")
        if self._best is not None:
            value, epoch = self._best.best(table.metric)
            params = configuration(self._best.params)
            lines.append(f"- best: trial {self._best.number}, **{value:.4f}** after epoch {epoch}, with {params}")
            tags["vqc.best_trial"] = str(self._best.number)
        return {"mlflow.note.content": "\n".join(lines), **tags}
