"""The page of an evaluation: rates, curves, tables, and pictures of the parts that were judged wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vqc.data.dataset import ImageRecord, read_image
from vqc.evaluation.detection_metrics import Froc
from vqc.evaluation.error_cases import Case
from vqc.evaluation.evaluate import Evaluated, Evaluation
from vqc.evaluation.intervals import exact_interval
from vqc.evaluation.matching import paired
from vqc.inference.detections import Detections
from vqc.reporting.draw import FOUND_RGB, TRUTH_RGB, Frames, cut_out
from vqc.reporting.html import HALF_WIDTHS_PX, both_widths, picture_uri, render
from vqc.reporting.plots import COLOUR, shares, svg

TEMPLATE = Path(__file__).parent / "templates" / "evaluation.html.j2"
CONTEXT = 5.0  # side of the cut-out as a multiple of the box's longer side
FEWEST_PX = 96  # side of the smallest cut-out
BAND_POINTS = 80  # of an interval's outline: each takes a millisecond
WIDEST_FALSE = 8.0  # false alarms per image at which the FROC ends: nobody accepts more


def evaluation_page(evaluated: Evaluated) -> str:
    """The evaluation as an HTML document without outside references."""
    record = evaluated.record
    return render(
        TEMPLATE,
        record=record,
        escape=record.per_part.escape,
        overkill=record.per_part.overkill,
        trade_off=both_widths(partial(trade_off_plot, record)) if record.trade_off.thresholds else [],
        froc=both_widths(partial(_froc, record.froc), HALF_WIDTHS_PX) if record.froc.points else [],
        one_threshold=len(set(record.thresholds.values())) == 1,
        misses=case_pictures(evaluated, record.worst_misses),
        false_alarms=case_pictures(evaluated, record.worst_false_alarms),
        confusion_high=max((max(row) for row in record.confusion), default=0),
    )


def trade_off_plot(record: Evaluation, width_px: int) -> str:
    """Both rates over the threshold, with their intervals if they have any; a line at each threshold in use."""
    curve, verdicts = record.trade_off, record.per_part
    figure, axes = shares(
        width_px, 340 if width_px > 600 else 280, x="threshold: a part is rejected from this score", percent=True
    )
    places = np.array([0.0, *curve.thresholds, 1.0])
    escaped, overkilled = (*curve.escaped, curve.defective), (*curve.overkilled, 0)
    for role, counts, rate in (("bad", escaped, verdicts.escape), ("good", overkilled, verdicts.overkill)):
        total = rate.total
        if not total:
            continue
        # Between two scores nothing changes: the count at a threshold is that of the next score at or above it.
        axes.plot(places, [counts[0] / total, *(count / total for count in counts)], color=COLOUR[role], linewidth=2.2,
                  drawstyle="steps-pre")  # fmt: skip
        if rate.high is None:
            continue
        some = np.unique(np.linspace(0, len(counts) - 1, min(BAND_POINTS, len(counts))).astype(int))
        low, high = zip(*(exact_interval(int(counts[k]), total) for k in some), strict=True)
        axes.fill_between(places[some + 1], low, high, step="pre", color=COLOUR[role], alpha=0.14, linewidth=0)
    for threshold in set(record.thresholds.values()):
        axes.axvline(threshold, color=COLOUR["ink"], linewidth=1.1, linestyle=(0, (4, 3)))
    return svg(figure, name=f"trade-off{width_px}", label="Escape rate and overkill against the threshold")


def _froc(curve: Froc, width_px: int) -> str:
    false = [0.0, *(point.false_per_image for point in curve.points)]
    found = [0.0, *(point.sensitivity for point in curve.points)]
    right = min(WIDEST_FALSE, max(0.25, 1.15 * false[-1]))
    figure, axes = shares(width_px, 280, x="false alarms per image", y="defects found", right=right, percent=True)
    axes.plot([*false, max(false[-1], WIDEST_FALSE)], [*found, found[-1]], color=COLOUR["best"], linewidth=2.2,
              drawstyle="steps-post")  # fmt: skip
    return svg(figure, name=f"froc{width_px}", label="Share of defects found against false alarms per image")


def case_pictures(evaluated: Evaluated, cases: Sequence[Case]) -> list[tuple[Case, str]]:
    """Each case with the cut-out around it as a ``data:`` URI."""
    pairs = paired(evaluated.split, evaluated.detections)
    by_id = {record.image_id: (record, found.reaching(evaluated.thresholds)) for record, found in pairs}
    return [(case, picture_uri(_cut_out(*by_id[case.image_id], case))) for case in cases]


def _cut_out(record: ImageRecord, said: Detections, case: Case) -> NDArray[np.uint8]:
    """The part of a photograph around a case, [h, w, 3] RGB, annotated defects and detections framed."""
    frames = Frames(boxes=record.boxes, rgb=TRUTH_RGB), Frames(boxes=said.boxes, rgb=FOUND_RGB)
    return cut_out(read_image(record), case.box, frames, context=CONTEXT, fewest_px=FEWEST_PX)
