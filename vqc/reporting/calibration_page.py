"""The page of a calibration: what the threshold promises, reliability on test, the curves and the thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vqc.evaluation.calibrate import CalibrationReport
from vqc.evaluation.calibration_fit import ReliabilityBin
from vqc.inference.calibration import Curve
from vqc.reporting.html import HALF_WIDTHS_PX, both_widths, render
from vqc.reporting.plots import COLOUR, shares, svg

TEMPLATE = Path(__file__).parent / "templates" / "calibration.html.j2"
CALIBRATED = "calibrated score (expected IoU)"
DIAGONAL: dict[str, Any] = {"color": COLOUR["muted"], "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 1}
CLASS_ROLES = ("best", "default", "good", "odd", "bad", "stopped")


def calibration_page(report: CalibrationReport) -> str:
    """The calibration as an HTML document without outside references."""
    tested = report.on_test
    pairs = (("before", tested.bins_before), ("after", tested.bins_after)) if tested else ()
    diagrams = [both_widths(partial(_diagram, bins, name), HALF_WIDTHS_PX) for name, bins in pairs]
    calibration = report.calibration
    roles = [CLASS_ROLES[k % len(CLASS_ROLES)] for k in range(len(calibration.curves))]
    return render(
        TEMPLATE,
        report=report,
        tested=tested,
        calibration=calibration,
        point=calibration.operating_point,
        diagrams=diagrams,
        curves=both_widths(partial(_curves, calibration.curves, roles), HALF_WIDTHS_PX),
        classes=list(zip(calibration.categories, roles, calibration.operating_point.thresholds, strict=True)),
    )


def _diagram(bins: Sequence[ReliabilityBin], name: str, width_px: int) -> str:
    """Reliability: a bar per tenth of the score, as high as its mean overlap; calibrated scores lie on the diagonal."""
    figure, axes = shares(width_px, 300, x="raw score" if name == "before" else CALIBRATED, y="mean overlap (IoU)")
    axes.plot([0, 1], [0, 1], **DIAGONAL)
    filled = [one for one in bins if one.detections]
    most = max((one.detections for one in filled), default=1)
    for one in filled:
        opacity = 0.35 + 0.6 * np.log1p(one.detections) / np.log1p(most)
        axes.bar(one.low, one.mean_overlap or 0.0, width=one.high - one.low, align="edge", color=COLOUR["best"],
                 alpha=opacity, edgecolor=COLOUR["surface"], linewidth=1.5)  # fmt: skip
    axes.plot([one.mean_score or 0.0 for one in filled], [one.mean_overlap or 0.0 for one in filled], marker="o",
              markersize=5, color=COLOUR["default"], linewidth=1.4, zorder=4)  # fmt: skip
    return svg(
        figure, name=f"reliability-{name}{width_px}", label=f"Mean overlap against the score, {name} calibration"
    )


def _curves(curves: Sequence[Curve], roles: Sequence[str], width_px: int) -> str:
    figure, axes = shares(width_px, 300, x="raw score", y=CALIBRATED)
    raw = np.linspace(0, 1, 201, dtype=np.float32)
    axes.plot([0, 1], [0, 1], **DIAGONAL)
    for curve, role in zip(curves, roles, strict=True):
        axes.plot(raw, curve(raw), color=COLOUR[role], linewidth=2)
    return svg(figure, name=f"curves{width_px}", label="Calibrated score against raw score, per class")
