"""Calibrating one detector on val, judging it on test, and the page that shows both.

Called by ``vqc.cli.calibrate``; calls ``vqc.evaluation.calibration_fit``, ``vqc.evaluation.operating_point``,
``vqc.reporting.html`` and ``vqc.reporting.plots``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vqc.data.dataset import Data
from vqc.evaluation.calibration_fit import (
    CalibrationErrors,
    Choice,
    ReliabilityBin,
    calibrated_scores,
    choose_curves,
    errors,
    reliability,
    samples_of,
)
from vqc.evaluation.evaluate import check_categories, detections_on, exact_precision
from vqc.evaluation.image_metrics import PerImage, per_image
from vqc.evaluation.operating_point import choose_operating_point
from vqc.files import file_sha256
from vqc.inference.calibration import Calibration, Curve, OperatingPoint, Proportion
from vqc.models.checkpoint import load_model
from vqc.reporting.html import both_widths, percent, render
from vqc.reporting.plots import COLOUR, canvas, svg

__all__ = ["CalibrationReport", "calibrate", "calibration_page"]

TEMPLATE = Path(__file__).parent / "templates" / "calibration.html.j2"
CLASS_ROLES = ("best", "default", "good", "odd", "bad", "stopped")


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationReport:
    """A calibration, how it was chosen on val, and what it does on test; None where there is no test split."""

    calibration: Calibration
    choice: Choice
    val_images: int
    before: CalibrationErrors | None
    after: CalibrationErrors | None
    bins_before: tuple[ReliabilityBin, ...]
    bins_after: tuple[ReliabilityBin, ...]
    on_test: PerImage | None
    sentences: tuple[str, ...]


def calibrate(
    model_path: Path, data: Data, *, max_escape: float, on_step: Callable[[str], None] = lambda text: None
) -> CalibrationReport:
    """Fit curves and thresholds on val; measure both on test. Writes nothing.

    Args:
        max_escape: share of the defective parts that may pass, 0 < max_escape < 1.

    Raises:
        ModelError: the weights cannot be used, or know other categories.
        DataError: val has no defective image.
    """
    model, info = load_model(model_path)
    check_categories(model_path, info, data)
    precision = exact_precision()
    found = {}
    for split in (split for split in (data.val, data.test) if split is not None):
        on_step(f"finding defects on {len(split.images)} images of {split.name}")
        found[split.name] = detections_on(data, split.name, model=model, info=info, precision=precision)
    choice = choose_curves(samples_of(data.val, found["val"]))
    draft = _calibration(model_path, data, choice, _undecided(max_escape, len(info.categories)))
    on_val = [draft.calibrated(one) for one in found["val"]]
    point = choose_operating_point(data.val, on_val, max_escape=max_escape)
    calibration = _calibration(model_path, data, choice, point)
    if data.test is None:
        return CalibrationReport(calibration=calibration, choice=choice, val_images=len(data.val.images), before=None,
                                 after=None, bins_before=(), bins_after=(), on_test=None,
                                 sentences=_sentences(point, None))  # fmt: skip
    samples = samples_of(data.test, found["test"])
    after = calibrated_scores(choice.curves, samples)
    on_test = per_image(
        data.test, [calibration.calibrated(one) for one in found["test"]], thresholds=calibration.thresholds
    )
    return CalibrationReport(
        calibration=calibration,
        choice=choice,
        val_images=len(data.val.images),
        before=errors(samples),
        after=errors(samples, after),
        bins_before=reliability(samples),
        bins_after=reliability(samples, after),
        on_test=on_test,
        sentences=_sentences(point, on_test),
    )


def _calibration(model_path: Path, data: Data, choice: Choice, point: OperatingPoint) -> Calibration:
    return Calibration(
        model_file=model_path.name,
        model_sha256=file_sha256(model_path),
        data_fingerprint=data.fingerprint,
        categories=tuple((category.id, category.name) for category in data.categories),
        method=choice.method,
        curves=choice.curves,
        operating_point=point,
    )


def _undecided(max_escape: float, classes: int) -> OperatingPoint:
    nothing = Proportion(count=0, total=0)
    return OperatingPoint(max_escape=max_escape, thresholds=(0.0,) * classes, per_class=False, reached=False,
                          escape=nothing, overkill=nothing, parts_needed=1)  # fmt: skip


def _sentences(point: OperatingPoint, on_test: PerImage | None) -> tuple[str, ...]:
    """What the threshold promises and what it kept, in words."""
    goal, val = percent(point.max_escape), point.escape
    said = [f"On val {val.count} of {val.total} defective parts pass; {goal} were allowed."]
    if not point.reached:
        said[0] += " No threshold passes fewer: on the others nothing was found at all."
    if point.overkill.total:
        said.append(f"On val {point.overkill.count} of {point.overkill.total} good parts are rejected.")
    else:
        said.append("Val has no good images, so overkill cannot be told.")
    if point.confidence is not None:
        said.append(
            f"{val.total} defective val parts show an escape rate of at most {goal} with {percent(point.confidence)} "
            f"confidence; for 95 % it takes {point.parts_needed}, none of them passing."
        )
    if on_test is not None:
        for name, rate in (("escape", on_test.escape), ("overkill", on_test.overkill)):
            if rate.low is not None and rate.high is not None:
                said.append(
                    f"On test {name} is {rate.count} of {rate.total}, 95 % interval {percent(rate.low)} to "
                    f"{percent(rate.high)}."
                )
            else:
                said.append(f"On test {name} cannot be told: {rate.reason}.")
    return tuple(said)


def calibration_page(report: CalibrationReport) -> str:
    """The calibration as an HTML document without any outside reference."""
    diagrams = [
        both_widths(lambda px, bins=bins, name=name: _diagram(bins, name, px // 2 if px > 600 else px))  # type: ignore[misc]
        for name, bins in (("before", report.bins_before), ("after", report.bins_after))
        if bins
    ]
    calibration = report.calibration
    roles = [CLASS_ROLES[k % len(CLASS_ROLES)] for k in range(len(calibration.curves))]
    curves = both_widths(lambda px: _curves(calibration.curves, roles, px // 2 if px > 600 else px))
    return render(
        TEMPLATE,
        report=report,
        calibration=calibration,
        point=calibration.operating_point,
        diagrams=diagrams,
        curves=curves,
        classes=list(zip(calibration.categories, roles, calibration.operating_point.thresholds, strict=True)),
    )


def _diagram(bins: Sequence[ReliabilityBin], name: str, width_px: int) -> str:
    """Reliability: a bar per tenth of the score, as high as its mean overlap; true scores lie on the diagonal."""
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
    axes.set_xlabel("score")
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
    axes.set_ylabel("calibrated score")
    return svg(figure, name=f"curves{width_px}", label="Calibrated score against raw score, per class")
