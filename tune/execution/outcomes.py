"""What an attempt at a trial's next epoch came to: one closed set of records, from the worker to the controller."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from vqc.config import Record
from vqc.epoch import EpochReport

Decision: TypeAlias = Literal["continue", "release"]  # the worker goes on with the trial, or lets it go


class Measured(Record):
    """An epoch was trained and scored, and its checkpoints are on the disk."""

    kind: Literal["measured"] = "measured"
    report: EpochReport


class Infeasible(Record):
    """The configuration cannot work: one image does not fit, or the loss is not finite."""

    kind: Literal["infeasible"] = "infeasible"
    reason: str


class DataChanged(Record):
    """A photograph is not what it was when the search began."""

    kind: Literal["data_changed"] = "data_changed"
    reason: str


class Unwritable(Record):
    """The checkpoints could not be written; ``needed_bytes`` is more than they take."""

    kind: Literal["unwritable"] = "unwritable"
    reason: str
    needed_bytes: int


class Failed(Record):
    """Any other error in the worker."""

    kind: Literal["failed"] = "failed"
    reason: str
    out_of_memory: bool = Field(False, description="the machine's memory ran out")
    traceback: str = ""


class WorkerLost(Record):
    """The worker's process ended, was killed, hung, or refused the trial."""

    kind: Literal["worker_lost"] = "worker_lost"
    reason: str
    out_of_memory: bool = Field(False, description="the machine's memory ran out")
    before_trial: bool = Field(False, description="it had not taken the trial yet, which is not to blame")


Outcome: TypeAlias = Measured | Infeasible | DataChanged | Unwritable | Failed | WorkerLost
OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Annotated[Outcome, Field(discriminator="kind")])
