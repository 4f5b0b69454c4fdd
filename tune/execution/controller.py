"""The search's decisions and their record: which trial is next, does it go on, is the search over.

The only writer of the journal; knows nothing of Ray. Every decision is a function of the table, and every event is on
the disk before its consequence is drawn, so a search that was killed goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tune.execution.checkpoints import delete_unneeded
from tune.execution.clock import AwakeClock
from tune.execution.disk_retry import DiskRetry, InterruptedWaitError, write_probe
from tune.execution.outcomes import DataChanged, Decision, Failed, Infeasible, Measured, Outcome, Unwritable, WorkerLost
from tune.history.events import (
    AttemptFailed,
    Ended,
    EpochMeasured,
    Event,
    SearchEnded,
    SearchEndReason,
    TrialEnded,
    TrialPaused,
    TrialProposed,
    TrialShortened,
    TrialStarted,
    WorkerReplaced,
)
from tune.history.journal import Journal, now_ms
from tune.history.queries import resume_command
from tune.history.table import Table, Trial
from tune.policy.early_stopping import decide, trials_to_prune
from tune.policy.propose import propose
from tune.policy.replication import repeat_seed
from tune.policy.schedule import Continue, Promote, Propose, Repeat, for_searched_s, is_complete, may_run, next_step
from tune.settings import with_params
from vqc.epoch import EpochReport
from vqc.errors import DataError, SearchError, UserError

RETRIES = 1  # a trial that failed is tried once more after the same epoch
OUTAGE = 3  # trials that fail one after the other, with no epoch measured between them: the machine is at fault


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker is given: a trial, and the epoch after which it goes on."""

    trial: Trial
    after_epoch: int


