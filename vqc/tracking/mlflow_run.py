"""A training run in MLflow, kept up to date by a thread that follows its ``reports.jsonl``.

It neither delays nor fails the training: while MLflow cannot be reached it waits, and catches up later, at the end or
with the next ``--resume``. The points have the times of the reports, so writing them again changes nothing.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from vqc.errors import UserError
from vqc.files import file_sha256
from vqc.tracking.metric_names import epoch_figures, flat_settings
from vqc.tracking.mlflow_client import Point, RunStatus, Tracker
from vqc.training.run import Run, best_of

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
STATES: dict[RunStatus, str] = {
    "RUNNING": "running", "FINISHED": "completed", "KILLED": "interrupted", "FAILED": "failed"
}  # fmt: skip
RUN_TAG, STATE_TAG, FILES_TAG = "vqc.run_id", "vqc.state", "vqc.files_digest"


class RunMirror:
    """Keeps MLflow up to date with one run.

    Args:
        uri: MLflow's; may hold a password, which no message will show.
        artifacts: folder for the run's files; not used where ``uri`` is a server, which has its own.
    """

    def __init__(self, run: Run, uri: str, *, artifacts: Path) -> None:
        self._run, self._uri, self._artifacts = run, uri, artifacts
        self._tracker: Tracker | None = None  # None: not connected
        self._run_id, self._tags, self._sent = "", dict[str, str](), 0
        self._error: str | None = None
        self._status: RunStatus = "RUNNING"
        self._news, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow-mirror", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def notify(self) -> None:
        """An epoch was added; returns at once."""
        self._news.set()

    def stop(self, status: RunStatus, timeout_s: float) -> str | None:
        """Write what is left and how the run ended; returns after ``timeout_s`` at the latest.

        Where MLflow cannot be reached this tries once more and gives up.

        Returns:
            One sentence on why MLflow lacks something; None where it has everything.
        """
        self._status = status
        self._ended.set()
        self._news.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return "MLflow did not answer in time"
        return self._error

    def _follow(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            last = self._ended.is_set()  # checked before reading: what was written before stop() is read
            try:
                self._catch_up(self._status if last else "RUNNING")
                self._error, pause_s = None, FIRST_PAUSE_S
            except Exception as error:  # noqa: BLE001 (nothing that happens here may end a training; it is printed at the end)
                self._tracker = None
                self._error = error.what if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            if last:
                return
            if self._error is None:
                self._news.wait()
            else:
                self._ended.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self._news.clear()

    def _catch_up(self, status: RunStatus) -> None:
        tracker = self._tracker or self._connected()
        reports = self._run.reports()
        tags = {STATE_TAG: STATES[status], "vqc.epochs": str(len(reports)), **self._note(status)}
        tracker.log(
            self._run_id,
            points=[
                Point(name, value, report.epoch, report.measured_ms or self._run.info.started_ms)
                for report in reports[self._sent :]
                for name, value in epoch_figures(report).items()
            ],
            params={},
            tags={name: value for name, value in tags.items() if self._tags.get(name) != value},
        )
        self._tags |= tags
        self._sent = len(reports)
        if status != "RUNNING":
            self._attach(tracker)
            ended_ms = reports[-1].measured_ms if reports else None
            tracker.set_status(self._run_id, status, end_ms=ended_ms)

    def _connected(self) -> Tracker:
        """A connection, with the run found or created; all reports are written again."""
        info = self._run.info
        tracker = Tracker(self._uri, artifacts=self._artifacts)
        known = tracker.runs({RUN_TAG: info.run_id})
        if known:
            self._run_id, self._tags = known[0].run_id, known[0].tags
            if known[0].status != "RUNNING" and not self._ended.is_set():
                tracker.set_status(self._run_id, "RUNNING")
        else:
            self._tags = {
                RUN_TAG: info.run_id,
                "vqc.name": info.name,
                "vqc.data": str(info.data.get("root", "")),
                "vqc.data_fingerprint": str(info.data.get("fingerprint", "")),
                "vqc.versions": ", ".join(f"{package} {version}" for package, version in info.versions.items()),
                "mlflow.source.name": info.command,
                "mlflow.source.type": "LOCAL",
            }
            if "commit" in info.versions:
                self._tags["mlflow.source.git.commit"] = info.versions["commit"]
            self._run_id = tracker.create(info.name, tags=self._tags, start_ms=info.started_ms)
        tracker.log(self._run_id, params=flat_settings(self._run.config.model_dump(mode="json")), tags={})
        self._sent, self._tracker = 0, tracker
        return tracker

    def _note(self, status: RunStatus) -> dict[str, str]:
        """The run's description, in Markdown."""
        config, reports = self._run.config, self._run.reports()
        lines = [f"Training of `{config.model}`: **{STATES[status]}**, {len(reports)} of {config.num_epochs} epochs."]
        best = best_of(reports)
        if best is not None and best.scores.ap50 is not None:
            lines.append(f"Best AP50 on the validation images: **{best.scores.ap50:.4f}** after epoch {best.epoch}.")
        return {"mlflow.note.content": "\n\n".join(lines)}

    def _attach(self, tracker: Tracker) -> None:
        """Copy the configuration, the log and the best model into the run, unless it has the same files already."""
        folder = self._run.folder
        files = [path for path in (folder / "train_config.json", self._run.log_file, self._run.best) if path.exists()]
        digest = hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()[:12]
        if self._tags.get(FILES_TAG) == digest:
            return
        for path in files:
            tracker.log_artifact(self._run_id, path)
        tracker.log(self._run_id, params={}, tags={FILES_TAG: digest})
        self._tags[FILES_TAG] = digest
