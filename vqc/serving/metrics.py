"""Figures for Prometheus, served at ``/metrics``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from vqc.serving.inspection import Inspection, ModelVersion

BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STAGES = ("queue", "decode", "detector", "store", "total")


class Metrics:
    """Counts from the start of the process; may be used from several threads."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._inspections = Counter(
            "vqc_inspections", "Photographs by verdict", ["verdict", "source"], registry=self._registry
        )
        self._seconds = Histogram(
            "vqc_inspection_seconds", "Where the time of an inspection went", ["stage"], buckets=BUCKETS_S,
            registry=self._registry,
        )  # fmt: skip
        self._refused = Counter(
            "vqc_refused", "Photographs that were refused, by the status of the answer", ["status"],
            registry=self._registry,
        )  # fmt: skip
        self._model = Gauge("vqc_model", "1 for the model that answers", ["version", "sha256"], registry=self._registry)
        self._queue = Gauge("vqc_queue_places_taken", "Photographs that wait or are looked at", registry=self._registry)

    def inspected(self, inspection: Inspection) -> None:
        """Count an inspection."""
        self._inspections.labels(inspection.verdict, inspection.source).inc()
        for stage in STAGES:
            self._seconds.labels(stage).observe(getattr(inspection.timings, f"{stage}_ms") / 1000)

    def refused(self, status: int) -> None:
        """Count a photograph that was not looked at."""
        self._refused.labels(str(status)).inc()

    def model_changed(self, version: ModelVersion) -> None:
        """Another model answers."""
        self._model.clear()
        self._model.labels(version.version, version.sha256).set(1)

    def text(self, *, queue: int) -> bytes:
        """All figures in Prometheus' text format; ``queue``: places that are taken."""
        self._queue.set(queue)
        return generate_latest(self._registry)
