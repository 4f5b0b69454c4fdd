"""The table of a search: what its events say, as one row per trial. Pure; kept up to date event by event."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tune.history.events import (
    AttemptFailed,
    EpochMeasured,
    Event,
    Param,
    SearchEnded,
    SearchResumed,
    SearchStarted,
    State,
    TrialEnded,
    TrialEvent,
    TrialPaused,
    TrialProposed,
    TrialShortened,
    TrialStarted,
)
from tune.settings import Budget, SearchSettings
from vqc.config import TrainConfig, parse_record
from vqc.epoch import EpochReport
from vqc.errors import SearchError


@dataclass(kw_only=True)
class Trial:
    """One row of the table: what was tried and how it went. Times are awake seconds of the search."""

    number: int
    params: dict[str, Param]
    config: TrainConfig
    origin: str
    proposed_s: float
    repeats: int | None = None
    ended_s: float | None = None
    state: State = "proposed"
    reason: str = ""
    shortened: bool = False  # its configuration has fewer epochs than it was proposed with
    after_outage: bool = False  # it failed, and so did the trials beside it: it is tried again for that reason
    reports: list[EpochReport] = field(default_factory=list)
    epoch_ends_s: list[float] = field(default_factory=list)  # one for each report
    failures: list[AttemptFailed] = field(default_factory=list)
    spans_s: list[list[float]] = field(default_factory=list)  # [from, to] of each time that a worker had it

    @property
    def epochs(self) -> int:
        """Finished epochs."""
        return len(self.reports)

    @property
    def started_s(self) -> float | None:
        """When a worker first took it."""
        return self.spans_s[0][0] if self.spans_s else None

    @property
    def is_live(self) -> bool:
        """Whether it runs, or will run without anyone's further decision."""
        return self.state in ("proposed", "running", "interrupted")

    def values(self, metric: str) -> list[float]:
        """The metric after each finished epoch; an epoch that could not be scored counts as 0."""
        return [report.scores.value(metric) for report in self.reports]

    def best(self, metric: str) -> tuple[float, int]:
        """Highest value and the (first) epoch that reached it; ``(0.0, 0)`` before the first epoch."""
        values = self.values(metric)
        best = max(values, default=0.0)
        return (best, values.index(best) + 1) if values else (0.0, 0)

    def failures_here(self) -> list[AttemptFailed]:
        """Failed attempts since its latest epoch."""
        return [failure for failure in self.failures if failure.after_epoch == self.epochs]

    def apply(self, event: TrialEvent) -> None:
        """Take one more event of this trial into account."""
        self._extend_spans(event)
        match event:
            case TrialStarted():
                self.state, self.reason, self.ended_s = "running", "", None
                del self.reports[event.after_epoch :]  # epochs behind the checkpoint are measured again
                del self.epoch_ends_s[event.after_epoch :]
            case EpochMeasured():
                if event.report.epoch == self.epochs + 1:
                    self.reports.append(event.report)
                    self.epoch_ends_s.append(event.awake_s)
            case TrialPaused():
                self.state, self.reason, self.ended_s = "paused", event.reason, None
            case TrialShortened():
                self.config, self.shortened = self.config.model_copy(update={"num_epochs": event.num_epochs}), True
            case AttemptFailed():
                self.failures.append(event)
                self.state, self.reason = "interrupted", event.reason
            case TrialEnded():
                if (self.state, event.state) == ("failed", "interrupted"):
                    self.after_outage, self.failures = True, []
                self.state, self.reason, self.ended_s = event.state, event.reason, event.awake_s

    def _extend_spans(self, event: TrialEvent) -> None:
        if isinstance(event, TrialStarted):
            self.spans_s.append([event.awake_s, event.awake_s])
        elif self.spans_s and self.state == "running":
            self.spans_s[-1][1] = event.awake_s


