"""Whether an exported detector finds what the model finds: both in float32 on the CPU, on the same fitted images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqc.boxes import iou
from vqc.inference.detections import Detections
from vqc.inference.predictor import Predictor

COMPARED_SCORE = 0.05  # what scores less is noise to every user of a detector
PARTNER_IOU = 0.99
SCORE_DIFFERENCE = 1e-3
SAME_PX = 0.01  # corners nearer than this are the same, however small the box
# Two boxes whose scores or overlaps are equal but for the last bit may change places in a suppression or at a limit
# of candidates, and then one is returned by one side alone. That is rare and no fault; more than this share is one.
ALLOWED_UNMATCHED = 0.01


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """The exported file's detections beside the model's; the worst figures are None where nothing has a partner."""

    images: int
    detections: int  # the model's, with a score above ``COMPARED_SCORE``
    unmatched: int  # of either side, without a partner of the same label on the other
    worst_iou: float | None  # lowest of two partners, 1 where their corners agree to ``SAME_PX``
    worst_score_difference: float | None  # largest between two partners

    @property
    def passed(self) -> bool:
        """Whether the exported file may stand for the model: partners agree, and nearly all have one."""
        agree = (self.worst_score_difference or 0.0) <= SCORE_DIFFERENCE
        return agree and self.unmatched <= ALLOWED_UNMATCHED * self.detections


def check_parity(model: Predictor, exported: Predictor, fitted: Sequence[NDArray[np.uint8]]) -> ParityReport:
    """Compare both on images [H, W, 3] of the detector's size.

    Partners have the same label and overlap by more than ``PARTNER_IOU``, one to one, best scores first. A detection
    that scores just above ``COMPARED_SCORE`` may have a partner just below it.
    """
    detections, unmatched = 0, 0
    overlaps: list[float] = []
    differences: list[float] = []
    for image in fitted:
        (ours,), (theirs,) = model.detect_fitted(image[None]), exported.detect_fitted(image[None])
        detections += int((ours.scores > COMPARED_SCORE).sum())
        alone = [ours.scores > COMPARED_SCORE, theirs.scores > COMPARED_SCORE]
        for i, k, overlap in _partners(ours, theirs):
            alone[0][i] = alone[1][k] = False
            if max(ours.scores[i], theirs.scores[k]) > COMPARED_SCORE:
                overlaps.append(overlap)
                differences.append(abs(float(ours.scores[i]) - float(theirs.scores[k])))
        unmatched += sum(int(some.sum()) for some in alone)
    return ParityReport(
        images=len(fitted),
        detections=detections,
        unmatched=unmatched,
        worst_iou=min(overlaps, default=None),
        worst_score_difference=max(differences, default=None),
    )


def _partners(ours: Detections, theirs: Detections) -> list[tuple[int, int, float]]:
    """Positions on both sides and their IoU, one to one."""
    overlaps = iou(ours.boxes, theirs.boxes)
    overlaps[(np.abs(ours.boxes[:, None] - theirs.boxes[None]) <= SAME_PX).all(axis=2)] = 1.0
    overlaps[ours.labels[:, None] != theirs.labels[None]] = 0.0
    found = []
    for i, row in enumerate(overlaps):  # best score first
        if len(row) and row.max() > PARTNER_IOU:
            k = int(row.argmax())
            found.append((i, k, float(row[k])))
            overlaps[:, k] = 0.0
    return found
