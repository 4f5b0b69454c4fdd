"""Whether one detector may replace another: both on the same parts, by the figures that an inspector signs.

The new one must not let more defective parts pass, and must reject fewer good parts or have a higher AP. All tests are
paired by part. Rates: the one-sided mid-p test of McNemar (Fagerland, Lydersen and Laake, "The McNemar test for binary
matched-pairs data", BMC Medical Research Methodology 13, 2013). AP: the bias-corrected bootstrap over parts. The levels
of the two ways to be better add up to ``LEVEL``, so detectors that differ by nothing are exchanged in at most 5 % of
the comparisons. Overkill has most of it, because AP says little about escapes and overkill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vqc.config import Record
from vqc.data.dataset import Split
from vqc.evaluation.bootstrap import Difference, score_difference
from vqc.evaluation.intervals import percent
from vqc.evaluation.parts import class_scores, parts_of, rejected
from vqc.inference.detections import Detections

OVERKILL_LEVEL, AP_LEVEL = 0.04, 0.01
LEVEL = OVERKILL_LEVEL + AP_LEVEL
ESCAPE_LEVEL = 0.1  # at which more escapes are no longer chance: looser, because an escape is the worse mistake
Flags = NDArray[np.bool_]


class PairedRate(Record):
    """A kind of mistake that two detectors make on the same ``total`` parts."""

    ours: int = Field(ge=0, description="parts on which the new detector makes the mistake")
    theirs: int = Field(ge=0, description="parts on which the old one does")
    only_ours: int = Field(ge=0, description="parts on which only the new one does")
    only_theirs: int = Field(ge=0, description="parts on which only the old one does")
    total: int = Field(ge=0)

    @property
    def fewer_p(self) -> float:
        """The chance of so few mistakes by the new detector if both make them equally often, 0..1."""
        return _mid_p(self.only_theirs, self.only_ours)

    @property
    def more_p(self) -> float:
        """The chance of so many mistakes by the new detector if both make them equally often, 0..1."""
        return _mid_p(self.only_ours, self.only_theirs)

    def __str__(self) -> str:
        return f"{self.ours} of {self.total} against {self.theirs}"


class Comparison(Record):
    """Two detectors on one split, each at its own thresholds."""

    split: str
    escape: PairedRate
    overkill: PairedRate
    ap: Difference | None = Field(description="of the new detector minus the old one; None without any object")

    @property
    def escape_worse(self) -> bool:
        """Whether the new detector lets more defective parts pass, beyond chance."""
        return self.escape.more_p <= ESCAPE_LEVEL

    @property
    def better(self) -> bool:
        """Whether the new detector may replace the old one."""
        fewer = self.overkill.fewer_p <= OVERKILL_LEVEL
        return self.escape.total > 0 and not self.escape_worse and (fewer or (self.ap is not None and self.ap.better))

    @property
    def reason(self) -> str:
        """The figures that decided, in one sentence."""
        ap = "" if self.ap is None else f", AP {self.ap.value:+.3f}"
        figures = f"on {self.split} escapes {self.escape}, overkill {self.overkill}{ap}"
        if not self.escape.total:
            return f"{figures}: no defective part to compare escapes on"
        if self.escape_worse:
            return f"{figures}: more escapes than chance explains (p = {self.escape.more_p:.3f})"
        if self.better:
            return f"{figures}: better beyond chance (level {percent(LEVEL)})"
        return f"{figures}: not better beyond chance (level {percent(LEVEL)})"


def compare(
    split: Split,
    ours: Sequence[Detections],
    theirs: Sequence[Detections],
    *,
    thresholds: tuple[Mapping[int, float], Mapping[int, float]],
) -> Comparison:
    """Compare two detectors on the parts of a split.

    Args:
        ours, theirs: detections of the new and of the old detector, with the scores that the thresholds are for.
        thresholds: of the new and of the old one: label in 1..C -> lowest score that rejects.
    """
    parts = parts_of(split)
    new, old = (
        rejected(class_scores(split, found), lowest) for found, lowest in zip((ours, theirs), thresholds, strict=True)
    )
    return Comparison(
        split=split.name,
        escape=paired_rate(~new, ~old, parts.defective),
        overkill=paired_rate(new, old, parts.good),
        ap=score_difference(split, ours, theirs, metric="ap", level=AP_LEVEL),
    )


def paired_rate(ours: Flags, theirs: Flags, among: Flags) -> PairedRate:
    """Mistakes of two detectors, bool [P], among some of the parts."""
    ours, theirs = ours & among, theirs & among
    return PairedRate(
        ours=int(ours.sum()),
        theirs=int(theirs.sum()),
        only_ours=int((ours & ~theirs).sum()),
        only_theirs=int((theirs & ~ours).sum()),
        total=int(among.sum()),
    )


def _mid_p(more: int, fewer: int) -> float:
    """One-sided mid-p value of ``more`` against ``fewer`` discordant parts: 0.5 where they are equally many."""
    from scipy.stats import binom

    total = more + fewer
    return float(binom.sf(more, total, 0.5) + binom.pmf(more, total, 0.5) / 2) if total else 0.5
