"""The scores from which a part is rejected: the least overkill with no more escapes than promised.

Chosen on the val split. With one threshold for all classes the highest score of a part
decides, and ``vqc.evaluation.intervals.tolerated_misses`` says how many defective val parts may lie below it. The
promise holds for any distribution of the scores, if new defective parts are like those of val.

Thresholds per class keep that promise because only good parts decide about the relation of the classes: a score is
replaced by the share of good parts whose score of that class is lower, and one threshold is chosen on this rank. They
are used only if they are better on held-out parts: significantly fewer good parts rejected (one-sided exact test of
McNemar, "Note on the sampling error of the difference between correlated proportions", 1947), and escapes tolerated.

Symbols: P parts, G good parts, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqc.data.dataset import Split
from vqc.errors import ConfigError, DataError
from vqc.evaluation.calibration_fit import FOLDS, folds
from vqc.evaluation.intervals import parts_needed, percent, tolerated_misses
from vqc.evaluation.parts import class_scores, parts_of, rejected
from vqc.inference.calibration import OperatingPoint, Proportion
from vqc.inference.detections import Detections

NEVER = 1.0  # a threshold that rejects next to nothing
SIGNIFICANCE = 0.05
USUAL_ESCAPE = 0.01
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ranks = list[tuple[Floats, Floats]]  # per class: scores and their ranks, both rising, at the knots of straight lines


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The escape rate that is promised."""

    max_escape: float  # share of the defective parts that may pass, 0 < max_escape < 1
    confidence: float | None = None  # 0 < confidence < 1 that the rate is not higher; None: it is not, on average

    def __str__(self) -> str:
        sure = "" if self.confidence is None else f" with {percent(self.confidence)} confidence"
        return f"at most {percent(self.max_escape)} escapes{sure}"

    def tolerated(self, parts: int) -> int:
        """How many of so many defective parts may pass on val; -1: there are too few."""
        return tolerated_misses(parts, self.max_escape, confidence=self.confidence)


def check_shares(flags: Mapping[str, float | None]) -> None:
    """Raise ``ConfigError`` for the first of the flags whose value is no number between 0 and 1."""
    for flag, value in flags.items():
        if value is not None and not 0 < value < 1:
            usual = 0.95 if flag == "--confidence" else USUAL_ESCAPE
            raise ConfigError(flag, [f"got {value:g}, expected a number between 0 and 1, such as {usual:g}"])


def usual_goal(split: Split) -> Goal:
    """At most 1 % escapes, or the lowest rate that a split with few defective parts can promise."""
    return Goal(max_escape=max(USUAL_ESCAPE, lowest_escape(split)))


def lowest_escape(split: Split, *, confidence: float | None = None) -> float:
    """The lowest escape rate that the split's defective parts can promise, rounded up to 0.1 %; 1 if there are none."""
    total = int(parts_of(split).defective.sum())
    if total == 0:
        return 1.0
    possible = 1 / (total + 1) if confidence is None else 1 - (1 - confidence) ** (1 / total)
    return math.ceil(1000 * possible - 1e-6) / 1000


def check_parts(split: Split, goal: Goal, *, command: str) -> None:
    """Raise ``DataError`` if the split has too few defective parts for the goal.

    Args:
        command: to be typed with the escape rate that so many parts do allow added to it.
    """
    total = int(parts_of(split).defective.sum())
    needed = parts_needed(goal.max_escape, confidence=goal.confidence)
    if total == 0:
        raise DataError(f"{split.name}: no part with a defect, expected at least {needed} to choose a threshold")
    if total < needed:
        command += f" --max-escape {lowest_escape(split, confidence=goal.confidence):g}"
        command += "" if goal.confidence is None else f" --confidence {goal.confidence:g}"
        raise DataError(f"{split.name}: {total} defective parts, expected at least {needed} to promise {goal}",
                        command=command)  # fmt: skip


