"""Detections of a split and their COCO scores.

Used by training after each epoch, by the promotion and by ``vqc evaluate``. Boxes are xyxy pixels of the image
as annotated, float32; scoring is pycocotools' own.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from vqc.boxes import xyxy_to_xywh
from vqc.config import Record
from vqc.data.dataset import ImageRecord, Split
from vqc.data.loader import Batch
from vqc.epoch import Scores
from vqc.hardware.memory import MicroBatch
from vqc.hardware.precision import Precision
from vqc.inference.detections import Detections
from vqc.inference.torch_backend import detect_batch

IOU_50, IOU_75 = 0.5, 0.75


class AreaScores(Record):
    """COCO box scores in 0..1 of the objects whose area lies in one range; None where there is none of them."""

    low_px2: float = Field(description="areas from this")
    high_px2: float | None = Field(description="areas below this; None: no upper end")
    ap: float | None = Field(description="mean over IoU 0.50:0.05:0.95, 100 detections per image")
    ar: float | None = Field(description="average recall over IoU 0.50:0.05:0.95, 100 detections per image")


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassMatches:
    """What pycocotools matched for one class on ``N`` images: ``D`` detections in falling order of their scores.

    Attributes:
        image: int64 [D], position of the detection's image in the split.
        found: bool [T, D], whether it found an object, at each IoU 0.50:0.05:0.95.
        ignored: bool [T, D], whether it counts neither as right nor as wrong: it lies in a crowd region.
        objects: int64 [N], objects of the class on each image, crowd regions not counted.
    """

    image: NDArray[np.int64]
    found: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    objects: NDArray[np.int64]


def detect(
    model: nn.Module,
    batches: Iterable[Batch],
    split: Split,
    *,
    size: tuple[int, int],
    precision: Precision,
    micro: MicroBatch | None = None,
) -> list[Detections]:
    """Detections on the images of the batches, in their order; the model is left in the mode it was in.

    Args:
        size: height and width that the batches were fitted to.
        micro: how many images at once, shrunk where memory runs out; None begins with whole batches.

    Raises:
        InfeasibleError: one image alone does not fit into memory.
    """
    was_training = model.training
    model.eval()
    micro = micro or MicroBatch(size=sys.maxsize)
    found: list[Detections] = []
    try:
        for batch in batches:
            attempt = partial(_detected, model, batch, split, size, precision)
            found += micro.fitted(attempt, images=len(batch.indices), what="detection")
    finally:
        model.train(was_training)
    return found


def _detected(
    model: nn.Module, batch: Batch, split: Split, size: tuple[int, int], precision: Precision, part_size: int
) -> list[Detections]:
    found = []
    for part in batch.parts(part_size):
        fitted = detect_batch(model, part.images, precision)
        for record, one in zip((split.images[index] for index in part.indices), fitted, strict=True):
            found.append(one.in_image(record.image_id, width=record.width, height=record.height, size=size))
    return found


def coco_scores(split: Split, detections: Sequence[Detections]) -> Scores:
    """pycocotools' figures for the detections against the split; images without a detection count as empty.

    IoU thresholds are looked up by value. A category without ground truth has no AP and is left out of the means.
    """
    evaluation = _evaluated(split, detections, areas=1)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class]; all areas, 100 per image
    recall = evaluation.eval["recall"][:, :, 0, -1]  # [IoU, class]
    thresholds = evaluation.params.iouThrs
    return Scores(
        ap=_mean(precision),
        ap50=_mean(precision[np.isclose(thresholds, IOU_50)]),
        ap75=_mean(precision[np.isclose(thresholds, IOU_75)]),
        ar=_mean(recall),
        class_ap={c.name: _mean(precision[:, :, k]) for k, c in enumerate(split.categories)},
    )


def coco_scores_by_area(split: Split, detections: Sequence[Detections]) -> dict[str, AreaScores]:
    """pycocotools' figures for small, medium and large objects (COCO's ranges: 32 and 96 px squared)."""
    evaluation = _evaluated(split, detections, areas=4)
    names, ranges = evaluation.params.areaRngLbl, evaluation.params.areaRng
    return {
        name: AreaScores(
            low_px2=low,
            high_px2=None if name == "large" else high,
            ap=_mean(evaluation.eval["precision"][:, :, :, k, -1]),
            ar=_mean(evaluation.eval["recall"][:, :, k, -1]),
        )
        for k, (name, (low, high)) in enumerate(zip(names, ranges, strict=True))
        if name != "all"
    }


def coco_matches(split: Split, detections: Sequence[Detections]) -> tuple[ClassMatches, ...]:
    """The matches of each class, in label order, from which AP can be computed for any resample of the images."""
    evaluation = _evaluated(split, detections, areas=1)
    ids = np.array([record.image_id for record in split.images])
    positions, per_class = np.argsort(ids), []  # pycocotools sorts images by id
    for k in range(len(split.categories)):
        rows = evaluation.evalImgs[k * len(ids) : (k + 1) * len(ids)]
        known = [(position, row) for position, row in zip(positions, rows, strict=True) if row is not None]
        objects = np.zeros(len(ids), np.int64)
        for position, row in known:
            objects[position] = int((1 - np.asarray(row["gtIgnore"])).sum())
        none = np.zeros((len(evaluation.params.iouThrs), 0))
        score = np.concatenate([np.zeros(0), *(row["dtScores"] for _, row in known)])
        order = np.argsort(-score, kind="stable")
        per_class.append(
            ClassMatches(
                image=np.repeat([p for p, _ in known], [len(row["dtScores"]) for _, row in known])[order].astype(int),
                found=np.concatenate([none, *(row["dtMatches"] for _, row in known)], axis=1)[:, order] > 0,
                ignored=np.concatenate([none, *(row["dtIgnore"] for _, row in known)], axis=1)[:, order] > 0,
                objects=objects,
            )
        )
    return tuple(per_class)


def _evaluated(split: Split, detections: Sequence[Detections], *, areas: int) -> Any:
    """pycocotools' evaluation at 100 detections per image; of its ranges of areas, all and three parts, the first."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports each of its phases
        truth, found = COCO(), COCO()
        images = [{"id": r.image_id, "width": r.width, "height": r.height} for r in split.images]
        categories = [{"id": k, "name": c.name} for k, c in enumerate(split.categories, start=1)]
        truth.dataset = {"images": images, "categories": categories, "annotations": _annotations(split.images)}
        found.dataset = {"images": images, "categories": categories, "annotations": _results(detections)}
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        # Its 12 figures take each range and each of three limits by itself; most of its time goes into the ranges.
        evaluation.params.maxDets = evaluation.params.maxDets[-1:]
        evaluation.params.areaRng = evaluation.params.areaRng[:areas]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:areas]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _annotations(images: Sequence[ImageRecord]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for record in images:
        boxes = xyxy_to_xywh(record.boxes.astype(np.float64)).tolist()
        for box, label, area, crowd in zip(boxes, record.labels, record.areas, record.crowd, strict=True):
            rows.append(
                _row(len(rows) + 1, record.image_id, box, int(label)) | {"area": float(area), "iscrowd": int(crowd)}
            )
    return rows


def _results(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for one in detections:
        boxes = xyxy_to_xywh(one.boxes.astype(np.float64)).tolist()
        for box, score, label in zip(boxes, one.scores.tolist(), one.labels, strict=True):
            row = _row(len(rows) + 1, one.image_id, box, int(label))
            rows.append(row | {"area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0, "score": score})
    return rows


def _row(number: int, image_id: int, box: Sequence[float], label: int) -> dict[str, Any]:
    """One entry of a COCO file; ``box`` is xywh."""
    return {"id": number, "image_id": image_id, "category_id": label, "bbox": box}


def _mean(values: NDArray[np.float64]) -> float | None:
    """Mean over what could be scored; pycocotools marks the rest with -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None
