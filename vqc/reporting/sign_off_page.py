"""The page that an inspector signs: verdict, escape and overkill with bounds, the worst misses, what was measured."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from vqc.evaluation.calibrate import promise
from vqc.evaluation.comparison import ESCAPE_LEVEL, LEVEL, Comparison
from vqc.evaluation.evaluate import Evaluated
from vqc.inference.calibration import Calibration
from vqc.reporting.evaluation_page import case_pictures, trade_off_plot
from vqc.reporting.html import both_widths, render

TEMPLATE = Path(__file__).parent / "templates" / "sign_off.html.j2"
MISSES_SHOWN = 6


def sign_off_page(
    tested: Evaluated,
    calibration: Calibration,
    *,
    name: str,
    decision: str,
    reason: str,
    comparison: Comparison | None,
    week: Comparison | None = None,
) -> str:
    """The sign-off as an HTML document without outside references; it prints on A4.

    Args:
        tested: the evaluation on test, at the calibration's thresholds.
        name: of the detector.
        decision, reason: whether it replaces the champion, and why.
        comparison: with the champion; None where there was none to compare with.
        week: with the champion, on the newest reviewed week; None where nothing of it was held out.
    """
    record = tested.record
    return render(
        TEMPLATE,
        name=name,
        decision=decision,
        reason=reason,
        comparison=comparison,
        week=week,
        level=LEVEL,
        escape_level=ESCAPE_LEVEL,
        record=record,
        escape=record.per_part.escape,
        overkill=record.per_part.overkill,
        promise=list(promise(calibration.operating_point)),
        thresholds=list(zip(calibration.categories, calibration.operating_point.thresholds, strict=True)),
        calibration=calibration,
        trade_off=both_widths(partial(trade_off_plot, record)) if record.trade_off.thresholds else [],
        misses=case_pictures(tested, record.worst_misses[:MISSES_SHOWN]),
    )
