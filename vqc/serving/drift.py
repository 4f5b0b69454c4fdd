"""Whether the photographs of the line still look like those of val, which chose the threshold.

Parts come in blocks. After 25, 50, 100 and 200 parts of a block each statistic is compared with val's distribution by
the two-sample test of Kolmogorov and Smirnov, with the p-value of Stephens (Journal of the Royal Statistical Society B
32, 1970). The levels of all tests of a block add up to the false-alarm rate (Bonferroni): while nothing has changed, at
most one block in a hundred raises an alarm, whatever the distributions are. ``tests/benchmarks/drift.py`` simulates it.

That holds for parts that are independent of each other. Where light changes slowly, neighbours are alike and alarms
come more often. The score is shown and raises no alarm: it depends on the share of defective parts, which on a line is
not val's.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vqc.config import Record, load_record
from vqc.inference.bundle import REFERENCE, Distribution, ReferenceStats, appearance

if TYPE_CHECKING:
    from vqc.serving.inspection import Inspection
    from vqc.serving.model_slot import ServedModel
    from vqc.serving.server import Serving

LOOKS = (25, 50, 100, 200)  # parts of a block after which it is compared; the last ends it
FALSE_ALARM_RATE = 0.01  # of a block
APPEARANCE = ("brightness", "contrast", "sharpness", "width_px", "height_px")
STATISTICS = (*APPEARANCE, "score")
TERMS = 100  # of the series; it has converged long before


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is watched of one inspected part; see ``vqc.inference.bundle.ReferenceStats``."""

    brightness: float
    contrast: float
    sharpness: float
    width_px: int
    height_px: int
    score: float


class Statistic(Record):
    """One statistic of the newest parts beside val's."""

    name: str
    reference_mean: float
    recent_mean: float | None = Field(description="null before the first part")
    p_value: float | None = Field(description="the chance of a difference like this if nothing has changed")
    drifted: bool = Field(description="whether it raised the alarm that stands")


class DriftReport(Record):
    """The content of ``GET /v1/drift``."""

    alarm: bool
    parts: int = Field(description="of the block that is compared")
    false_alarm_rate: float = Field(description="of a block, if nothing has changed")
    statistics: tuple[Statistic, ...]


class DriftMonitor:
    """Compares the newest block of parts with the reference; may be called from several threads.

    An alarm stands until a whole block has passed without one.
    """

    def __init__(self, reference: ReferenceStats, *, false_alarm_rate: float = FALSE_ALARM_RATE) -> None:
        self._reference, self._rate = reference, false_alarm_rate
        self._level = false_alarm_rate / (len(APPEARANCE) * len(LOOKS))
        self._block: list[Part] = []
        self._drifted: frozenset[str] = frozenset()  # what the alarm that stands is about
        self._calm = True  # no alarm in this block so far
        self._lock = threading.Lock()

    def add(self, part: Part) -> bool:
        """Take one inspected part; whether it raised an alarm where none was standing."""
        with self._lock:
            if len(self._block) == LOOKS[-1]:
                self._block, self._calm = [], True
            self._block.append(part)
            if len(self._block) not in LOOKS:
                return False
            drifted = frozenset(name for name in APPEARANCE if self._p_value(name) <= self._level)
            raised = bool(drifted) and not self._drifted
            self._calm = self._calm and not drifted
            if drifted:
                self._drifted |= drifted
            elif self._calm and len(self._block) == LOOKS[-1]:
                self._drifted = frozenset()
            return raised

    def report(self) -> DriftReport:
        """The block that is being filled, and the alarm that stands."""
        with self._lock:
            return DriftReport(
                alarm=bool(self._drifted),
                parts=len(self._block),
                false_alarm_rate=self._rate,
                statistics=tuple(map(self._statistic, STATISTICS)),
            )

    def _statistic(self, name: str) -> Statistic:
        reference: Distribution = getattr(self._reference, name)
        recent = self._recent(name)
        return Statistic(
            name=name,
            reference_mean=reference.mean,
            recent_mean=float(recent.mean()) if len(recent) else None,
            p_value=self._p_value(name) if len(recent) else None,
            drifted=name in self._drifted,
        )

    def _recent(self, name: str) -> NDArray[np.float64]:
        return np.array([getattr(part, name) for part in self._block], np.float64)

    def _p_value(self, name: str) -> float:
        return same_distribution_p(getattr(self._reference, name), self._reference.images, self._recent(name))


def same_distribution_p(reference: Distribution, images: int, recent: NDArray[np.float64]) -> float:
    """The p-value of Kolmogorov and Smirnov's two-sample test, 0..1.

    The reference is known by its quantiles alone, so the difference is the largest at one of them; that is never more
    than at any value, and the test is a little cautious.

    Args:
        images: behind the reference.
        recent: [n] values, at least one.
    """
    quantiles = np.array(reference.quantiles)
    shares, values = np.linspace(0, 1, len(quantiles)), np.sort(recent)
    # Where many values are equal, such as widths, the share of the reference at a value is known only as a range.
    up_to = np.searchsorted(values, quantiles, side="right") / len(values)
    below = np.searchsorted(values, quantiles, side="left") / len(values)
    difference = float(max((shares - up_to).max(), (below - shares).max(), 0.0))
    root = math.sqrt(images * len(values) / (images + len(values)))
    return _kolmogorov((root + 0.12 + 0.11 / root) * difference)


def _kolmogorov(distance: float) -> float:
    """The share of Kolmogorov's distribution above a distance."""
    if distance < 0.3:  # above all but 1e-5 of it; the series converges slowly there
        return 1.0
    terms = [math.exp(-2 * (k * distance) ** 2) for k in range(1, TERMS + 1)]
    return min(1.0, max(0.0, 2 * (sum(terms[::2]) - sum(terms[1::2]))))


class DriftWatch:
    """The monitor of the model that answers; another model begins a new one.

    Under load not every part is compared: see ``vqc.serving.server.Observer``.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._monitor = _monitor_of(serving.model_slot.current)
        serving.observers.append(self._observe)
        serving.model_observers.append(self._model_changed)

    def report(self) -> DriftReport | None:
        """None where the bundle of the model has no reference."""
        return None if self._monitor is None else self._monitor.report()

    def _model_changed(self, model: ServedModel) -> None:
        self._monitor = _monitor_of(model)

    def _observe(self, inspection: Inspection, pixels: NDArray[np.uint8] | None) -> None:
        monitor = self._monitor
        if monitor is None or pixels is None:
            return
        brightness, contrast, sharpness = appearance(pixels)
        raised = monitor.add(
            Part(
                brightness=brightness,
                contrast=contrast,
                sharpness=sharpness,
                width_px=inspection.image.width,
                height_px=inspection.image.height,
                score=inspection.score,
            )
        )
        if raised:
            report = monitor.report()
            self._serving.events.publish("drift", report.model_dump_json())
            self._serving.notify("drift.alarm", report.model_dump(mode="json"))


def _monitor_of(model: ServedModel) -> DriftMonitor | None:
    path = model.folder / REFERENCE
    return DriftMonitor(load_record(ReferenceStats, path)) if path.is_file() else None