@dataclass(kw_only=True)
class Table:
    """All that a journal says."""

    started: SearchStarted | None = None
    resumed: SearchResumed | None = None  # the latest
    trials: dict[int, Trial] = field(default_factory=dict)
    ended: SearchEnded | None = None
    sessions: int = 0
    session_started_s: float = 0.0
    session_epochs: int = 0  # measured in the latest session
    failed_in_a_row: list[Trial] = field(default_factory=list)  # without an epoch of any trial between them
    last_ms: int = 0
    awake_s: float = 0.0

    @property
    def header(self) -> SearchStarted:
        if self.started is None:
            raise SearchError("the journal has no first line: the search ended before it began")
        return self.started

    @property
    def metric(self) -> str:
        """The objective: a field of ``Scores``; higher is better."""
        return str(self.header.settings["metric"])

    @property
    def budget(self) -> Budget:
        """What the search may use: its hours count from ``session_started_s``."""
        return (self.resumed or self.header).budget

    @property
    def whole_hours(self) -> float:
        """The budget's hours, or those that the search began with where these are more: resumed, it may have what is
        left of them. Infinite without hours.
        """
        hours = self.budget.hours
        return math.inf if hours is None else max(hours, self.header.budget.hours or 0.0)

    @property
    def settings(self) -> SearchSettings:
        """The search's settings as they hold now, its budget among them.

        Raises:
            ConfigError: the journal has settings that are not known here.
        """
        changed = self.resumed.settings if self.resumed else {}
        values = {**self.header.settings, **changed, "budget": self.budget.model_dump()}
        return parse_record(SearchSettings, values, source="the journal's first line, settings")

    @property
    def searched(self) -> list[Trial]:
        """The trials that the search proposed, in their order: all but the repeats of the best."""
        return [trial for trial in self.trials.values() if trial.repeats is None]

    @property
    def completed(self) -> list[Trial]:
        """Those of ``searched`` that ran all their epochs."""
        return [trial for trial in self.searched if trial.state == "completed"]

    def left_s(self, awake_s: float | None = None) -> float:
        """Seconds that the budget leaves at an instant, by default at the latest event; infinite without hours."""
        hours = math.inf if self.budget.hours is None else self.budget.hours
        return hours * 3600 - ((self.awake_s if awake_s is None else awake_s) - self.session_started_s)

    def leaders(self) -> list[Trial]:
        """Trials with at least one epoch, best first; equal values in the order of proposal."""
        scored = [trial for trial in self.trials.values() if trial.epochs]
        return sorted(scored, key=lambda trial: (-trial.best(self.metric)[0], trial.number))

    def apply(self, event: Event) -> None:
        """Take one more event into account.

        Raises:
            SearchError: it is of a trial that was never proposed.
        """
        self.last_ms, self.awake_s = event.at_ms, event.awake_s
        match event:
            case SearchStarted():
                self.started = event
                self._begin_session(event)
            case SearchResumed():
                settings = {**(self.resumed.settings if self.resumed else {}), **event.settings}
                self.resumed, self.ended = event.model_copy(update={"settings": settings}), None
                self._begin_session(event)
            case SearchEnded():
                self.ended = event
            case TrialProposed():
                self.trials[event.trial] = Trial(
                    number=event.trial,
                    params=event.params,
                    config=event.config,
                    origin=event.origin,
                    repeats=event.repeats,
                    proposed_s=event.awake_s,
                )
            case TrialStarted() | EpochMeasured() | TrialPaused() | TrialShortened() | AttemptFailed() | TrialEnded():
                trial = self._trial(event.trial)
                trial.apply(event)
                self._count(event, trial)

    def _begin_session(self, event: SearchStarted | SearchResumed) -> None:
        self.sessions += 1
        self.session_started_s, self.session_epochs = event.awake_s, 0
        self.failed_in_a_row = []

    def _count(self, event: Event, trial: Trial) -> None:
        if isinstance(event, EpochMeasured):
            self.session_epochs += 1
            self.failed_in_a_row = []
        elif isinstance(event, TrialEnded) and event.state == "failed":
            self.failed_in_a_row.append(trial)

    def _trial(self, number: int) -> Trial:
        if number not in self.trials:
            raise SearchError(f"the journal names trial {number}, which it never proposed: a line of it is missing")
        return self.trials[number]
