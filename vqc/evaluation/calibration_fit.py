"""Score calibration: curves fitted on one split, and calibration errors measured on another.

A calibrated score is the expected IoU of the detection with an object of its class, 0 for a false alarm; it is not the
probability of a defect. The measure is LaECE0 of Kuzucu, Oksuz, Sadeghi and Dokania, "On Calibration of Object
Detectors: Pitfalls, Evaluation and Baselines" (ECCV 2024, section 4), the gap between score and IoU. As there,
detections and objects of a class are matched with any overlap (tau = 0), scores fall into 25 bins, the error of a
class is the mean gap of its bins weighted by their detections, and the mean over classes counts. D-ECE (Kueppers et
al., CVPR Workshops 2020, here of the score alone) is the same gap against the share of detections that are right at
IoU 0.5, all classes together.

Where we depart: detections are kept from a fixed raw score instead of from thresholds tuned for the LRP error; a class
with too few detections shares the curve of all; isotonic steps become slopes between the steps' centres (centred
isotonic regression, Oron and Flournoy 2017), so that two different scores never become equal and the order stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vqc.config import Record
from vqc.data.dataset import Split
from vqc.evaluation.matching import IGNORED, match
from vqc.evaluation.parts import parts_of, with_parts
from vqc.inference.calibration import EDGE, Curve, Method, apply_curves
from vqc.inference.detections import Detections

Floats = NDArray[np.float64]

SCORE_FLOOR = 0.05  # detections with lower scores are noise; their number would hide all other errors
BINS = 25
DIAGRAM_BINS = 10
FOLDS = 5
FEWEST = 20  # detections for any curve at all
FEWEST_OWN, FEWEST_OWN_FOUND = 60, 15  # detections, and among them found objects, for a class to have its own curve
PRIOR = 0.01  # weight of the prior for Platt's two parameters, the identity: needed only for separable data
LEVEL_EDGE = 1e-3  # lowest and highest step: beyond them scores must still differ, in float32 too
METHODS: tuple[Method, ...] = ("none", "platt", "isotonic")


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """The ``k`` detections of a split that calibration uses."""

    part: NDArray[np.int64]  # [k], position of the part that is shown
    label: NDArray[np.int64]  # [k], 1..C
    score: Floats  # [k], 0..1
    overlap: Floats  # [k], IoU with the object of its class that it was given at any overlap; 0: none
    correct: NDArray[np.bool_]  # [k], whether it was given one at IoU 0.5
    objects: NDArray[np.int64]  # [C], of each class in the split
    parts: int  # in the split

    def __getitem__(self, kept: NDArray[np.bool_]) -> Samples:
        names = ("part", "label", "score", "overlap", "correct")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})

    def calibrated(self, curves: Sequence[Curve]) -> Samples:
        """The same with the scores through the curves of their classes."""
        scores = apply_curves(curves, self.score.astype(np.float32), self.label)
        return replace(self, score=scores.astype(np.float64))


class CalibrationErrors(Record):
    """Calibration errors, 0..1; None without detections."""

    laece0: float | None = Field(None, description="gap between score and IoU, mean over classes")
    dece: float | None = Field(None, description="gap between score and share right at IoU 0.5, all classes together")
    detections: int = Field(ge=0)


class ReliabilityBin(Record):
    """Detections whose scores lie in one tenth."""

    low: float
    high: float
    detections: int
    mean_score: float | None
    mean_overlap: float | None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The method that predicted held-out images best, its curves, and how each did."""

    method: Method
    curves: tuple[Curve, ...]  # one per class, in label order
    squared_error: dict[str, float]  # of each method: mean of (score - overlap)² on held-out parts; empty: too few


def samples_of(split: Split, detections: Sequence[Detections]) -> Samples:
    """The detections with a raw score of at least ``SCORE_FLOOR`` that lie in no crowd region."""
    rows = [np.zeros((0, 5))]
    for part, record, found in with_parts(split, detections):
        loose, strict = match(record, found, iou=0.0), match(record, found, iou=0.5)
        kept = (found.scores >= SCORE_FLOOR) & (loose.truth != IGNORED) & (strict.truth != IGNORED)
        columns = np.full(len(kept), part), found.labels, found.scores, loose.iou, strict.truth >= 0
        rows.append(np.column_stack(columns)[kept])
    shown, label, score, overlap, correct = np.concatenate(rows).T
    present = [one for record in split.images for one in record.labels[~record.crowd]]
    return Samples(
        part=shown.astype(np.int64),
        label=label.astype(np.int64),
        score=score,
        overlap=overlap,
        correct=correct > 0,
        objects=np.bincount(np.array(present, np.int64), minlength=len(split.categories) + 1)[1:],
        parts=len(parts_of(split).good),
    )


def errors(samples: Samples) -> CalibrationErrors:
    """LaECE0 and D-ECE of the scores."""
    by_class = [
        _gap(samples.score[chosen], samples.overlap[chosen])
        for label, objects in enumerate(samples.objects, start=1)
        if objects and (chosen := samples.label == label).any()
    ]
    count = len(samples.score)
    return CalibrationErrors(
        laece0=float(np.mean(by_class)) if by_class else None,
        dece=_gap(samples.score, samples.correct.astype(np.float64)) if count else None,
        detections=count,
    )


