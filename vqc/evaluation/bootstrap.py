"""Confidence intervals of COCO scores, and of the difference of two detectors, by resampling the parts of a split.

Matching is done once per image
(``vqc.evaluation.coco_metrics.coco_matches``). A resample draws as many parts as there are, with replacement; all views
of a part are drawn together. Only the weights of the matches change, so 1,000 resamples take seconds. A part that is
drawn twice raises AP, so the quantiles are corrected for bias (Efron, "Better bootstrap confidence intervals", 1987,
section 2, without the acceleration).

Symbols: B resamples, b = B + 1, P parts, N images, T IoU thresholds, M detections of a class that find an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vqc.config import Record
from vqc.data.dataset import Split
from vqc.evaluation.coco_metrics import ClassMatches, coco_matches
from vqc.evaluation.intervals import FEWEST
from vqc.evaluation.parts import parts_of
from vqc.inference.detections import Detections

Metric = Literal["ap", "ap50", "ap75", "ar"]
METRICS: tuple[Metric, ...] = ("ap", "ap50", "ap75", "ar")
RESAMPLES = 1000
IOU_50, IOU_75 = 0, 5  # positions among 0.50:0.05:0.95
RECALLS = np.linspace(0.0, 1.0, 101)  # at which COCO reads the precision
Floats = NDArray[np.float64]


class Interval(Record):
    """A two-sided confidence interval, of 95 % unless another level is named."""

    low: float
    high: float


class ScoreIntervals(Record):
    """Bootstrap intervals of COCO scores; None if there are too few parts or no objects."""

    ap: Interval | None = None
    ap50: Interval | None = None
    ap75: Interval | None = None
    ar: Interval | None = None
    parts: int = Field(description="parts that were resampled")


class Difference(Record):
    """The score of one detector minus that of another on the same parts."""

    value: float
    interval: Interval | None = Field(None, description="paired: both are resampled with the same parts")
    parts: int = Field(description="parts that were resampled")

    @property
    def better(self) -> bool:
        """Whether the first detector is better beyond doubt: the whole interval lies above 0."""
        return self.interval is not None and self.interval.low > 0


def score_intervals(split: Split, detections: Sequence[Detections]) -> ScoreIntervals:
    """The interval of each COCO score of the detections."""
    parts = len(parts_of(split).good)
    scores = resampled_scores(split, detections, resamples=RESAMPLES)
    intervals = {name: _interval(column, parts) for name, column in zip(METRICS, scores.T, strict=True)}
    return ScoreIntervals(**intervals, parts=parts)


def score_difference(
    split: Split, ours: Sequence[Detections], theirs: Sequence[Detections], *, metric: Metric, level: float = 0.025
) -> Difference | None:
    """How much better one detector is than another on the same split; None if the score cannot be computed.

    ``level``: the probability, 0..0.5, on either side of the interval.
    """
    column, parts = METRICS.index(metric), len(parts_of(split).good)
    first, second = (resampled_scores(split, found, resamples=RESAMPLES)[:, column] for found in (ours, theirs))
    gaps = first - second
    if np.isnan(gaps[0]):
        return None
    return Difference(value=float(gaps[0]), interval=_interval(gaps, parts, level), parts=parts)


def _interval(values: Floats, parts: int, level: float = 0.025) -> Interval | None:
    """The bias-corrected interval of the value [0] and its resamples [1:]; None if there are too few parts."""
    from scipy.stats import norm

    value, known = values[0], values[1:][~np.isnan(values[1:])]
    if parts < FEWEST or np.isnan(value) or not len(known):
        return None
    below = ((known < value).mean() + (known <= value).mean()) / 2
    bias = norm.ppf(np.clip(below, 1 / len(known), 1 - 1 / len(known)))
    low, high = np.quantile(known, norm.cdf(2 * bias + norm.ppf((level, 1 - level))))
    return Interval(low=float(low), high=float(high))


def resampled_scores(split: Split, detections: Sequence[Detections], *, resamples: int, seed: int = 0) -> Floats:
    """AP, AP50, AP75 and AR [1 + B, 4] of the split itself (row 0) and of each resample; NaN without any object.

    The same split and seed give the same resamples, whatever the detections.
    """
    of_image = parts_of(split).of_image
    parts = int(of_image.max(initial=0)) + 1
    draws = np.random.default_rng(seed).multinomial(parts, np.full(parts, 1 / parts), size=resamples)
    weights = np.concatenate([np.ones((1, parts)), draws])[:, of_image].T  # [N, 1 + B]
    per_class = [_class_scores(matches, weights) for matches in coco_matches(split, detections)]
    precision, recall = (np.stack([pair[k] for pair in per_class]) for k in (0, 1))  # [C, T, 1 + B]
    columns = (precision, precision[:, IOU_50], precision[:, IOU_75], recall)
    known = (np.ma.masked_invalid(column.reshape(-1, resamples + 1)) for column in columns)
    return np.stack([column.mean(axis=0).filled(np.nan) for column in known], axis=1)


def _class_scores(matches: ClassMatches, weights: Floats) -> tuple[Floats, Floats]:
    """AP and recall [T, b] of one class when the images count as often as the weights [N, b] say."""
    from scipy.sparse import coo_array

    objects = matches.objects @ weights
    shape = len(matches.found), weights.shape[1]
    average, recall = np.zeros(shape), np.zeros(shape)
    for k, (found, ignored) in enumerate(zip(matches.found, matches.ignored, strict=True)):
        at = np.flatnonzero(found & ~ignored)
        if not len(at):
            continue
        judged = np.flatnonzero(~ignored[: at[-1] + 1])
        # Precision and recall rise only where an object is found, so the detections between two of these are counted.
        places = np.searchsorted(at, judged), matches.image[judged]
        counts = coo_array((np.ones(len(judged)), places), shape=(len(at), len(weights))).tocsr()
        right, total = weights[matches.image[at]].cumsum(axis=0), (counts @ weights).cumsum(axis=0)  # [M, b]
        reached = right / np.maximum(objects, 1)
        # As pycocotools: the precision at a recall is the best at this recall or above, 0 above the last recall.
        best = np.maximum.accumulate((right / (total + np.spacing(1)))[::-1])[::-1]
        steps = np.diff(np.searchsorted(RECALLS, reached, side="right"), axis=0, prepend=0)
        average[k] = (best * steps).sum(axis=0) / len(RECALLS)
        recall[k] = reached[-1]
    average[:, objects == 0], recall[:, objects == 0] = np.nan, np.nan
    return average, recall
