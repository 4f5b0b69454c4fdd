"""The journal of a search, copied to MLflow by a thread that follows it.

``python -m tune.reporting.mlflow_sync [NAME]`` catches up with a search whose tracking server was away.
``tune.reporting.mlflow_runs`` says what the runs should hold.

The position is kept in MLflow alone: each run's tag ``vqc.mirrored_line`` is the last line of the journal that it
holds. So a replay, at any time and by any process, writes what is missing and nothing twice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tune.history.journal import Follower
from tune.history.queries import count_text
from tune.paths import find_search, journal_of
from tune.reporting.mlflow_runs import PARENT, RunKey, Translator, Update
from vqc.errors import SearchError, UserError
from vqc.tracking.mirror import MirrorThread
from vqc.tracking.mlflow_client import KnownRun, Tracker, default_artifacts, default_uri, redacted

_LINE_TAG = "vqc.mirrored_line"


@dataclass(frozen=True, kw_only=True)
class MirrorState:
    """Where a mirror stands; ``str()`` is for the terminal."""

    behind: int = 0
    error: str | None = None

    def __str__(self) -> str:
        if self.error is None and not self.behind:
            return "up to date"
        return f"{count_text(self.behind, 'event')} behind" + (f": {self.error}" if self.error else "")


class Mirror(MirrorThread):
    """Keeps MLflow up to date with a journal that need not exist yet; ``uri`` and ``artifacts`` as in ``Tracker``."""

    def __init__(self, journal: Path, uri: str, *, artifacts: Path | None = None) -> None:
        super().__init__()
        self._journal, self._uri, self._artifacts = journal, uri, artifacts
        self._report_files: tuple[Path, ...] = ()
        self._runs: _Runs | None = None  # None: not connected
        self._mirrored = 0  # lines of the journal
        self._behind = 0
        self._pending: list[Update] = []
        self._rewind()

    @property
    def state(self) -> MirrorState:
        """The latest known position; never waits."""
        return MirrorState(behind=self._behind, error=self.error)

    def finish(self, report_files: Sequence[Path]) -> None:
        """Attach these files to the parent run, once it holds all events."""
        self._report_files = tuple(report_files)

    def stop(self, timeout_s: float) -> MirrorState:
        """Mirror what is left, end the runs that are still open, and come back after ``timeout_s`` at the latest."""
        self._drain(timeout_s)
        return self.state

    def catch_up(self, *, cut_short: bool) -> tuple[Translator, int]:
        """Mirror all that the journal holds now, in the caller's thread.

        Args:
            cut_short: the search was killed: end the runs that are still open.

        Returns:
            The journal as it was read, and how many runs were made or changed since the connection was made.

        Raises:
            TrackingError: MLflow cannot be reached, or refuses.
            SearchError: the journal is broken.
        """
        self._read()
        if self._translator.table.started is None:
            return self._translator, 0
        if self._runs is None:
            runs = _Runs(Tracker(self._uri, artifacts=self._artifacts), self._translator.table.started.search_id)
            # What MLflow holds is certain only now: an earlier connection may have ended within a call.
            self._rewind()
            self._runs = runs
            self._read()
        self._runs.write(self._pending)
        self._pending = []
        if cut_short:
            self._runs.write(self._translator.cut_short())
        if self._report_files:
            self._runs.known[PARENT].attach(self._report_files)
        self._mirrored, self._behind = self._translator.line, 0
        return self._translator, sum(run.changed for run in self._runs.known.values())

    def _poll(self, *, last: bool) -> None:
        self.catch_up(cut_short=last)

    def _disconnect(self, error: Exception) -> None:
        self._runs = None
        self._behind = self._translator.line - self._mirrored
        if isinstance(error, SearchError):
            self._rewind()  # a broken line must not be skipped

    def _rewind(self) -> None:
        self._follower, self._translator = Follower(self._journal), Translator()
        self._pending = []

    def _read(self) -> None:
        for event in self._follower.poll():
            updates = self._translator.updates(event)
            if self._runs is not None:  # without a connection they are only counted: it begins with a rewind
                self._pending += filter(self._runs.lacks, updates)
        self._behind = self._translator.line - self._mirrored


class _Runs:
    """The runs of one search as MLflow has them; good for as long as every call succeeds."""

    def __init__(self, tracker: Tracker, search_id: str) -> None:
        self._tracker = tracker
        found = tracker.runs({"vqc.search_id": search_id})
        self.known: dict[RunKey, KnownRun] = {int(run.tags.get("vqc.trial", PARENT)): run for run in found}

    def lacks(self, update: Update) -> bool:
        run = self.known.get(update.run)
        return run is None or int(run.tags.get(_LINE_TAG, 0)) < update.line

    def write(self, updates: Iterable[Update]) -> None:
        """Write the updates, with one call for each run."""
        merged: dict[RunKey, Update] = {}
        for update in updates:
            if update.run in merged:
                merged[update.run].merge(update)
            else:
                merged[update.run] = update
        for update in merged.values():
            run = self.known.get(update.run) or self._create(update)
            if update.status is not None:
                # Before the line is noted, or a call that fails in between would leave the old status for good.
                run.set_status(update.status, end_ms=update.ended_ms)
            run.log(points=update.points, params=update.params, tags={**update.tags, _LINE_TAG: str(update.line)})

    def _create(self, update: Update) -> KnownRun:
        if update.started_ms is None:
            # Someone deleted the run meanwhile; the next connection finds nothing of it and writes it as a whole.
            what = "the search" if update.run == PARENT else f"trial {update.run}"
            raise SearchError(f"MLflow no longer has the run of {what}")
        tags = dict(update.tags)
        if update.run != PARENT:
            tags["mlflow.parentRunId"] = self.known[PARENT].run_id
        run_id = self._tracker.create(update.name, tags=tags, start_ms=update.started_ms)
        run = KnownRun(tracker=self._tracker, run_id=run_id, name=update.name, tags=tags, changed=True)
        self.known[update.run] = run
        return run


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m tune.reporting.mlflow_sync``: catch up with a search; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tune.reporting.mlflow_sync", description="Bring MLflow up to date with a search."
    )
    parser.add_argument("name", nargs="?", help="the search, as given to --name (default: the latest)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument("--mlflow", metavar="URI", help="default: mlflow.db in that folder")
    parser.add_argument(
        "--cut-short", action="store_true", help="the search was killed: end the runs that are still open"
    )
    asked = parser.parse_args(argv)
    uri = asked.mlflow or default_uri(asked.results)
    try:
        folder = find_search(asked.results, asked.name)
        mirror = Mirror(journal_of(folder), uri, artifacts=default_artifacts(asked.results))
        mirror.finish([folder / "report.html", folder / "trials.csv"])
        translator, changed = mirror.catch_up(cut_short=asked.cut_short)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_status
    trials = count_text(len(translator.table.trials), "trial")
    done = f"{count_text(changed, 'run')} written" if changed else "nothing was missing"
    sys.stdout.write(f"{folder.name}: {trials}, {count_text(translator.line, 'event')}; {done} in {redacted(uri)}\n")
    if translator.table.ended is None and not asked.cut_short:
        sys.stdout.write("  This search has not ended. If it was killed and will not be resumed, add --cut-short.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
