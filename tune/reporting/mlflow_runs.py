"""What MLflow's runs should hold of a search: events of the journal in, updates of runs out. Pure.

One parent run for the search (found by the tag ``vqc.search_id``) and one child for each trial (``vqc.trial``).
``tune.reporting.mlflow_sync`` writes the updates. An event costs the same however many trials there are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tune.history.events import (
    AttemptFailed,
    Ended,
    EpochMeasured,
    Event,
    SearchEnded,
    SearchEndReason,
    SearchResumed,
    SearchStarted,
    State,
    TrialEnded,
    TrialPaused,
    TrialProposed,
    TrialStarted,
)
from tune.history.queries import configuration, count_text, range_text, score, states_text, trials_text
from tune.history.table import Table, Trial
from tune.policy.replication import best_trial, repeated
from tune.settings import Dimension
from vqc.tracking.metric_names import epoch_figures, flat_settings
from vqc.tracking.mlflow_client import Point, RunStatus

RunKey: TypeAlias = int  # a trial's number, from 1; 0 is the parent
PARENT: RunKey = 0

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
        self._epochs_run = 0
        self._open: dict[int, None] = {}  # trials whose runs are RUNNING, in order
        self._states: Counter[State] = Counter()
        self._ended: set[int] = set()  # a trial that was interrupted ends again
        self._failed_attempts: Counter[int] = Counter()  # by trial
        self._best: Trial | None = None
        self._best_value = 0.0
        self._repeated: set[int] = set()  # trials of the configurations that were repeated

    def updates(self, event: Event) -> list[Update]:
        """What the next event of the journal changes in the runs."""
        before_ms = self.table.last_ms
        self._apply(event)
        best_changed = self._follow_best(event)
        match event:
            case SearchStarted():
                return [self._search_started(event)]
            case SearchResumed():
                # Runs that a killed session left open end where it ended, until their trials go on.
                tags = {**self._summary(), "vqc.state": "running"}
                updates = [self._update(PARENT, status="RUNNING", tags=tags), *self._interrupted(before_ms)]
                self._open.clear()
                return updates
            case SearchEnded():
                state = _SEARCH_ENDS[event.reason]
                tags = {**self._summary(), "vqc.state": state}
                parent = self._update(PARENT, status=_STATUS[state], ended_ms=event.at_ms, tags=tags)
                updates = [parent, *self._interrupted(event.at_ms)]
                self._open.clear()
                return updates
            case TrialProposed():
                return [self._trial_proposed(event)]
            case TrialStarted() | TrialPaused():
                status: RunStatus | None = "RUNNING" if isinstance(event, TrialStarted) else None
                tags = {"vqc.state": self.table.trials[event.trial].state}
                child, changed = self._update(event.trial, status=status, tags=tags), best_changed
            case AttemptFailed():
                child, changed = self._attempt_failed(event), True
            case EpochMeasured():
                child, changed = self._epoch_measured(event), best_changed
            case TrialEnded():
                child, changed = self._trial_ended(event), True
            case _:
                return []
        return [child, self._progress(event.at_ms)] if changed else [child]

    def cut_short(self) -> list[Update]:
        """The end of every run that is still open, where the journal ends: for a search that was killed."""
        if self.table.started is None or self.table.ended is not None:
            return []
        at_ms = self.table.last_ms
        parent = self._update(PARENT, status="KILLED", ended_ms=at_ms, tags={"vqc.state": "interrupted"})
        return [parent, *self._interrupted(at_ms)]

    def _apply(self, event: Event) -> None:
        trial = self.table.trials.get(getattr(event, "trial", PARENT))
        if trial is not None:
            self._states[trial.state] -= 1
        self.table.apply(event)
        self.line += 1
        match event:
            case TrialProposed() | TrialStarted():
                self._open[event.trial] = None
            case TrialEnded():
                self._open.pop(event.trial, None)
                self._ended.add(event.trial)
            case EpochMeasured():
                self._epochs_run += 1
            case AttemptFailed():
                self._failed_attempts[event.trial] += 1
        trial = self.table.trials.get(getattr(event, "trial", PARENT))
        if trial is not None:
            self._states[trial.state] += 1

    def _follow_best(self, event: Event) -> bool:
        """Keep ``best_trial`` at hand, and say whether it changed: asking for it at each event would be quadratic."""
        trial = self.table.trials.get(getattr(event, "trial", PARENT))
        if trial is None:
            return False
        metric, before = self.table.metric, (self._best, self._best_value)
        if isinstance(event, TrialEnded) and trial.repeats is not None:
            self._repeated = {run.number for one in repeated(self.table) for run in one.trials}
            self._best = best_trial(self.table)
        elif trial.number in self._repeated or (trial is self._best and isinstance(event, TrialStarted)):
            self._best = best_trial(self.table)  # its latest epochs may have been lost
        elif isinstance(event, EpochMeasured) and not self._repeated:
            value = score(trial, metric)
            if value is not None and (
                self._best is None or (-value, trial.number) < (-self._best_value, self._best.number)
            ):
                self._best = trial
        self._best_value = 0.0 if self._best is None else self._best.best(metric)[0]
        return (self._best, self._best_value) != before

    def _update(self, run: RunKey, **what: Any) -> Update:
        return Update(run=run, line=self.line, **what)

    def _interrupted(self, at_ms: int) -> list[Update]:
        """The end of the trials' open runs."""
        tags = {"vqc.state": "interrupted"}
        return [self._update(number, status="KILLED", ended_ms=at_ms, tags=tags) for number in self._open]

    def _search_started(self, event: SearchStarted) -> Update:
        settings = {key: value for key, value in event.settings.items() if key not in ("space", "train")}
        space = {
            f"space.{name}": range_text(Dimension.model_validate(dimension))
            for name, dimension in event.settings.get("space", {}).items()
        }
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
        digits = max(3, len(str(self.table.budget.trials or 0)))
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

    def _epoch_measured(self, event: EpochMeasured) -> Update:
        metric, trial = self.table.metric, self.table.trials[event.trial]
        figures = {**epoch_figures(event.report), f"best_{metric}": trial.best(metric)[0]}
        points = [Point(name, value, event.report.epoch, event.at_ms) for name, value in figures.items()]
        return self._update(event.trial, points=points, tags={"vqc.epochs": f"{trial.epochs}"})

    def _attempt_failed(self, event: AttemptFailed) -> Update:
        tags = {
            "vqc.state": self.table.trials[event.trial].state,
            "vqc.failed_attempts": str(self._failed_attempts[event.trial]),
            "vqc.last_failure": event.reason,
        }
        return self._update(event.trial, tags=tags)

    def _trial_ended(self, event: TrialEnded) -> Update:
        trial = self.table.trials[event.trial]
        epochs = count_text(trial.config.num_epochs, "epoch")
        note = f"**{event.state}** after {trial.epochs} of {epochs}: {event.reason}"
        tags = {"vqc.state": event.state, "vqc.reason": event.reason, "mlflow.note.content": note}
        return self._update(event.trial, status=_STATUS[event.state], ended_ms=event.at_ms, tags=tags)

    def _progress(self, at_ms: int) -> Update:
        """The parent's curves, over the epochs run so far: what all trials cost alike."""
        figures = {
            f"best_{self.table.metric}": self._best_value,
            "trials_ended": float(len(self._ended)),
            "epochs_run": float(self._epochs_run),
            "failed_attempts": float(self._failed_attempts.total()),
        }
        points = [Point(name, value, self._epochs_run, at_ms) for name, value in figures.items()]
        return self._update(PARENT, points=points, tags=self._summary())

    def _summary(self) -> dict[str, str]:
        """The parent's description, in Markdown, and the number of the best trial."""
        table, header = self.table, self.table.header
        images = ", ".join(f"{count} {split}" for split, count in header.data.get("images", {}).items())
        lines = [
            f"Search **{header.name}** for the highest `{table.metric}` on the validation images.",
            "",
            f"- data: {header.data.get('root', '?')} ({images} images), fingerprint `{header.data.get('fingerprint')}`",
            f"- trials: {len(table.trials)} of {trials_text(table.budget)} ({states_text(self._states)}), "
            f"{count_text(self._epochs_run, 'epoch')} run",
        ]
        tags = {}
        if failed := self._failed_attempts.total():
            lines.append(
                f"- {count_text(failed, 'failed attempt')} in {count_text(len(self._failed_attempts), 'trial')}"
            )
        if self._best is not None:
            value, epoch = self._best.best(table.metric)
            params = configuration(self._best.params)
            lines.append(f"- best: trial {self._best.number}, **{value:.4f}** after epoch {epoch}, with {params}")
            tags["vqc.best_trial"] = str(self._best.number)
        return {"mlflow.note.content": "\n".join(lines), **tags}
