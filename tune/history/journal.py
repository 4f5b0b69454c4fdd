"""The journal of a search: an append-only file of what happened, and the table read from it.

One JSON object a line, each fsynced before anyone acts on it. The conductor is the only writer;
proposals, stops, progress, MLflow, the report and the promotion are functions of what is read here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from vqc.config import Record, TrainConfig
from vqc.epoch import EpochReport
from vqc.errors import SearchError
from vqc.files import write_atomically

__all__ = [
    "ClockLeapt",
    "EpochMeasured",
    "Event",
    "Follower",
    "Journal",
    "SearchEndReason",
    "SearchEnded",
    "SearchResumed",
    "SearchStarted",
    "State",
    "Table",
    "Trial",
    "TrialEnded",
    "TrialPaused",
    "TrialProposed",
    "TrialStarted",
    "WorkerReplaced",
    "now_ms",
    "read_table",
    "table_of",
]

State: TypeAlias = Literal[
    "proposed", "running", "paused", "completed", "stopped", "infeasible", "failed", "interrupted"
]
Ended: TypeAlias = Literal["completed", "stopped", "infeasible", "failed", "interrupted"]
SearchEndReason: TypeAlias = Literal["trials", "hours", "interrupted", "failed"]
Param: TypeAlias = float | int | str


class _Event(Record):
    at_ms: int = Field(description="wall clock when it was written, Unix milliseconds; never renewed on replay")


class SearchStarted(_Event):
    """First line of every journal."""

    event: Literal["search_started"] = "search_started"
    name: str
    search_id: str = Field(description="random, unique over all searches: what MLflow runs are found by")
    settings: dict[str, Any] = Field(description="the resolved SearchSettings")
    data: dict[str, Any] = Field(description="root, fingerprint, and counts per split")
    versions: dict[str, str] = Field(description="package -> version, and the commit where there is one")
    command: str


class SearchResumed(_Event):
    event: Literal["search_resumed"] = "search_resumed"
    command: str
    trials: int = Field(description="trials asked for from here on, those already there included")


class TrialProposed(_Event):
    event: Literal["trial_proposed"] = "trial_proposed"
    trial: int = Field(ge=1, description="counted from 1 in the order of proposal")
    params: dict[str, Param] = Field(description="the searched values by dimension name")
    config: TrainConfig
    origin: str = Field(description="who proposed it: default, portfolio, warm start, start-up, sampler, confirm")
    repeats: int | None = Field(None, description="the trial whose configuration is run again, with another seed")


class TrialStarted(_Event):
    """A worker took the trial; ``after_epoch`` above 0 is a resumption."""

    event: Literal["trial_started"] = "trial_started"
    trial: int
    after_epoch: int = 0
    worker: str = Field(description="process and host")


class EpochMeasured(_Event):
    event: Literal["epoch"] = "epoch"
    trial: int
    report: EpochReport


class TrialPaused(_Event):
    """The trial waits for others at a rung; its checkpoint is kept."""

    event: Literal["trial_paused"] = "trial_paused"
    trial: int
    reason: str = ""


class TrialEnded(_Event):
    event: Literal["trial_ended"] = "trial_ended"
    trial: int
    state: Ended
    reason: str


class WorkerReplaced(_Event):
    """A reused worker kept memory after a trial, or died."""

    event: Literal["worker_replaced"] = "worker_replaced"
    worker: str
    reason: str


class ClockLeapt(_Event):
    """Time that passed without the search: the machine slept, the processes were halted, or the clock was set."""

    event: Literal["clock_leapt"] = "clock_leapt"
    lost_ms: int = Field(description="of wall clock, up to this event; negative where the clock was set back")


class SearchEnded(_Event):
    event: Literal["search_ended"] = "search_ended"
    reason: SearchEndReason


Event: TypeAlias = (
    SearchStarted
    | SearchResumed
    | TrialProposed
    | TrialStarted
    | EpochMeasured
    | TrialPaused
    | TrialEnded
    | WorkerReplaced
    | ClockLeapt
    | SearchEnded
)
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


@dataclass(kw_only=True)
class Trial:
    """One row of the table: what was tried and how it went."""

    number: int
    params: dict[str, Param]
    config: TrainConfig
    origin: str
    proposed_ms: int
    repeats: int | None = None
    ended_ms: int | None = None
    state: State = "proposed"
    reason: str = ""
    acquitted: bool = False  # it failed, and so did the others: it was tried again because of that
    reports: list[EpochReport] = field(default_factory=list)
    spans_ms: list[list[int]] = field(default_factory=list)  # [from, to] of each time that a worker had it, awake

    @property
    def epochs(self) -> int:
        """Finished epochs."""
        return len(self.reports)

    @property
    def started_ms(self) -> int | None:
        """When a worker first took it."""
        return self.spans_ms[0][0] if self.spans_ms else None

    def values(self, metric: str) -> list[float]:
        """The metric after each finished epoch; an epoch that could not be scored counts as 0."""
        return [getattr(report.scores, metric) or 0.0 for report in self.reports]

    def best(self, metric: str) -> tuple[float, int]:
        """Highest value and the (first) epoch that reached it; ``(0.0, 0)`` before the first epoch."""
        values = self.values(metric)
        if not values:
            return 0.0, 0
        best = max(values)
        return best, values.index(best) + 1

    def apply(self, event: TrialStarted | EpochMeasured | TrialPaused | TrialEnded) -> None:
        """Take one more event of this trial into account."""
        if isinstance(event, TrialStarted):
            self.spans_ms.append([event.at_ms, event.at_ms])
        elif self.spans_ms and self.state == "running":
            self.spans_ms[-1][1] = event.at_ms
        match event:
            case TrialStarted():
                self.state, self.reason, self.ended_ms = "running", "", None
                del self.reports[event.after_epoch :]  # epochs behind the checkpoint are measured again
            case EpochMeasured():
                if event.report.epoch == self.epochs + 1:
                    self.reports.append(event.report)
            case TrialPaused():
                self.state, self.reason = "paused", event.reason
            case TrialEnded():
                self.acquitted |= (self.state, event.state) == ("failed", "interrupted")
                self.state, self.reason, self.ended_ms = event.state, event.reason, event.at_ms


@dataclass(kw_only=True)
class Table:
    """All that a journal says, kept up to date event by event."""

    started: SearchStarted | None = None
    trials: dict[int, Trial] = field(default_factory=dict)
    ended: SearchEnded | None = None
    trials_asked: int = 0
    last_ms: int = 0
    sittings: int = 0
    spans_ms: list[list[int]] = field(default_factory=list)  # [from, to] of wall clock in which the search ran

    @property
    def metric(self) -> str:
        """The objective: a field of ``Scores``; higher is better."""
        return str(self.header.settings["metric"])

    @property
    def header(self) -> SearchStarted:
        if self.started is None:
            raise SearchError("the journal has no first line: the search ended before it began")
        return self.started

    @property
    def searched(self) -> list[Trial]:
        """The trials that the search proposed, in their order: all but the repeats that confirm the best."""
        return [trial for trial in self.trials.values() if trial.repeats is None]

    def leaders(self) -> list[Trial]:
        """Trials with at least one epoch, best first; equal values in the order of proposal."""
        scored = [trial for trial in self.trials.values() if trial.epochs]
        return sorted(scored, key=lambda trial: (-trial.best(self.metric)[0], trial.number))

    def apply(self, event: Event) -> None:
        """Take one more event into account.

        Raises:
            SearchError: it is of a trial that was never proposed.
        """
        self._keep_time(event)
        match event:
            case SearchStarted():
                self.started = event
                self.trials_asked = int(event.settings["trials"])
            case SearchResumed():
                self.ended = None
                self.trials_asked = event.trials
            case SearchEnded():
                self.ended = event
            case TrialProposed():
                self.trials[event.trial] = Trial(
                    number=event.trial,
                    params=event.params,
                    config=event.config,
                    origin=event.origin,
                    repeats=event.repeats,
                    proposed_ms=event.at_ms,
                )
            case TrialStarted() | EpochMeasured() | TrialPaused() | TrialEnded():
                self._trial(event.trial).apply(event)

    def _keep_time(self, event: Event) -> None:
        self.last_ms = event.at_ms
        if isinstance(event, SearchStarted | SearchResumed):
            self.sittings += 1
            self.spans_ms.append([event.at_ms, event.at_ms])
        elif isinstance(event, ClockLeapt):
            running = [trial.spans_ms for trial in self.trials.values() if trial.state == "running"]
            for spans_ms in [self.spans_ms, *running]:
                if spans_ms:
                    spans_ms[-1][1] = max(spans_ms[-1][0], event.at_ms - event.lost_ms)
                    spans_ms.append([event.at_ms, event.at_ms])
        elif self.spans_ms:
            self.spans_ms[-1][1] = event.at_ms

    def _trial(self, number: int) -> Trial:
        if number not in self.trials:
            raise SearchError(f"the journal speaks of trial {number}, which it never proposed: a line of it is missing")
        return self.trials[number]


class Journal:
    """The writer. One process holds it; each event is on the disk before ``append`` returns, or none of it is.

    A last line that a crash left half written is taken back when the journal is opened: ``torn_bytes`` of it.
    A journal that somebody deleted or moved away while it is open is written again, as a whole, by the next ``append``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _opened(path)
        content = path.read_bytes()
        self._length = _whole_bytes(content)
        self.torn_bytes = len(content) - self._length
        self._file.truncate(self._length)

    def append(self, event: Event) -> None:
        """Write one event.

        Raises:
            OSError: it cannot be written, such as on a full disk; it may be tried again.
        """
        if not self.path.exists():
            self._restore()
        line = event.model_dump_json().encode() + b"\n"
        self._file.truncate(self._length)  # what an attempt that failed has left
        rest = line
        while rest:
            rest = rest[self._file.write(rest) :]  # where the disk fills up a part is written, and then none
        os.fsync(self._file.fileno())
        self._length += len(line)

    def close(self) -> None:
        self._file.close()

    def _restore(self) -> None:
        self._file.seek(0)
        write_atomically(self.path, self._file.read(self._length) or b"")
        self._file.close()
        self._file = _opened(self.path)


