"""What an inspector signs: how many defective parts pass (escapes) and how many good ones are rejected (overkill).

A part is *rejected* if a detection of any class reaches that class's threshold, on any of its images and anywhere on
it, and *passes* otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from vqc.config import Record
from vqc.data.dataset import Split
from vqc.evaluation.intervals import Rate, rate
from vqc.evaluation.matching import ALONE, match
from vqc.evaluation.parts import class_scores, parts_of, rejected, with_parts
from vqc.inference.detections import Detections


class Verdicts(Record):
    """Verdicts on the parts of a split at one operating point."""

    escape: Rate = Field(description="defective parts that pass, of all defective ones")
    overkill: Rate = Field(description="good parts that are rejected, of all good ones")
    beside: int = Field(ge=0, description="defective parts rejected only by detections that overlap no defect")
    unclear: int = Field(ge=0, description="parts with nothing but crowd regions: in neither rate")


class TradeOff(Record):
    """Escapes and overkill for one threshold of all classes, at every threshold where either changes.

    The lists are parallel, thresholds ascend. Above the last threshold every part passes.
    """

    thresholds: tuple[float, ...]
    escaped: tuple[int, ...]
    overkilled: tuple[int, ...]
    defective: int
    good: int


def part_verdicts(split: Split, detections: Sequence[Detections], *, thresholds: Mapping[int, float]) -> Verdicts:
    """Escape and overkill, each with its interval, at the thresholds: label in 1..C -> lowest score that rejects."""
    parts = parts_of(split)
    rejects = rejected(class_scores(split, detections), thresholds)
    touched = np.zeros(len(rejects), bool)
    for part, record, found in with_parts(split, detections):
        kept = found.reaching(thresholds)
        touched[part] |= (match(record, kept, iou=0.0, same_class=False).truth != ALONE).any()
    escaped, overkilled = parts.defective & ~rejects, parts.good & rejects
    return Verdicts(
        escape=rate(int(escaped.sum()), int(parts.defective.sum()), of="defective parts"),
        overkill=rate(int(overkilled.sum()), int(parts.good.sum()), of="good parts"),
        beside=int((parts.defective & rejects & ~touched).sum()),
        unclear=int((~parts.defective & ~parts.good).sum()),
    )


def trade_off(split: Split, detections: Sequence[Detections]) -> TradeOff:
    """The whole curve: at each threshold, how many defective parts pass and how many good ones are rejected."""
    parts = parts_of(split)
    highest = class_scores(split, detections).max(axis=1, initial=-np.inf)
    known = highest[parts.defective | parts.good]
    thresholds = np.unique(known[np.isfinite(known)])
    escaped = np.searchsorted(np.sort(highest[parts.defective]), thresholds, side="left")
    passed = np.searchsorted(np.sort(highest[parts.good]), thresholds, side="left")
    return TradeOff(
        thresholds=tuple(thresholds.tolist()),
        escaped=tuple(escaped.tolist()),
        overkilled=tuple((parts.good.sum() - passed).tolist()),
        defective=int(parts.defective.sum()),
        good=int(parts.good.sum()),
    )
