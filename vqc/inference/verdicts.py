"""Whether a part passes, and the same in the terms of COCO and of a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

from vqc.boxes import xyxy_to_xywh
from vqc.inference.detections import Detections
from vqc.inference.photographs import Photograph
from vqc.inference.predictor import Predictor

DECIMALS = 6  # of a score or a corner in JSON: finer than float32 tells them apart


@dataclass(frozen=True)
class Verdict:
    """Whether one part passes: no detection reaches its class's operating threshold."""

    image_id: int
    file_name: str
    verdict: Literal["pass", "fail", "unreadable"]
    worst_score: float | None = None  # of the detection with the highest score, whatever it is
    worst_category: str | None = None  # of the same
    defects: int | None = None  # detections that reach the threshold; None where the picture could not be read
    reason: str | None = None  # why it could not


def judge(
    photograph: Photograph, found: Detections, predictor: Predictor, *, thresholds: Mapping[int, float]
) -> Verdict:
    """The verdict on one part from its detections, best first; ``thresholds`` as of ``Detections.reaching``."""
    defects = len(found.reaching(thresholds))
    return Verdict(
        photograph.image_id,
        photograph.file_name,
        "fail" if defects else "pass",
        worst_score=round(float(found.scores[0]), DECIMALS) if len(found) else None,
        worst_category=predictor.category(int(found.labels[0]))[1] if len(found) else None,
        defects=defects,
    )


def coco_results(found: Detections, predictor: Predictor) -> list[dict[str, Any]]:
    """Rows of a COCO results file: ``image_id``, ``category_id`` as in training, ``bbox`` xywh in pixels, ``score``."""
    boxes = xyxy_to_xywh(found.boxes.astype(np.float64)).round(DECIMALS).tolist()
    scores = found.scores.astype(np.float64).round(DECIMALS).tolist()
    return [
        {"image_id": found.image_id, "category_id": predictor.category(int(label))[0], "bbox": box, "score": score}
        for box, score, label in zip(boxes, scores, found.labels, strict=True)
    ]


def verdicts_csv(verdicts: Sequence[Verdict]) -> str:
    """One line a photograph, for a spreadsheet; what is not known is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Verdict)])
    writer.writerows([_no_formula(value) for value in asdict(verdict).values()] for verdict in verdicts)
    return text.getvalue()


def _no_formula(value: object) -> object:
    """A file's name that begins like a formula must not be run by a spreadsheet."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