class Controller:
    """One session of a search, from its start or resumption to its end.

    Args:
        journal: open for writing, its latest event that of the session's beginning.
        table: all that the journal holds; kept up to date from here on.
        folder: the search's results.
        clock_s: seconds awake since the session began; replaced in tests.
    """

    def __init__(
        self, journal: Journal, table: Table, *, folder: Path, clock_s: Callable[[], float] | None = None
    ) -> None:
        self.table, self.settings = table, table.settings
        self.clock_s = clock_s or AwakeClock()
        self.interrupted = False
        self.fault: UserError | None = None  # what has to be put right before any trial can go on
        self._journal, self._folder = journal, folder
        self._start_s = table.awake_s - self.clock_s()
        self._with_worker: set[int] = set()  # trials given out; of the journal only those that a worker has taken
        self._exhausted = False
        self._disk = DiskRetry(lambda: self.interrupted)

    @property
    def left_s(self) -> float:
        """Awake seconds that the budget leaves to this session."""
        return self.table.left_s(self._start_s + self.clock_s())

    @property
    def trouble(self) -> str:
        """Why the search waits, as a sentence; empty while it does not."""
        return self._disk.trouble

    @property
    def finished(self) -> bool:
        """No further trial will be given out in this session."""
        return self._exhausted or self._over is not None

    @property
    def _over(self) -> str | None:
        """Why the session is over for all trials, or nothing."""
        if self.fault is not None:
            return self.fault.what
        if self.interrupted:
            return "interrupted by the user"
        return f"the {self.table.budget.hours:g} h are over" if self.left_s <= 0 else None

    def next_task(self) -> Task | None:
        """The next trial to run; None while enough are running, while their results decide, or when none is left."""
        if self.finished or len(self._with_worker) >= self.settings.concurrent:
            return None
        trial = self._next_trial()
        if trial is None:
            self._exhausted = not self._with_worker
            return None
        self._with_worker.add(trial.number)
        return Task(trial=trial, after_epoch=trial.epochs)

    def _next_trial(self) -> Trial | None:
        while True:
            match next_step(self.table, self.settings, left_s=self.left_s, with_worker=self._with_worker):
                case Continue(trial=trial) if trial.epochs and not self._goes_on(trial):
                    continue  # the session before was killed between its epoch and what follows from it
                case Continue(trial=trial):
                    return trial
                case Promote(trial=trial, num_epochs=num_epochs):
                    if num_epochs < trial.config.num_epochs:
                        self._write(TrialShortened, trial=trial.number, num_epochs=num_epochs)
                    return trial
                case Propose():
                    return self._proposed()
                case Repeat(trial=trial):
                    return self._repeated(trial)
                case _:
                    return None

    def _proposed(self) -> Trial:
        proposal = propose(self.table, self.settings)
        config = with_params(self.settings.train, proposal.params)
        return self._added(params=proposal.params, config=config, origin=proposal.origin)

    def _repeated(self, trial: Trial) -> Trial:
        config = trial.config.model_copy(update={"seed": repeat_seed(self.settings, trial)})
        return self._added(params=trial.params, config=config, origin="repeat", repeats=trial.number)

    def _added(self, **what: Any) -> Trial:
        number = len(self.table.trials) + 1
        self._write(TrialProposed, trial=number, **what)
        return self.table.trials[number]

    def started(self, number: int, *, worker: str) -> None:
        """A worker took the trial."""
        self._write(TrialStarted, trial=number, after_epoch=self.table.trials[number].epochs, worker=worker)

    def record(self, number: int, outcome: Outcome) -> Decision:
        """Write what an attempt at a trial's next epoch came to, and say whether the worker goes on with the trial."""
        trial = self.table.trials[number]
        match outcome:
            case Measured():
                return self._measured(trial, outcome.report)
            case Infeasible():
                self._end(trial, "infeasible", outcome.reason)
            case DataChanged():
                self.fault = DataError(
                    f"{outcome.reason}; the results would not be comparable: restore the file and resume",
                    command=resume_command(self._folder.name),
                )
                self._end(trial, "interrupted", outcome.reason)
            case Unwritable():
                self._unwritable(trial, outcome)
            case WorkerLost(before_trial=True):
                self._retry(trial, outcome.reason)
            case Failed() | WorkerLost() if number in self._with_worker:
                self._failed(trial, outcome)
            case Failed() | WorkerLost():  # it has ended or was paused already: only a worker was lost
                self._write(WorkerReplaced, worker=f"after trial {number}", reason=outcome.reason)
        return "release"

    def _measured(self, trial: Trial, report: EpochReport) -> Decision:
        if report.epoch < trial.epochs:
            return "continue"
        if report.epoch > trial.epochs:  # else a worker that lost its checkpoint measured a known epoch again
            self._write(EpochMeasured, trial=trial.number, report=report)
            if not self._goes_on(trial):
                return "release"
        if self._over is not None or not may_run(self.table, self.settings, trial, left_s=self.left_s):
            self._end(trial, "interrupted", self._over or f"the {self.table.budget.hours:g} h are nearly over")
            return "release"
        return "continue"

    def _goes_on(self, trial: Trial) -> bool:
        """Decide what follows from a trial's latest epoch; writes it where the trial ends or waits."""
        if trial.epochs >= trial.config.num_epochs:
            self._end(trial, "completed", "all epochs")
            return False
        if trial.repeats is not None:
            return True
        left_s = for_searched_s(self.table, self.settings, left_s=self.left_s)
        judged = decide(self.table, trial, self.settings, left_s=left_s)
        if judged.action == "stop":
            self._end(trial, "stopped", judged.reason)
        elif judged.action == "pause":
            self._with_worker.discard(trial.number)
            self._write(TrialPaused, trial=trial.number, reason=judged.reason)
            self._prune()
        return judged.action == "continue"

    def _failed(self, trial: Trial, outcome: Failed | WorkerLost) -> None:
        """Try the trial once more from its checkpoint; where it fails again with no epoch in between, it has failed.

        Where the machine's memory runs out twice at the same epoch, the second time in a new process, the
        configuration needs more than there is, and the sampler should learn that.
        """
        self._with_worker.discard(trial.number)
        what = {"reason": outcome.reason, "out_of_memory": outcome.out_of_memory}
        self._write(AttemptFailed, trial=trial.number, after_epoch=trial.epochs, **what)
        failures = trial.failures_here()
        if len(failures) <= RETRIES:
            return
        out_of_memory = all(failure.out_of_memory for failure in failures)
        self._end(trial, "infeasible" if out_of_memory else "failed", outcome.reason)
        if len(self.table.failed_in_a_row) >= OUTAGE:
            self._outage(outcome.reason.partition("\n")[0])

    def _outage(self, reason: str) -> None:
        """Trials that failed one after the other are tried again in the next session; once, or they would for ever."""
        failed = [trial for trial in self.table.failed_in_a_row if not trial.after_outage]
        if not failed:
            return
        self.fault = SearchError(
            f"{OUTAGE} trials failed one after the other, the last with: {reason}; the machine seems to be at fault, "
            f"so the search ends and will try them again ({self._folder / 'search.log'} has the details)",
            command=resume_command(self._folder.name),
        )
        for trial in failed:
            self._end(trial, "interrupted", trial.reason)

    def _unwritable(self, trial: Trial, outcome: Unwritable) -> None:
        """Wait until the checkpoints can be written, then try the trial again; a failure where they always could."""
        probe = partial(write_probe, self._folder, outcome.needed_bytes)
        if self._disk.until_written(probe, self._folder):
            self._retry(trial, outcome.reason)
        else:
            self._failed(trial, Failed(reason=outcome.reason))

    def _retry(self, trial: Trial, reason: str) -> None:
        """Give the trial to another worker; it is not to blame."""
        self._with_worker.discard(trial.number)
        self._write(WorkerReplaced, worker=f"of trial {trial.number}", reason=reason)

    def close(self, *, crashed: bool = False) -> None:
        """End the session: whatever still runs is interrupted, and the journal says why the search ended."""
        with suppress(InterruptedWaitError):  # the journal is then as after a kill, which a resumption knows
            for number in sorted(self._with_worker):
                self._end(self.table.trials[number], "interrupted", "the search ended")
            reason: SearchEndReason = "hours"
            if is_complete(self.table, self.settings):
                reason = "trials"
                for trial in [trial for trial in self.table.trials.values() if trial.state == "paused"]:
                    self._end(trial, "stopped", f"{trial.reason}; others were better")
            if crashed or self.interrupted or self.fault is not None:
                reason = "failed" if crashed else "interrupted"
            self._write(SearchEnded, reason=reason)

    def _end(self, trial: Trial, state: Ended, reason: str) -> None:
        self._with_worker.discard(trial.number)
        self._write(TrialEnded, trial=trial.number, state=state, reason=reason)
        self._prune()

    def _prune(self) -> None:
        """Stop paused trials without a chance, and delete checkpoints that nobody will need."""
        for trial in trials_to_prune(self.table, self.settings):
            self._write(TrialEnded, trial=trial.number, state="stopped", reason=trial.reason)
        delete_unneeded(self._folder, self.table, keep_leaders=self.settings.keep_leaders)

    def _write(self, kind: Callable[..., Event], **what: Any) -> None:
        event = kind(at_ms=now_ms(), awake_s=round(self._start_s + self.clock_s(), 3), **what)
        self._disk.until_written(partial(self._journal.append, event), self._folder)
        self.table.apply(event)
