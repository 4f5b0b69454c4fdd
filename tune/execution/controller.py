"""What the engine asks and tells: which trial next, does it go on, it ended. The only writer of the journal.

Knows nothing of Ray. Every answer is a function of the table, and every event is on the disk before its
consequence is drawn, so a search that was killed goes on where it stopped.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tune.execution.clock import AwakeClock
from tune.execution.disk_retry import DiskWait, GivenUpError, write_probe
from tune.execution.watchdog import patience_s
from tune.history.journal import (
    ClockLeapt,
    Ended,
    EpochMeasured,
    Event,
    Journal,
    SearchEnded,
    SearchEndReason,
    Table,
    Trial,
    TrialEnded,
    TrialPaused,
    TrialProposed,
    TrialStarted,
    WorkerReplaced,
    now_ms,
)
from tune.paths import trial_folders
from tune.policy.early_stopping import decide, next_promotion, trials_to_prune
from tune.policy.propose import propose
from tune.policy.replication import full_run_s, next_replicate, replicate_seed, replicated, replicates_s
from tune.settings import SearchSettings, with_params
from vqc.epoch import EpochReport
from vqc.errors import DataError, SearchError, UserError

__all__ = ["Conductor", "Task"]

LEAP_S = 5.0  # between wall clock and the search's own, before the journal is told
MOST_KEPT = 0.25  # of the hours, for running the best again
RETRIES = 1  # a trial that failed by our fault is tried once more after the same epoch
MOST_FAILED = 3  # trials one after the other, with no epoch measured between them: it is the machine, or ourselves


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker is given: a trial, and the epoch that the journal knows it to have reached."""

    trial: Trial
    after_epoch: int


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """Where a trial broke off, and whether the machine's memory had run out."""

    after_epoch: int
    out_of_memory: bool