class Follower:
    """A reader that remembers how far it has read; each ``poll`` costs what is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._line = 0

    def poll(self) -> Iterator[Event]:
        """Events written since the last call; a line still being written, or torn at the end, waits for the next one.

        Raises:
            SearchError: a line before the end is not an event (someone edited the file, or the disk lost it).
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                fresh = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise SearchError(f"{self.path}: cannot be read: {error.strerror or error}") from None
        *whole, _unfinished = fresh.split(b"\n")  # not splitlines: a stray carriage return ends no event
        if whole and _torn(whole[-1]):
            whole.pop()
        for line in whole:
            self._offset += len(line) + 1
            self._line += 1
            yield self._parse(line)

    def _parse(self, line: bytes) -> Event:
        try:
            return _EVENT.validate_json(line)
        except ValidationError as error:
            reason = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise SearchError(f"{self.path}, line {self._line}: not an event of this journal ({reason})") from None


def read_table(path: Path) -> Table:
    """The table of a journal.

    Raises:
        SearchError: there is none, it is empty, or a line is broken.
    """
    return table_of(Follower(path).poll(), path)


def table_of(events: Iterable[Event], path: Path) -> Table:
    table = Table()
    for event in events:
        table.apply(event)
    if table.started is None:
        raise SearchError(f"{path}: no search was begun here", command="python tune/search.py --trials 30")
    return table


def now_ms() -> int:
    """The wall clock in Unix milliseconds."""
    return time.time_ns() // 1_000_000


def _opened(path: Path) -> FileIO:
    """Unbuffered, or what could not be written would be written later, unasked."""
    return path.open("a+b", buffering=0)


def _whole_bytes(content: bytes) -> int:
    """Length of a journal up to and with its last line that was not torn."""
    lines = content.split(b"\n")[:-1]
    return sum(len(line) + 1 for line in (lines[:-1] if lines and _torn(lines[-1]) else lines))


def _torn(line: bytes) -> bool:
    """No JSON object, such as a power cut leaves: a file may have grown before its content was on the disk.

    An object that is no event is no torn line: another version wrote it, or a person, and it is not ours to remove.
    """
    try:
        return not isinstance(from_json(line), dict)
    except ValueError:
        return True
