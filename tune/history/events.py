"""What can happen in a search: one record per line of its journal."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from tune.settings import Budget
from vqc.config import Record, TrainConfig
from vqc.epoch import EpochReport

State: TypeAlias = Literal[
    "proposed", "running", "paused", "completed", "stopped", "infeasible", "failed", "interrupted"
]
Ended: TypeAlias = Literal["completed", "stopped", "infeasible", "failed", "interrupted"]
SearchEndReason: TypeAlias = Literal["trials", "hours", "interrupted", "failed"]
Param: TypeAlias = float | int | str


class _Event(Record):
    at_ms: int = Field(description="wall clock when it was written, Unix milliseconds; never renewed on replay")
    awake_s: float = Field(
        ge=0, description="seconds that the search had run by then, over all sessions, without any time asleep"
    )


class SearchStarted(_Event):
    """First line of every journal."""

    event: Literal["search_started"] = "search_started"
    version: Literal[2] = 2
    name: str
    search_id: str = Field(description="random, unique over all searches: what MLflow runs are found by")
    settings: dict[str, Any] = Field(description="the resolved SearchSettings, without the budget")
    budget: Budget
    data: dict[str, Any] = Field(description="root, fingerprint, and counts per split")
    versions: dict[str, str] = Field(description="package -> version, and the commit where there is one")
    command: str


class SearchResumed(_Event):
    """A new session of the same search."""

    event: Literal["search_resumed"] = "search_resumed"
    command: str
    budget: Budget = Field(description="trials of the whole search; hours from this event on")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings that differ from here on")


class TrialProposed(_Event):
    event: Literal["trial_proposed"] = "trial_proposed"
    trial: int = Field(ge=1, description="counted from 1 in the order of proposal")
    params: dict[str, Param] = Field(description="the searched values by dimension name")
    config: TrainConfig
    origin: str = Field(description="where it comes from: default, portfolio, warm start, start-up, sampler, repeat")
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


class TrialShortened(_Event):
    """The hours leave the trial fewer epochs than it was proposed with: its rate falls to the end of these."""

    event: Literal["trial_shortened"] = "trial_shortened"
    trial: int
    num_epochs: int = Field(ge=1, description="in place of its configuration's")


class AttemptFailed(_Event):
    """An attempt at a trial failed; it is tried again from its checkpoint, unless ``TrialEnded`` follows."""

    event: Literal["attempt_failed"] = "attempt_failed"
    trial: int
    after_epoch: int = Field(ge=0, description="finished epochs of the trial")
    reason: str
    out_of_memory: bool = Field(False, description="the machine's memory ran out, not the GPU's")


class TrialEnded(_Event):
    event: Literal["trial_ended"] = "trial_ended"
    trial: int
    state: Ended
    reason: str


class WorkerReplaced(_Event):
    """A worker was replaced for a reason that no trial is to blame for."""

    event: Literal["worker_replaced"] = "worker_replaced"
    worker: str
    reason: str


class SearchEnded(_Event):
    event: Literal["search_ended"] = "search_ended"
    reason: SearchEndReason


TrialEvent: TypeAlias = TrialStarted | EpochMeasured | TrialPaused | TrialShortened | AttemptFailed | TrialEnded
Event: TypeAlias = SearchStarted | SearchResumed | TrialProposed | TrialEvent | WorkerReplaced | SearchEnded
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])
