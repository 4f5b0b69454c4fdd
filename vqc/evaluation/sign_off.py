"""The detections behind a sign-off: enough to compute each of its figures again, without this project.

``detections.json`` holds the truth and what was found on every image of the test split::

    {"split": "test", "thresholds": {"3": 0.41},            category id -> lowest score that rejects a part
     "categories": [{"id": 3, "name": "scratch"}],
     "images": [{"id": 1, "file_name": "a.jpg", "part": "a.jpg", "width": 640, "height": 480,
                 "annotations": [{"category_id", "bbox", "area", "iscrowd"}],
                 "detections": [{"category_id", "bbox", "raw_score", "score"}]}]}

Boxes are xywh in pixels of the image as annotated. ``score`` is calibrated, and what the thresholds are for;
``raw_score`` is what AP is computed from.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vqc.boxes import xyxy_to_xywh
from vqc.data.dataset import ImageRecord
from vqc.evaluation.evaluate import Evaluated
from vqc.evaluation.parts import with_parts
from vqc.inference.calibration import Calibration, apply_curves
from vqc.inference.detections import Detections


def detections_content(evaluated: Evaluated, calibration: Calibration) -> dict[str, Any]:
    """The content of ``detections.json``; see the module's docstring."""
    ids = [id_ for id_, _ in calibration.categories]
    # As float32, in which scores are compared with them.
    thresholds = {str(ids[label - 1]): float(np.float32(lowest)) for label, lowest in evaluated.thresholds.items()}
    return {
        "split": evaluated.split.name,
        "thresholds": thresholds,
        "categories": [{"id": id_, "name": name} for id_, name in calibration.categories],
        "images": [
            _image(record, found, calibration, ids) for _, record, found in with_parts(evaluated.split, evaluated.raw)
        ],
    }


def _image(record: ImageRecord, found: Detections, calibration: Calibration, ids: list[int]) -> dict[str, Any]:
    scores = apply_curves(calibration.curves, found.scores, found.labels)
    return {
        "id": record.image_id,
        "file_name": record.path.name,
        "part": record.group,
        "width": record.width,
        "height": record.height,
        "annotations": [
            {"category_id": ids[label - 1], "bbox": box, "area": area, "iscrowd": int(crowd)}
            for box, label, area, crowd in zip(
                _xywh(record.boxes), record.labels, record.areas.astype(float).tolist(), record.crowd, strict=True
            )
        ],
        "detections": [
            {"category_id": ids[label - 1], "bbox": box, "raw_score": float(raw), "score": float(score)}
            for box, label, raw, score in zip(_xywh(found.boxes), found.labels, found.scores, scores, strict=True)
        ],
    }


def _xywh(boxes: np.ndarray[Any, np.dtype[np.float32]]) -> list[list[float]]:
    return xyxy_to_xywh(boxes.astype(np.float64)).tolist()  # type: ignore[no-any-return]
