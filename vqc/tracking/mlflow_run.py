"""A training run in MLflow, kept up to date with its ``reports.jsonl``.

What MLflow lacks at the end, the next ``--resume`` writes. The points have the times of the reports, so writing them
again changes nothing.
"""

from __future__ import annotations

from pathlib import Path

from vqc.tracking.metric_names import epoch_figures, flat_settings, source_tags
from vqc.tracking.mirror import MirrorThread
from vqc.tracking.mlflow_client import KnownRun, Point, RunStatus, Tracker
from vqc.training.run import Run, best_of

_STATES: dict[RunStatus, str] = {
    "RUNNING": "running", "FINISHED": "completed", "KILLED": "interrupted", "FAILED": "failed"
}  # fmt: skip
_RUN_TAG = "vqc.run_id"


class RunMirror(MirrorThread):
    """Keeps MLflow up to date with one run; for ``uri`` and ``artifacts`` see ``Tracker``."""

    def __init__(self, run: Run, uri: str, *, artifacts: Path) -> None:
        super().__init__()
        self._run, self._uri, self._artifacts = run, uri, artifacts
        self._known: KnownRun | None = None  # None: not connected
        self._sent = 0  # reports
        self._status: RunStatus = "RUNNING"

    def stop(self, status: RunStatus, timeout_s: float) -> str | None:
        """Write what is left and how the run ended; returns after ``timeout_s`` at the latest.

        Returns:
            One sentence on why MLflow lacks something; None where it has everything.
        """
        self._status = status
        self._drain(timeout_s)
        return self.error

    def _poll(self, *, last: bool) -> None:
        status: RunStatus = self._status if last else "RUNNING"
        known = self._known or self._connected(status)
        run, reports = self._run, self._run.reports()
        note = f"Training of `{run.config.model}`: **{_STATES[status]}**, "
        note += f"{len(reports)} of {run.config.num_epochs} epochs."
        best = best_of(reports)
        if best is not None and best.scores.ap50 is not None:
            note += f"\n\nBest AP50 on the validation images: **{best.scores.ap50:.4f}** after epoch {best.epoch}."
        known.log(
            points=[
                Point(name, value, report.epoch, report.measured_ms or run.info.started_ms)
                for report in reports[self._sent :]
                for name, value in epoch_figures(report).items()
            ],
            tags={"vqc.state": _STATES[status], "vqc.epochs": str(len(reports)), "mlflow.note.content": note},
        )
        self._sent = len(reports)
        if last:
            known.attach([run.folder / "train_config.json", run.log_file, run.best])
            known.set_status(status, end_ms=reports[-1].measured_ms if reports else None)

    def _disconnect(self, error: Exception) -> None:
        self._known = None

    def _connected(self, status: RunStatus) -> KnownRun:
        """The run, found or created; all reports are written again."""
        info = self._run.info
        tracker = Tracker(self._uri, artifacts=self._artifacts)
        found = tracker.runs({_RUN_TAG: info.run_id})
        if found:
            known = found[0]
            if status == "RUNNING":
                known.set_status(status)
        else:
            tags = {_RUN_TAG: info.run_id, **source_tags(info.name, info.data, info.versions, info.command)}
            run_id = tracker.create(info.name, tags=tags, start_ms=info.started_ms)
            known = KnownRun(tracker=tracker, run_id=run_id, name=info.name, tags=tags)
        known.log(params=flat_settings(self._run.config.model_dump(mode="json")))
        self._sent, self._known = 0, known
        return known
