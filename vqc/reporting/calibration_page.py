"""The page of a calibration: what the threshold promises, reliability on test, the curves and the thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vqc.evaluation.calibrate import CalibrationReport
from vqc.evaluation.calibration_fit import ReliabilityBin
from vqc.inference.calibration import Curve
from vqc.reporting.html import both_widths, render
from vqc.reporting.plots import COLOUR, canvas, svg

TEMPLATE = Path(__file__).parent / "templates" / "calibration.html.j2"
CLASS_ROLES = ("best", "default", "good", "odd", "bad", "stopped")


def calibration_page(report: CalibrationReport) -> str:
    """The calibration as an HTML document without outside references."""
    tested = report.on_test
    diagrams = [
        both_widths(lambda px, bins=bins, name=name: _diagram(bins, name, px // 2 if px > 600 else px))  # type: ignore[misc]
        for name, bins in ((("before", tested.bins_before), ("after", tested.bins_after)) if tested else ())
    ]
    calibration = report.calibration
    roles = [CLASS_ROLES[k % len(CLASS_ROLES)] for k in range(len(calibration.curves))]
    return render(
        TEMPLATE,
        report=report,
        tested=tested,
        calibration=calibration,
        point=calibration.operating_point,
        diagrams=diagrams,
        curves=both_widths(lambda px: _curves(calibration.curves, roles, px // 2 if px > 600 else px)),
        classes=list(zip(calibration.categories, roles, calibration.operating_point.thresholds, strict=True)),
    )


def _diagram(bins: Sequence[ReliabilityBin], name: str, width_px: int) -> str:
    """Reliability: a bar per tenth of the score, as high as its mean overlap; calibrated scores lie on the diagonal."""
    figure, axes = canvas(width_px, 300)
    axes.plot([0, 1], [0, 1], color=COLOUR["muted"], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    full = [(one, one.mean_score, one.mean_overlap) for one in bins]
    points = [(one, score, overlap) for one, score, overlap in full if score is not None and overlap is not None]
    most = max((one.detections for one, _, _ in points), default=1)
    for one, _, overlap in points:
        opacity = 0.35 + 0.6 * np.log1p(one.detections) / np.log1p(most)
        axes.bar(one.low, overlap, width=one.high - one.low, align="edge", color=COLOUR["best"], alpha=opacity,
                 edgecolor=COLOUR["surface"], linewidth=1.5)  # fmt: skip
    axes.plot([score for _, score, _ in points], [overlap for _, _, overlap in points], marker="o", markersize=5,
              color=COLOUR["default"], linewidth=1.4, zorder=4)  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("raw score" if name == "before" else "calibrated score (expected IoU)")
    axes.set_ylabel("mean overlap (IoU)")
    return svg(
        figure, name=f"reliability-{name}{width_px}", label=f"Mean overlap against the score, {name} calibration"
    )


def _curves(curves: Sequence[Curve], roles: Sequence[str], width_px: int) -> str:
    figure, axes = canvas(width_px, 300)
    raw = np.linspace(0, 1, 201, dtype=np.float32)
    axes.plot([0, 1], [0, 1], color=COLOUR["muted"], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for curve, role in zip(curves, roles, strict=True):
        axes.plot(raw, curve(raw), color=COLOUR[role], linewidth=2)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("raw score")
    axes.set_ylabel("calibrated score (expected IoU)")
    return svg(figure, name=f"curves{width_px}", label="Calibrated score against raw score, per class")
