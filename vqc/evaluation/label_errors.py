"""Annotations that a detector disagrees with: suspected label errors, those first that are most likely ones.

Where the detector is usually right, a disagreement is seldom its own error. So the *suspicion* of a disagreement is how
often the detector agrees with the annotations where it is equally sure: of detections with such a score the share that
lie on a box, of boxes that it tells apart so clearly the share that it gives the annotated class, of the boxes of a
class the share that it finds. With ``e`` the share of wrong annotations, of disagreements with
suspicion ``s`` about ``e / (1 - s)`` are label errors: an order that needs no weights between the kinds.

The detector should not have been trained on what it judges: it has learnt the errors there too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vqc.boxes import iou, share_inside
from vqc.config import Record
from vqc.data.dataset import Data, ImageRecord, Split
from vqc.evaluation.coco_metrics import coco_scores
from vqc.evaluation.evaluate import check_categories, detections_on
from vqc.evaluation.matching import paired
from vqc.inference.detections import Detections
from vqc.inference.model_file import open_predictor

NONE = -1
ON = 0.5  # overlap from which a detection is on a box
BESIDE = 0.1  # overlap below which a detection has nothing to do with a box
LEAST_SUSPICION = 0.5  # below it the detector is wrong more often than the annotations

Kind = Literal["no box", "not found", "other class", "other place"]
Xyxy = tuple[float, float, float, float]
Floats = NDArray[np.float64]
Judged: TypeAlias = tuple[Split, Sequence[Detections]]


class Suspect(Record):
    """One disagreement; boxes are xyxy in pixels of the image as annotated."""

    kind: Kind
    suspicion: float = Field(ge=0, le=1, description="how often the detector agrees where it is equally sure")
    split: str
    image_id: int
    file_name: str
    annotated: str | None = Field(description="category of the box; null: there is none")
    annotated_box: Xyxy | None
    detected: str | None = Field(description="category of the detection; null: there is none")
    detected_box: Xyxy | None
    score: float | None = Field(description="raw, of the detection")

    @property
    def sentence(self) -> str:
        """What is suspected, for people."""
        score = "" if self.score is None else f"{self.score:.2f}"
        return {
            "no box": f"a {self.detected} is detected (score {score}), and there is no box",
            "not found": f"annotated as {self.annotated}, and not detected",
            "other class": f"annotated as {self.annotated}, detected as {self.detected} (score {score})",
            "other place": f"annotated as {self.annotated}, detected beside it (as {self.detected}, score {score})",
        }[self.kind]


class LabelErrors(Record):
    """The content of the JSON file beside the page."""

    version: Literal[1] = 1
    data: dict[str, Any]
    judge: str = Field(description="which detector, and what it has seen, in sentences")
    ap50: dict[str, float | None] = Field(description="split -> its AP50 against the annotations as they are")
    boxes: int = Field(description="in all splits, crowd regions not counted")
    suspects: tuple[Suspect, ...] = Field(description="the most suspicious first")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    """One image: its ``n`` boxes, crowds left out, and the best of the detections at each place, ``m`` in all.

    Attributes:
        on: [n], position of the best detection on each box; ``NONE`` without one.
        evidence: [n], its score; 0 without one.
        margin: [n], by how much it exceeds that of the next class on the box.
        beside: [m], the box that each detection overlaps most, if that is enough to be about it; else ``NONE``.
        located: [m], whether it is on that box.
    """

    split: Split
    record: ImageRecord
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    found: Detections
    on: NDArray[np.int64]
    evidence: Floats
    margin: Floats
    beside: NDArray[np.int64]
    located: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Agreement:
    """How often detector and annotations agree, as shares: ``on_box`` of a score, ``right_class`` of a margin, and
    ``found`` of the boxes of each label.
    """

    on_box: Callable[[Floats], Floats]
    right_class: Callable[[Floats], Floats]
    found: Mapping[int, float]


def errors_by_model(path: Path, data: Data, *, on_step: Callable[[str], None] = lambda text: None) -> LabelErrors:
    """What a detector's file says of all splits; each is judged by itself, because the detector has seen some of them.

    Raises:
        ModelError: the file cannot be used, or knows other categories.
    """
    predictor = open_predictor(path)
    check_categories(path, predictor, data)
    judged: list[Judged] = []
    for split in data.splits:
        on_step(f"finding defects on {len(split.images):,} images of {split.name}")
        judged.append((split, detections_on(predictor, data, split.name)))
    height, width = predictor.image_size
    judge = f"{path.name}: {predictor.architecture}, {height} x {width} px, epoch {predictor.epoch}. " + (
        "It was trained on the train split: it has learnt some of the errors there, and shows fewer of them. "
        "The val split chose its epoch. It has not seen the test split."
        if predictor.fingerprint == data.fingerprint
        else "It was trained on other data, or on earlier annotations: what it has seen of these is not known."
    )
    return label_errors(data, judged, judge=judge, suspects=[one for pair in judged for one in suspects_in([pair])])


def label_errors(data: Data, judged: Sequence[Judged], *, judge: str, suspects: Sequence[Suspect]) -> LabelErrors:
    """The record of these disagreements; ``judge`` says whose they are."""
    return LabelErrors(
        data=data.summary(),
        judge=judge,
        ap50={split.name: coco_scores(split, found).ap50 for split, found in judged},
        boxes=sum(split.boxes for split in data.splits),
        suspects=tuple(sorted(suspects, key=lambda one: (-one.suspicion, -(one.score or 0.0)))),
    )


def suspects_in(judged: Sequence[Judged]) -> list[Suspect]:
    """The disagreements on images that were judged alike, such as all by detectors that had not seen them.

    Args:
        judged: splits with the detections on their images, with raw scores.
    """
    images = [_seen(split, *pair) for split, detections in judged for pair in paired(split, detections)]
    agreement = _agreement(images)
    return [suspect for one in images for suspect in _disagreements(one, agreement)]


def _seen(split: Split, record: ImageRecord, found: Detections) -> _Seen:
    boxes, labels = record.boxes[~record.crowd], record.labels[~record.crowd]
    in_crowd = np.asarray((share_inside(found.boxes, record.boxes[record.crowd]) >= ON).any(axis=1))
    found = found[~in_crowd].best_first()
    overlap = iou(found.boxes, boxes)
    scores = np.where(overlap >= ON, found.scores[:, None], 0.0)  # of each detection on each box
    on, evidence = _best(scores)
    others = np.where(found.labels[:, None] == np.append(found.labels, 0)[on], 0.0, scores)
    best = _best_of_each_place(found)
    best[on[on != NONE]] = True
    found, overlap = found[best], overlap[best]
    about = (overlap >= BESIDE) | (share_inside(found.boxes, boxes) >= ON) | (share_inside(boxes, found.boxes).T >= ON)
    beside, _ = _best(np.where(about, overlap + BESIDE, 0.0).T)
    return _Seen(
        split=split,
        record=record,
        boxes=boxes,
        labels=labels,
        found=found,
        on=np.append(np.cumsum(best) - 1, NONE)[on],
        evidence=evidence,
        margin=evidence - _best(others)[1],
        beside=beside,
        located=np.asarray((overlap >= ON).any(axis=1)),
    )


def _best(scores: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Of each column the row with the highest score, ``NONE`` where all are 0, and that score."""
    padded = np.vstack([scores, np.zeros((1, scores.shape[1]))])
    row, score = padded.argmax(axis=0), padded.max(axis=0)
    return np.where(score > 0, row, NONE).astype(np.int64), score