def reliability(samples: Samples) -> tuple[ReliabilityBin, ...]:
    """Mean score and mean overlap by tenths of the score, all classes together."""
    place = _bin(samples.score, DIAGRAM_BINS)
    bins = []
    for k in range(DIAGRAM_BINS):
        inside = samples[place == k]
        count = len(inside.score)
        bins.append(
            ReliabilityBin(
                low=k / DIAGRAM_BINS,
                high=(k + 1) / DIAGRAM_BINS,
                detections=count,
                mean_score=float(inside.score.mean()) if count else None,
                mean_overlap=float(inside.overlap.mean()) if count else None,
            )
        )
    return tuple(bins)


def _gap(scores: Floats, targets: Floats) -> float:
    """Mean distance of a bin's mean score from its mean target, weighted by the bin's detections."""
    place = _bin(scores, BINS)
    sums = np.bincount(place, scores - targets, minlength=BINS)
    return float(np.abs(sums).sum() / len(scores))


def _bin(scores: Floats, bins: int) -> NDArray[np.int64]:
    """Bins are open below and closed above; the first also holds 0."""
    return np.asarray(np.clip(np.ceil(scores * bins) - 1, 0, bins - 1), np.int64)


def folds(count: int) -> NDArray[np.int64]:
    """A fold 0..4 for each of ``count`` parts, the same at every call."""
    return np.random.default_rng(0).permutation(count) % FOLDS


def choose_curves(samples: Samples) -> Choice:
    """Fit all methods; keep the one with the smallest error on held-out parts, of equal ones the simplest."""
    fold = folds(samples.parts)[samples.part]
    enough = np.isin(np.arange(FOLDS), fold).all() and len(samples.score) >= FEWEST
    squared_error: dict[str, float] = {}
    for method in METHODS if enough else ():
        predicted = np.empty_like(samples.score)
        for k in range(FOLDS):
            held_out = fold == k
            predicted[held_out] = samples[held_out].calibrated(_curves(method, samples[~held_out])).score
        squared_error[method] = float(np.mean((predicted - samples.overlap) ** 2))
    best: Method = min(METHODS, key=lambda method: squared_error.get(method, np.inf)) if enough else "none"
    return Choice(method=best, curves=_curves(best, samples), squared_error=squared_error)


def _curves(method: Method, samples: Samples) -> tuple[Curve, ...]:
    """One curve per class; those with too few detections or found objects share the curve of all."""
    shared = fit_curve(method, samples.score, samples.overlap)
    curves = []
    for label in range(1, len(samples.objects) + 1):
        some = samples[samples.label == label]
        own = len(some.score) >= FEWEST_OWN and (some.overlap > 0).sum() >= FEWEST_OWN_FOUND
        curves.append(fit_curve(method, some.score, some.overlap) if own else shared)
    return tuple(curves)


def fit_curve(method: Method, scores: Floats, targets: Floats) -> Curve:
    """The curve of a method for raw scores [k] and IoUs with the object that was found [k]; the identity for few."""
    if method == "none" or len(scores) < FEWEST:
        return Curve(method="none")
    return _platt(scores, targets) if method == "platt" else _isotonic(scores, targets)


def _platt(scores: Floats, targets: Floats) -> Curve:
    """Platt (1999) with the overlap as a soft label: least cross entropy, with a weak pull towards the raw score."""
    from scipy.optimize import minimize

    inside = np.clip(scores, EDGE, 1 - EDGE)
    odds = np.log(inside / (1 - inside))

    def loss(numbers: Floats) -> tuple[float, Floats]:
        slope, intercept = numbers
        z = slope * odds + intercept
        gap = 1 / (1 + np.exp(-z)) - targets
        pull = np.array([slope - 1, intercept])
        value = float(np.sum(np.logaddexp(0, z) - targets * z) + PRIOR * (pull**2).sum() / 2)
        return value, np.array([(gap * odds).sum(), gap.sum()]) + PRIOR * pull

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.01, 20), (-20, 20)])
    slope, intercept = (float(number) for number in found.x)
    return Curve(method="platt", slope=slope, intercept=intercept)


def _isotonic(scores: Floats, targets: Floats) -> Curve:
    """Centred isotonic regression: pool until it rises, one knot in the middle of each pool, lines between them."""
    from scipy.optimize import isotonic_regression

    place, inverse, count = np.unique(scores, return_inverse=True, return_counts=True)
    mean = np.bincount(inverse, targets) / count
    level = np.clip(isotonic_regression(mean, weights=count).x, LEVEL_EDGE, 1 - LEVEL_EDGE)
    knots = [(0.0, 0.0)]
    for value in np.unique(level):
        pool = level == value
        centre = float(np.average(np.clip(place[pool], EDGE, 1 - EDGE), weights=count[pool]))
        if centre > knots[-1][0]:
            knots.append((centre, float(value)))
    return Curve(method="isotonic", knots=(*knots, (1.0, 1.0)))
