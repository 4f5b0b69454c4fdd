"""The scores from which a part is rejected: least overkill with no more escapes than allowed.

Called by ``vqc calibrate`` on the val split; calls ``vqc.evaluation.image_metrics``. How sure one can be: were the
threshold put at the score of the (k + 1)-th surest miss among n defective parts, the share of all defective parts below
it follows a beta distribution with k + 1 and n - k, whatever the scores (Wilks, "Determination of sample sizes for
setting tolerance limits", 1941). That the calibration saw the same images is left out of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vqc.data.dataset import Split
from vqc.errors import DataError
from vqc.evaluation.calibration_fit import folds
from vqc.evaluation.image_metrics import class_scores, kinds
from vqc.evaluation.intervals import parts_needed
from vqc.inference.calibration import OperatingPoint, Proportion
from vqc.inference.detections import Detections

__all__ = ["choose_operating_point"]

NEVER = 1.0  # a threshold that rejects next to nothing
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def choose_operating_point(split: Split, detections: Sequence[Detections], *, max_escape: float) -> OperatingPoint:
    """The thresholds for a stated escape rate, one for all classes unless cross-validation favours one for each.

    Args:
        split: val; never test.
        detections: with calibrated scores.
        max_escape: share of the defective parts that may pass, 0 < max_escape < 1.

    Raises:
        DataError: the split has no defective image.
    """
    best = class_scores(split, detections)
    defective, good = kinds(split)
    if not defective.any():
        raise DataError(f"{split.name}: no image with a defect, expected some to choose a threshold on")
    one = _one_for_all(best, defective, max_escape)
    each = _one_for_each(best, defective, good, max_escape)
    per_class = _each_is_better(best, defective, good, max_escape)
    thresholds = each if per_class else one
    escaped, overkilled = _counts(best, defective, good, thresholds)
    total = int(defective.sum())
    return OperatingPoint(
        max_escape=max_escape,
        thresholds=tuple(thresholds.tolist()),
        per_class=per_class,
        reached=escaped <= _allowed(total, max_escape),
        escape=Proportion(count=escaped, total=total),
        overkill=Proportion(count=overkilled, total=int(good.sum())),
        confidence=None if per_class else _confidence(escaped, total, max_escape),
        parts_needed=parts_needed(max_escape),
    )


def _allowed(defective: int, max_escape: float) -> int:
    return math.floor(max_escape * defective + 1e-9)


def _confidence(escaped: int, total: int, max_escape: float) -> float:
    from scipy.special import betainc

    return float(betainc(escaped + 1, total - escaped, max_escape)) if escaped < total else 0.0


def _one_for_all(best: Floats, defective: Flags, max_escape: float) -> Floats:
    """[C] The highest threshold that lets no more defective parts pass than allowed, or than must pass anyway."""
    worst = best.max(axis=1)
    scores = np.sort(worst[defective])
    last = max(_allowed(len(scores), max_escape), int((~np.isfinite(scores)).sum()))
    threshold = _below(worst, scores[last]) if last < len(scores) else NEVER
    return np.full(best.shape[1], threshold)


def _below(scores: Floats, wanted: float) -> float:
    """Half-way from a score down to the next lower one: the last bit of a score must not decide about a part."""
    lower = scores[scores < wanted].max(initial=0.0)
    return float((max(lower, 0.0) + wanted) / 2)


def _one_for_each(best: Floats, defective: Flags, good: Flags, max_escape: float) -> Floats:
    """[C] From one for all, raise the class that spares most good parts, while no more parts pass than allowed."""
    thresholds = _one_for_all(best, defective, max_escape)
    escaped, overkilled = _counts(best, defective, good, thresholds)
    most = max(escaped, _allowed(int(defective.sum()), max_escape))
    while True:
        trials = [_raised(best, defective, thresholds, label, most - escaped) for label in range(best.shape[1])]
        counts = [_counts(best, defective, good, trial) for trial in trials]
        pick = min(range(len(trials)), key=lambda k: counts[k][1])
        if counts[pick][1] >= overkilled:
            return thresholds
        thresholds, (escaped, overkilled) = trials[pick], counts[pick]


def _raised(best: Floats, defective: Flags, thresholds: Floats, label: int, spare: int) -> Floats:
    """The thresholds with one class's as high as it can be while at most ``spare`` more defective parts pass."""
    others = np.delete(best >= thresholds, label, axis=1).any(axis=1)
    alone = np.sort(best[defective & ~others & (best[:, label] >= thresholds[label]), label])
    raised = thresholds.copy()
    raised[label] = NEVER if spare >= len(alone) else max(thresholds[label], _below(best[:, label], alone[spare]))
    return raised


def _counts(best: Floats, defective: Flags, good: Flags, thresholds: Floats) -> tuple[int, int]:
    """Defective parts that pass, good parts that are rejected."""
    rejected = (best >= thresholds).any(axis=1)
    return int((defective & ~rejected).sum()), int((good & rejected).sum())


def _each_is_better(best: Floats, defective: Flags, good: Flags, max_escape: float) -> bool:
    """Whether on held-out images thresholds per class reject fewer good parts and let no more defective ones pass."""
    fold = folds(len(best))
    totals = np.zeros((2, 2), int)  # one for all, one for each; escaped, overkilled
    for k in range(fold.max() + 1):
        told, held_out = fold != k, fold == k
        if not (defective & told).any():
            return False
        one = _one_for_all(best[told], defective[told], max_escape)
        each = _one_for_each(best[told], defective[told], good[told], max_escape)
        for row, thresholds in enumerate((one, each)):
            totals[row] += _counts(best[held_out], defective[held_out], good[held_out], thresholds)
    return bool(totals[1, 1] < totals[0, 1] and totals[1, 0] <= totals[0, 0])