def _best_of_each_place(found: Detections) -> NDArray[np.bool_]:
    """Which detections, best first, overlap no better one of any class by ``ON``."""
    overlap = iou(found.boxes, found.boxes) >= ON
    kept = np.ones(len(found), bool)
    for k in range(len(found)):
        kept[k] = not (overlap[k, :k] & kept[:k]).any()
    return kept


def _agreement(images: Sequence[_Seen]) -> _Agreement:
    """What can be said of all images together; detections that say again what a better one said do not count."""
    scores, located, margins, right = [], [], [], []
    evidence: dict[int, list[float]] = {}
    for one in images:
        repeats = ~one.located & (one.beside != NONE) & (np.append(one.on, NONE)[one.beside] != NONE)
        scores.append(one.found.scores[~repeats])
        located.append(one.located[~repeats])
        seen = one.on != NONE
        margins.append(one.margin[seen])
        right.append(one.found.labels[one.on[seen]] == one.labels[seen])
        for label, score in zip(one.labels.tolist(), one.evidence.tolist(), strict=True):
            evidence.setdefault(label, []).append(score)
    on_box = _rising_share(scores, located)
    return _Agreement(
        on_box=on_box,
        right_class=_rising_share(margins, right),
        found={label: float((on_box(np.array(some)) >= LEAST_SUSPICION).mean()) for label, some in evidence.items()},
    )


def _rising_share(values: Sequence[NDArray[Any]], right: Sequence[NDArray[Any]]) -> Callable[[Floats], Floats]:
    """The share that is right, as a function of a value with which it does not fall: isotonic regression."""
    from scipy.optimize import isotonic_regression

    x, of_x = np.unique(np.concatenate([[0.0], *values]), return_inverse=True)
    count = np.bincount(of_x)
    mean = np.bincount(of_x, weights=np.concatenate([[0.0], *right])) / count
    share = isotonic_regression(mean, weights=count).x
    return lambda wanted: np.interp(wanted, x, share)


def _disagreements(one: _Seen, agreement: _Agreement) -> Iterator[Suspect]:
    sure = agreement.on_box(one.found.scores.astype(np.float64))
    found = agreement.on_box(one.evidence) >= LEAST_SUSPICION
    right = agreement.right_class(one.margin)
    for box in np.flatnonzero(found):
        if one.found.labels[one.on[box]] != one.labels[box] and right[box] >= LEAST_SUSPICION:
            yield _suspect(one, "other class", right[box], box=box, detection=one.on[box])
    for box in np.flatnonzero(~found):
        suspicion = agreement.found[int(one.labels[box])] * (1 - one.evidence[box])  # a faint one speaks for the box
        near = np.flatnonzero((one.beside == box) & ~one.located & (sure >= LEAST_SUSPICION))
        if len(near):
            yield _suspect(one, "other place", max(suspicion, sure[near[0]]), box=box, detection=near[0])
        elif suspicion >= LEAST_SUSPICION:
            yield _suspect(one, "not found", suspicion, box=box)
    for detection in np.flatnonzero((one.beside == NONE) & (sure >= LEAST_SUSPICION)):
        yield _suspect(one, "no box", sure[detection], detection=detection)


def _suspect(
    one: _Seen, kind: Kind, suspicion: float, *, box: np.int64 | None = None, detection: np.int64 | None = None
) -> Suspect:
    names = [category.name for category in one.split.categories]
    return Suspect(
        kind=kind,
        suspicion=float(suspicion),
        split=one.split.name,
        image_id=one.record.image_id,
        file_name=one.record.path.name,
        annotated=None if box is None else names[one.labels[box] - 1],
        annotated_box=None if box is None else tuple(one.boxes[box].tolist()),
        detected=None if detection is None else names[one.found.labels[detection] - 1],
        detected_box=None if detection is None else tuple(one.found.boxes[detection].tolist()),
        score=None if detection is None else float(one.found.scores[detection]),
    )
