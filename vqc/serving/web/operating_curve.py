"""What every threshold would have cost on the test parts, for who wants to move the operating point."""

from __future__ import annotations

from pydantic import Field

from vqc.config import Record
from vqc.errors import ModelError
from vqc.evaluation.intervals import exact_interval
from vqc.serving.model_slot import ServedModel

Share = float | None
MOST_POINTS = 200


class CurvePoint(Record):
    """One threshold for all classes."""

    threshold: float
    escape_rate: Share = Field(description="share of defective parts that pass; null without such parts")
    escape_upper: Share = Field(description="upper end of the two-sided 95 % interval (Clopper and Pearson)")
    overkill_rate: Share = Field(description="share of good parts that are rejected; null without such parts")
    overkill_upper: Share = Field(description="upper end of the two-sided 95 % interval")


class OperatingCurve(Record):
    """Escape and overkill on the test split of the bundle."""

    threshold: float = Field(description="that is in force; the lowest where classes have their own")
    defective: int = Field(description="parts")
    good: int = Field(description="parts")
    points: tuple[CurvePoint, ...] = Field(description="by rising threshold; above the last one every part passes")


def operating_curve(model: ServedModel) -> OperatingCurve:
    """The curve of a bundle; of many thresholds, evenly chosen ones.

    Raises:
        ModelError: the bundle was made without a test split.
    """
    curve = model.trade_off
    if curve is None:
        raise ModelError(f"{model.version.version} was promoted without a test split, so no threshold was measured")
    rows = list(zip(curve["thresholds"], curve["escaped"], curve["overkilled"], strict=True))
    chosen = sorted({round(at * (len(rows) - 1) / (MOST_POINTS - 1)) for at in range(MOST_POINTS)}) if rows else []
    defective, good = curve["defective"], curve["good"]
    points = []
    for threshold, escaped, overkilled in (rows[at] for at in chosen):
        (escape_rate, escape_upper), (overkill_rate, overkill_upper) = (
            _rate(escaped, defective),
            _rate(overkilled, good),
        )
        points.append(
            CurvePoint(
                threshold=threshold, escape_rate=escape_rate, escape_upper=escape_upper, overkill_rate=overkill_rate,
                overkill_upper=overkill_upper,
            )
        )  # fmt: skip
    return OperatingCurve(threshold=model.threshold, defective=defective, good=good, points=tuple(points))


def _rate(count: int, total: int) -> tuple[float, float] | tuple[None, None]:
    return (count / total, exact_interval(count, total)[1]) if total else (None, None)