def choose_operating_point(split: Split, detections: Sequence[Detections], *, goal: Goal) -> OperatingPoint:
    """The thresholds on calibrated scores for a goal that ``check_parts`` has passed; the split is val, never test."""
    parts, scores = parts_of(split), class_scores(split, detections)
    thresholds, per_class = choose_thresholds(scores, defective=parts.defective, good=parts.good, goal=goal)
    rejects = rejected(scores, dict(enumerate(thresholds, start=1)))
    escape = Proportion(count=int((parts.defective & ~rejects).sum()), total=int(parts.defective.sum()))
    tolerated = goal.tolerated(escape.total)
    return OperatingPoint(
        max_escape=goal.max_escape,
        confidence=goal.confidence,
        thresholds=tuple(thresholds.tolist()),
        per_class=per_class,
        tolerated=tolerated,
        reached=escape.count <= tolerated,
        escape=escape,
        overkill=Proportion(count=int((parts.good & rejects).sum()), total=int(parts.good.sum())),
    )


def choose_thresholds(scores: Floats, *, defective: Flags, good: Flags, goal: Goal) -> tuple[Floats, bool]:
    """Thresholds [C], and whether they differ, for the class scores [P, C] of defective and good [P] parts."""
    per_class = _per_class_is_better(scores, defective, good, goal)
    ranks = _ranks(scores[good]) if per_class else _same(scores.shape[1])
    return _thresholds(scores, defective, ranks, goal), per_class


def _thresholds(scores: Floats, defective: Flags, ranks: Ranks, goal: Goal) -> Floats:
    """[C] The highest thresholds below which lie no more defective parts than tolerated, or than must pass anyway."""
    columns = [np.interp(column, *knots) for column, knots in zip(scores.T, ranks, strict=True)]
    highest = np.where(np.isfinite(scores), np.stack(columns, axis=1), -np.inf).max(axis=1)
    known = np.sort(highest[defective])
    passing = max(0, goal.tolerated(len(known)), int((~np.isfinite(known)).sum()))
    if passing >= len(known):
        return np.full(scores.shape[1], NEVER)
    # Half-way to the next lower value: the last bit of a score must not decide about a part.
    wanted = (known[passing] + highest[highest < known[passing]].max(initial=0.0)) / 2
    return np.array([np.interp(wanted, rank, score) for score, rank in ranks])


def _same(classes: int) -> Ranks:
    return [(np.array([0.0, 1.0]), np.array([0.0, 1.0]))] * classes


def _ranks(scores: Floats) -> Ranks:
    """For each class the share of the good parts [G, C] that reach at most a score."""
    ranks = []
    for column in scores.T:
        value, count = np.unique(np.maximum(column, 0.0), return_counts=True)
        share = count.cumsum() / (len(column) + 1)
        inside = (value > 0) & (value < 1)
        none = share[0] if value[0] == 0 else 0.0
        ranks.append((np.array([0, *value[inside], 1]), np.array([none, *share[inside], 1])))
    return ranks


def _per_class_is_better(scores: Floats, defective: Flags, good: Flags, goal: Goal) -> bool:
    """Whether thresholds per class are better on held-out parts; see the module's docstring."""
    from scipy.stats import binomtest

    fold = folds(len(scores))
    one, each = np.zeros(len(scores), bool), np.zeros(len(scores), bool)
    for k in range(FOLDS):
        fitted, held_out = fold != k, fold == k
        if not (defective & fitted).any() or not (good & fitted).any():
            return False
        for rejects, ranks in ((one, _same(scores.shape[1])), (each, _ranks(scores[good & fitted]))):
            thresholds = _thresholds(scores[fitted], defective[fitted], ranks, goal)
            rejects[held_out] = (scores[held_out] >= thresholds).any(axis=1)
    spared, lost = int((good & one & ~each).sum()), int((good & each & ~one).sum())
    allowed = max(goal.tolerated(int(defective.sum())), int((defective & ~one).sum()))
    if spared <= lost or (defective & ~each).sum() > allowed:
        return False
    return bool(binomtest(spared, spared + lost, alternative="greater").pvalue <= SIGNIFICANCE)
