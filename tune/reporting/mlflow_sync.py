"""The journal of a search, copied to MLflow by a thread that follows it.

``python -m tune.reporting.mlflow_sync [NAME]`` catches up with a search whose tracking server was away.

A ``Mirror`` never delays a search and never ends it: while MLflow cannot be reached it waits, and counts the events
that MLflow lacks. ``tune.reporting.mlflow_runs`` says what the runs should hold.

The position is kept in MLflow alone: each run's tag ``vqc.mirrored_line`` is the last line of the journal that it
holds. So a replay, at any time and by any process, writes what is missing and nothing twice.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tune.history.journal import Follower
from tune.history.queries import count_text
from tune.paths import find_search, journal_of
from tune.reporting.mlflow_runs import PARENT, RunKey, Translator, Update
from vqc.errors import SearchError, UserError
from vqc.tracking.mlflow_client import KnownRun, Tracker, default_uri, redacted

POLL_S = 3.0  # the events of so long go to MLflow in one call for each run
LONGEST_PAUSE_S = 60.0
LAST_ATTEMPTS = 4  # after the search has ended,
LAST_PAUSE_S = 2.0  # with this pause between them

_LINE_TAG = "vqc.mirrored_line"
_REPORT_TAG = "vqc.report_digest"


@dataclass(frozen=True, kw_only=True)
class MirrorState:
    """Where a mirror stands; ``str()`` is for the terminal."""

    behind: int = 0
    error: str | None = None

    def __str__(self) -> str:
        if self.error is None and not self.behind:
            return "up to date"
        return f"{count_text(self.behind, 'event')} behind" + (f": {self.error}" if self.error else "")


class Mirror:
    """Keeps MLflow up to date with a journal.

    Args:
        journal: the file to follow; it need not exist yet.
        uri: MLflow's; may hold a password, which no message shows.
        artifacts: folder for the runs' files; not used where ``uri`` is a server, which has its own.
    """

    def __init__(self, journal: Path, uri: str, *, artifacts: Path | None = None) -> None:
        self._journal, self._uri, self._artifacts = journal, uri, artifacts
        self._report_files: tuple[Path, ...] = ()
        self._known: _KnownRuns | None = None  # None: not connected
        self._mirrored = 0  # lines of the journal
        self._state = MirrorState()
        self._pending: list[Update] = []
        self._rewind()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow-mirror", daemon=True)

    @property
    def state(self) -> MirrorState:
        """The latest known position; never waits."""
        return self._state

    def start(self) -> None:
        """Begin to follow the journal, in a thread."""
        self._thread.start()

    def finish(self, report_files: Sequence[Path]) -> None:
        """Attach these files to the parent run, once it holds all events."""
        self._report_files = tuple(report_files)

    def stop(self, timeout_s: float) -> MirrorState:
        """Mirror what is left, end the runs that are still open, and come back after ``timeout_s`` at the latest.

        Where MLflow cannot be reached this gives up after a few attempts.
        """
        self._stopping.set()
        self._thread.join(timeout_s)
        return self._state

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
        if self._known is None:
            known = _KnownRuns(Tracker(self._uri, artifacts=self._artifacts), self._translator.table.started.search_id)
            # What MLflow holds is certain only now: an earlier connection may have ended within a call.
            self._rewind()
            self._known = known
            self._read()
        self._known.write(self._pending)
        self._pending = []
        if cut_short:
            self._known.write(self._translator.cut_short())
        if self._report_files:
            self._known.attach(self._report_files)
        self._mirrored = self._translator.line
        return self._translator, len(self._known.changed)

    def _follow(self) -> None:
        pause_s, attempts = POLL_S, LAST_ATTEMPTS
        while True:
            last = self._stopping.is_set()  # asked before reading: what was written before stop() is read
            try:
                self.catch_up(cut_short=last)
                self._state, pause_s = MirrorState(), POLL_S
            except Exception as error:  # noqa: BLE001 (no error here may end a search; it is counted and shown)
                self._known = None
                behind = self._translator.line - self._mirrored
                what = error.what if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                self._state, pause_s = MirrorState(behind=behind, error=what), min(2 * pause_s, LONGEST_PAUSE_S)
                if isinstance(error, SearchError):
                    self._rewind()  # a broken line must not be skipped
            if not last:
                self._stopping.wait(pause_s)
                continue
            attempts -= 1
            if self._state.error is None or not attempts:
                return
            time.sleep(LAST_PAUSE_S)  # another search may be writing to the same database

    def _rewind(self) -> None:
        self._follower, self._translator, self._pending = Follower(self._journal), Translator(), []

    def _read(self) -> None:
        for event in self._follower.poll():
            updates = self._translator.updates(event)
            if self._known is not None:  # without a connection they are only counted: it begins with a rewind
                self._pending += filter(self._known.lacks, updates)
        if behind := self._translator.line - self._mirrored:
            self._state = replace(self._state, behind=behind)


class _KnownRuns:
    """The runs of one search as MLflow has them; good for as long as every call succeeds."""

    def __init__(self, tracker: Tracker, search_id: str) -> None:
        self._tracker = tracker
        self._runs: dict[RunKey, KnownRun] = {}
        self.changed: set[RunKey] = set()
        for run in tracker.runs({"vqc.search_id": search_id}):
            self._runs[int(run.tags.get("vqc.trial", PARENT))] = run

    def lacks(self, update: Update) -> bool:
        run = self._runs.get(update.run)
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
            self._write(update)

    def attach(self, files: Sequence[Path]) -> None:
        """Copy the files that exist into the parent run, unless it has them as they are."""
        files = [file for file in files if file.is_file()]
        digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()[:12]
        parent = self._runs[PARENT]
        if not files or parent.tags.get(_REPORT_TAG) == digest:
            return
        for file in files:
            self._tracker.log_artifact(parent.run_id, file)
        self._log(PARENT, Update(run=PARENT, line=0), {_REPORT_TAG: digest})

    def _write(self, update: Update) -> None:
        run = self._runs.get(update.run) or self._create(update)
        if update.status is not None and update.status != run.status:
            # Before the line is noted, or a call that fails in between would leave the old status for good.
            self._tracker.set_status(run.run_id, update.status, end_ms=update.ended_ms)
            self._runs[update.run] = replace(run, status=update.status)
            self.changed.add(update.run)
        tags = {**update.tags, _LINE_TAG: str(update.line)}
        self._log(update.run, update, {name: value for name, value in tags.items() if run.tags.get(name) != value})

    def _log(self, key: RunKey, update: Update, tags: dict[str, str]) -> None:
        if not (update.points or update.params or tags):
            return
        run = self._runs[key]
        self._tracker.log(run.run_id, points=update.points, params=update.params, tags=tags)
        self._runs[key] = replace(run, tags={**run.tags, **tags})
        self.changed.add(key)

    def _create(self, update: Update) -> KnownRun:
        if update.started_ms is None:
            # Someone deleted the run meanwhile; the next connection finds nothing of it and writes it as a whole.
            what = "the search" if update.run == PARENT else f"trial {update.run}"
            raise SearchError(f"MLflow no longer has the run of {what}")
        tags = dict(update.tags)
        if update.run != PARENT:
            tags["mlflow.parentRunId"] = self._runs[PARENT].run_id
        run_id = self._tracker.create(update.name, tags=tags, start_ms=update.started_ms)
        run = KnownRun(run_id=run_id, name=update.name, status="RUNNING", tags=tags)
        self._runs[update.run] = run
        self.changed.add(update.run)
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
    try:
        folder = find_search(asked.results, asked.name)
        sys.stdout.write(_caught_up(folder, asked.results, asked.mlflow, cut_short=asked.cut_short))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_status
    return 0


def _caught_up(folder: Path, results: Path, uri: str | None, *, cut_short: bool) -> str:
    uri = uri or default_uri(results)
    mirror = Mirror(journal_of(folder), uri, artifacts=results / "mlartifacts")
    mirror.finish([folder / "report.html", folder / "trials.csv"])
    translator, changed = mirror.catch_up(cut_short=cut_short)
    trials = count_text(len(translator.table.trials), "trial")
    done = f"{count_text(changed, 'run')} written" if changed else "nothing was missing"
    lines = [f"{folder.name}: {trials}, {count_text(translator.line, 'event')}; {done} in {redacted(uri)}"]
    if translator.table.ended is None and not cut_short:
        lines.append("  This search has not ended. If it was killed and will not be resumed, add --cut-short.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