class Conductor:
    """One sitting of a search, from start or resumption to its end.

    Args:
        journal: open for writing.
        table: all that the journal holds; kept up to date from here on.
        settings: of this search, with this sitting's trials and hours.
        folder: the search's results.
        clock_s: seconds in which the search could run; replaced in tests.
    """

    def __init__(
        self,
        journal: Journal,
        table: Table,
        *,
        settings: SearchSettings,
        folder: Path,
        clock_s: Callable[[], float] | None = None,
    ) -> None:
        self.table = table
        self._journal, self._settings, self._folder = journal, settings, folder
        self._clock_s = clock_s or AwakeClock()
        self._started_s = self._clock_s()
        self._offset_s = self._wall_ahead_s()
        begun = [trial for trial in table.trials.values() if trial.state in ("proposed", "running", "interrupted")]
        self._waiting = sorted(begun, key=lambda trial: trial.acquitted)
        self._unjudged = {trial.number for trial in self._waiting if trial.epochs}
        self._live: set[int] = set()
        self._failures: dict[int, list[_Failure]] = {}
        self._failed_in_a_row: list[Trial] = []
        self._works = False  # some epoch was measured in this sitting
        self._exhausted = False
        self.interrupted = False
        self.fault: UserError | None = None  # what has to be put right before any trial can go on
        self._disk = DiskWait(lambda: self.interrupted)

    @property
    def _left_s(self) -> float:
        """Seconds of wall clock that are left to this sitting."""
        hours = self._settings.hours
        return math.inf if hours is None else hours * 3600 - (self._clock_s() - self._started_s)

    @property
    def out_of_time(self) -> bool:
        return self._left_s <= 0

    @property
    def _closing(self) -> bool:
        """What time is left is kept for running the best again, up to a quarter of all."""
        if self._settings.hours is None:
            return False
        kept_s = min(replicates_s(self.table, self._settings), self._settings.hours * 3600 * MOST_KEPT)
        return self._left_s <= kept_s

    @property
    def finished(self) -> bool:
        """No further trial will be given out in this sitting."""
        return self._over is not None or self._exhausted

    @property
    def _over(self) -> str | None:
        """Why the sitting is over for all trials, or nothing."""
        if self.fault is not None:
            return self.fault.what
        if self.interrupted:
            return "by hand"
        return f"the {self._settings.hours:g} h are over" if self.out_of_time else None

    def tick(self) -> None:
        """To be called several times a second: tells the journal of time that passed without the search."""
        leapt_s = self._wall_ahead_s() - self._offset_s
        if abs(leapt_s) > LEAP_S:
            self._offset_s += leapt_s
            self._write(ClockLeapt(at_ms=now_ms(), lost_ms=round(leapt_s * 1000)))

    def _wall_ahead_s(self) -> float:
        return now_ms() / 1000 - self._clock_s()

    @property
    def trouble(self) -> str:
        """Why the search waits, as a sentence; empty while it does not."""
        return self._disk.trouble

    def next_task(self) -> Task | None:
        """The next trial to run; None while enough are running, while their results decide, or when none is left."""
        if self.finished or len(self._live) >= self._settings.concurrent:
            return None
        trial = self._next_trial()
        if trial is None:
            self._exhausted = not self._live
            return None
        self._live.add(trial.number)
        return Task(trial=trial, after_epoch=trial.epochs)

    def _next_trial(self) -> Trial | None:
        """First what was begun, then what has earned its next epochs, then what is new, at last the repeats.

        Acquitted trials wait for an epoch of another, which shows that it works again.
        """
        begun = self._begun(acquitted=self._works)
        if begun is not None:
            return begun
        if not self._closing:
            promoted = next_promotion(self.table, self._settings)
            if promoted is not None:
                # Between being given out and being started it still looks paused: another slot waits that long.
                return None if promoted.number in self._live else promoted
            if len(self.table.searched) < self._settings.trials:
                return self._proposed()
        if self._live:
            return None
        begun = self._begun(acquitted=True)
        if begun is not None:
            return begun
        best = next_replicate(self.table, self._settings)
        return None if best is None or full_run_s(best) > self._left_s else self._repeated(best)

    def _begun(self, *, acquitted: bool) -> Trial | None:
        """The next of those that were begun and still go on; acquitted ones only if asked for."""
        while self._waiting and (acquitted or not self._waiting[0].acquitted):
            trial = self._waiting.pop(0)
            if self._still_goes_on(trial):
                return trial
        return None

    def _still_goes_on(self, trial: Trial) -> bool:
        """The sitting before may have been killed between a trial's epoch and what follows from it."""
        if trial.number not in self._unjudged:
            return True
        self._unjudged.remove(trial.number)
        return self._goes_on(trial)

    def _proposed(self) -> Trial:
        proposal = propose(self.table, self._settings)
        config = with_params(self._settings.train, proposal.params)
        return self._added(params=proposal.params, config=config, origin=proposal.origin)

    def _repeated(self, trial: Trial) -> Trial:
        config = trial.config.model_copy(update={"seed": replicate_seed(self._settings, trial)})
        return self._added(params=trial.params, config=config, origin="confirm", repeats=trial.number)

    def _added(self, **what: Any) -> Trial:
        number = len(self.table.trials) + 1
        self._write(TrialProposed(at_ms=now_ms(), trial=number, **what))
        return self.table.trials[number]

    def started(self, number: int, *, worker: str) -> None:
        """A worker took the trial."""
        trial = self.table.trials[number]
        self._write(TrialStarted(at_ms=now_ms(), trial=number, after_epoch=trial.epochs, worker=worker))

    def measured(self, number: int, report: EpochReport) -> bool:
        """Take in an epoch; True if the trial goes on, False if it has ended here."""
        trial = self.table.trials[number]
        if report.epoch == trial.epochs + 1:  # a worker that lost its checkpoint measures known epochs again
            self._write(EpochMeasured(at_ms=now_ms(), trial=number, report=report))
            self._failed_in_a_row.clear()
            self._works = True
        if report.epoch < trial.epochs:
            return True
        if not self._goes_on(trial):
            return False
        if self._over is not None or (self._closing and trial.repeats is None):
            return self._end(trial, "interrupted", self._over or f"the {self._settings.hours:g} h are over")
        return True

    def _goes_on(self, trial: Trial) -> bool:
        """What follows from a trial's latest epoch."""
        if trial.epochs >= trial.config.num_epochs:
            return self._end(trial, "completed", "all epochs")
        if trial.repeats is None:
            judged = decide(self.table, trial, self._settings)
            if judged.action == "stop":
                return self._end(trial, "stopped", judged.reason)
            if judged.action == "pause":
                return self._pause(trial, judged.reason)
        return True

    def patience_s(self, number: int) -> float:
        """Seconds that the trial may take for its next epoch; after that it hangs."""
        return patience_s(self.table, self.table.trials[number])

    def infeasible(self, number: int, reason: str) -> None:
        """The configuration cannot work."""
        self._end(self.table.trials[number], "infeasible", reason)

    def data_changed(self, number: int, reason: str) -> None:
        """The images are not what they were: nothing can be compared any more, and the trial is not to blame."""
        self.fault = DataError(
            f"{reason}; the results would not be comparable: put it back as it was and go on", command=self._resumption
        )
        self._end(self.table.trials[number], "interrupted", reason)

    def failed(self, number: int, reason: str, *, out_of_memory: bool = False) -> None:
        """The program's fault, or the worker's end; the trial goes on from its checkpoint.

        It counts as failed when it does so again without an epoch in between: what ends at ever new places is not the
        trial's doing. The machine's memory may have run out because of others the first time; where it runs out again
        at the same epoch, in a new process, the configuration needs more than there is, and the sampler should know.
        """
        if number not in self._live:  # it has ended or was paused already: only a worker was lost
            self._write(WorkerReplaced(at_ms=now_ms(), worker=f"after trial {number}", reason=reason))
            return
        self._live.discard(number)
        trial = self.table.trials[number]
        failures = self._failures.setdefault(number, [])
        failures.append(_Failure(after_epoch=trial.epochs, out_of_memory=out_of_memory))
        here = [failure for failure in failures if failure.after_epoch == trial.epochs]
        if len(here) > RETRIES and all(failure.out_of_memory for failure in here):
            self._end(trial, "infeasible", reason)
        elif len(here) > RETRIES:
            self._failed_in_a_row.append(trial)  # before it ends: its checkpoint is kept
            self._end(trial, "failed", reason)
            if len(self._failed_in_a_row) >= MOST_FAILED:
                self._acquit([trial for trial in self._failed_in_a_row if not trial.acquitted])
        else:
            self._write(WorkerReplaced(at_ms=now_ms(), worker=f"trial {number}", reason=reason))
            self._waiting.insert(0, trial)

    def _acquit(self, failed: Sequence[Trial]) -> None:
        """When one trial after the other fails, it is hardly theirs: none is lost, and the night is not used up.

        Args:
            failed: those of them that were not acquitted before; the others had their second chance.
        """
        if not failed:
            self._failed_in_a_row.clear()
            return
        said = failed[-1].reason.partition("\n")[0]
        self.fault = SearchError(
            f"{MOST_FAILED} trials failed one after the other, at last with {said}; it is hardly theirs: "
            f"{self._folder / 'search.log'} has what they said, and they are tried again when the search goes on",
            command=self._resumption,
        )
        for trial in failed:
            self._end(trial, "interrupted", trial.reason)

    @property
    def _resumption(self) -> str:
        return f"python tune/search.py --name {self._folder.name} --resume"

    def unwritable(self, number: int, reason: str, *, needed_bytes: int) -> None:
        """A worker could not write its checkpoints. Waits until so much can be written; then the trial goes on from the
        last ones.

        Where it can be written at once, as a probe tells, the disk was not the cause, and the trial has failed.
        """
        if not self._disk.until_written(partial(write_probe, self._folder, needed_bytes), self._folder):
            self.failed(number, reason)
            return
        self._live.discard(number)
        self._write(WorkerReplaced(at_ms=now_ms(), worker=f"trial {number}", reason=f"{reason}, for a while"))
        self._waiting.insert(0, self.table.trials[number])

    def worker_spent(self, number: int, reason: str) -> None:
        """A reused worker would not take the trial, because the one before left memory behind: another one will."""
        self._live.discard(number)
        self._write(WorkerReplaced(at_ms=now_ms(), worker=f"before trial {number}", reason=reason))
        self._waiting.insert(0, self.table.trials[number])

    def close(self, *, crashed: bool = False) -> None:
        """End the sitting: whatever still runs is interrupted, and the journal says why the search ended."""
        with suppress(GivenUpError):  # the journal is then as after a kill, which a resumption knows
            self._close(crashed=crashed)

    def _close(self, *, crashed: bool) -> None:
        for number in sorted(self._live):
            self._end(self.table.trials[number], "interrupted", "the search ended")
        searched_all = len(self.table.searched) >= self._settings.trials
        if self._exhausted and searched_all:
            for trial in self._paused():
                self._end(trial, "stopped", f"{trial.reason}; others were better to the end")
        stopped = self.interrupted or self.fault is not None
        reason: SearchEndReason = "failed" if crashed else "interrupted" if stopped else "trials"
        if reason == "trials" and not searched_all:
            reason = "hours"
        self._write(SearchEnded(at_ms=now_ms(), reason=reason))

    def _pause(self, trial: Trial, reason: str) -> bool:
        self._live.discard(trial.number)
        self._write(TrialPaused(at_ms=now_ms(), trial=trial.number, reason=reason))
        self._tidy()
        return False

    def _paused(self) -> list[Trial]:
        return [trial for trial in self.table.trials.values() if trial.state == "paused"]

    def _end(self, trial: Trial, state: Ended, reason: str) -> bool:
        self._live.discard(trial.number)
        self._write(TrialEnded(at_ms=now_ms(), trial=trial.number, state=state, reason=reason))
        self._tidy()
        return False

    def _tidy(self) -> None:
        """Give up what waits in vain; keep the checkpoints of trials that may go on, and the best ones of the leaders
        and of what was confirmed.
        """
        for other in trials_to_prune(self.table, self._settings):
            self._write(TrialEnded(at_ms=now_ms(), trial=other.number, state="stopped", reason=other.reason))
        leaders = {trial.number for trial in self.table.leaders()[: self._settings.keep_leaders]}
        leaders |= {run.number for one in replicated(self.table) for run in one.trials}
        for number, folder in trial_folders(self._folder):  # those that are left, however many trials there were
            trial = self.table.trials.get(number)  # None: of a trial whose line was lost; it is not ours to judge
            if trial is None or trial.state not in ("completed", "stopped", "infeasible", "failed"):
                continue
            if trial in self._failed_in_a_row:
                continue
            if number not in leaders:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                with suppress(OSError):
                    (folder / "last.safetensors").unlink(missing_ok=True)

    def _write(self, event: Event) -> None:
        self.tick()  # what happened before the event stands before it
        self._disk.until_written(partial(self._journal.append, event), self._folder)
        self.table.apply(event)
