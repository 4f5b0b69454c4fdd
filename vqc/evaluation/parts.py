"""The physical parts of a split: the unit that is accepted or rejected, and the unit that is independent.

A part has one image or several views, which share ``ImageRecord.group``. It is *defective* if any of its images has an
object that is no crowd region, *good* if none of them has any box, and otherwise unclear: in no rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqc.data.dataset import ImageRecord, Split
from vqc.evaluation.matching import paired
from vqc.inference.detections import Detections


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """The ``P`` parts of a split of ``N`` images."""

    of_image: NDArray[np.int64]  # [N], position of the image's part, 0..P-1
    defective: NDArray[np.bool_]  # [P]
    good: NDArray[np.bool_]  # [P]


def parts_of(split: Split) -> Parts:
    """Which image shows which part, and what is annotated on the part."""
    names, of_image = np.unique([record.group for record in split.images], return_inverse=True)
    of_image = of_image.astype(np.int64)
    defective, annotated = np.zeros(len(names), bool), np.zeros(len(names), bool)
    np.logical_or.at(defective, of_image, [record.defective for record in split.images])
    np.logical_or.at(annotated, of_image, [len(record.boxes) > 0 for record in split.images])
    return Parts(of_image=of_image, defective=defective, good=~annotated)


def with_parts(split: Split, detections: Iterable[Detections]) -> Iterator[tuple[int, ImageRecord, Detections]]:
    """Every image of the split: the position of its part, its record, and what was found on it."""
    for part, (record, found) in zip(parts_of(split).of_image, paired(split, detections), strict=True):
        yield int(part), record, found


def class_scores(split: Split, detections: Sequence[Detections]) -> NDArray[np.float64]:
    """Best score [P, C] of each class on any image of each part; ``-inf`` without a detection of the class."""
    best = np.full((len(parts_of(split).good), len(split.categories)), -np.inf)
    for part, _, found in with_parts(split, detections):
        np.maximum.at(best[part], found.labels - 1, found.scores.astype(np.float64))
    return best


def rejected(scores: NDArray[np.float64], thresholds: Mapping[int, float]) -> NDArray[np.bool_]:
    """Which parts [P] are rejected: a score [P, C] of any class reaches its threshold (by label, 1..C), as float32."""
    lowest = np.array([thresholds[label] for label in range(1, scores.shape[1] + 1)], np.float32)
    return np.asarray((scores.astype(np.float32) >= lowest).any(axis=1))
