"""Detections of a split, xyxy pixels of the image as annotated, and their COCO scores: pycocotools' own."""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from vqc.boxes import Boxes, areas_px2, xyxy_to_xywh
from vqc.config import Record
from vqc.data.dataset import Split
from vqc.data.loader import Batch, FittedImages
from vqc.epoch import Scores
from vqc.hardware.memory import MicroBatch
from vqc.hardware.precision import Precision
from vqc.inference.detections import Detections
from vqc.inference.merging import merge_views
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
    """What pycocotools matched for one class on ``N`` images: ``D`` detections in falling order of their scores."""

    image: NDArray[np.int64]  # [D], position of the detection's image in the split
    found: NDArray[np.bool_]  # [T, D], whether it found an object, at each IoU 0.50:0.05:0.95
    ignored: NDArray[np.bool_]  # [T, D], whether it counts neither as right nor as wrong: it lies in a crowd region
    objects: NDArray[np.int64]  # [N], of the class on each image, crowd regions not counted


def detect(
    model: nn.Module,
    batches: Iterable[Batch],
    images: FittedImages,
    *,
    precision: Precision,
    micro: MicroBatch | None = None,
) -> list[Detections]:
    """Detections on the photographs of the batches, in their order; the model is left in the mode it was in.

    Args:
        images: that the batches are of.
        micro: how many images at once, shrunk where memory runs out; None begins with whole batches.

    Raises:
        InfeasibleError: one image alone does not fit into memory.
    """
    return on_photographs(images, detect_views(model, batches, precision=precision, micro=micro))


def detect_views(
    model: nn.Module, batches: Iterable[Batch], *, precision: Precision, micro: MicroBatch | None = None
) -> list[tuple[int, Detections]]:
    """As ``detect``, on each view by its position, in pixels of the fitted view."""
    was_training = model.training
    model.eval()
    micro = micro or MicroBatch(size=sys.maxsize)
    found: list[tuple[int, Detections]] = []
    try:
        for batch in batches:
            attempt = partial(_detected, model, batch, precision)
            fitted = micro.fitted(attempt, images=len(batch.indices), what="detection")
            found += zip(batch.indices, fitted, strict=True)
    finally:
        model.train(was_training)
    return found


def _detected(model: nn.Module, batch: Batch, precision: Precision, part_size: int) -> list[Detections]:
    return [one for part in batch.parts(part_size) for one in detect_batch(model, part.images, precision)]


def on_photographs(images: FittedImages, found: Iterable[tuple[int, Detections]]) -> list[Detections]:
    """Detections on fitted views, each with the view's position and in order, merged for each photograph."""
    merged = []
    for at, group in itertools.groupby(found, key=lambda pair: images.views[pair[0]][0]):
        record, views = images.split.images[at], [(images.views[index][1], one) for index, one in group]
        merged.append(merge_views(views, image_id=record.image_id, width=record.width, height=record.height))
    return merged


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
            objects[position] = len(row["gtIgnore"]) - np.count_nonzero(row["gtIgnore"])
        none = np.zeros((len(evaluation.params.iouThrs), 0))
        found, ignored = (np.hstack([none, *(row[name] for _, row in known)]) > 0 for name in ("dtMatches", "dtIgnore"))
        order = np.argsort([-score for _, row in known for score in row["dtScores"]], kind="stable")
        image = np.array([position for position, row in known for _ in row["dtScores"]], np.int64)
        per_class.append(
            ClassMatches(image=image[order], found=found[:, order], ignored=ignored[:, order], objects=objects)
        )
    return tuple(per_class)


def _evaluated(split: Split, detections: Sequence[Detections], *, areas: int) -> Any:
    """pycocotools' evaluation at 100 detections per image; of its ranges of areas, all and three parts, the first."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    there = [
        _entries(r.image_id, r.boxes, category_id=r.labels, area=r.areas, iscrowd=r.crowd.astype(int))
        for r in split.images
    ]
    said = [
        _entries(one.image_id, one.boxes, category_id=one.labels, score=one.scores, area=areas_px2(one.boxes),
                 iscrowd=np.zeros(len(one), int))
        for one in detections
    ]  # fmt: skip
    images = [{"id": r.image_id, "width": r.width, "height": r.height} for r in split.images]
    categories = [{"id": k, "name": c.name} for k, c in enumerate(split.categories, start=1)]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports each of its phases
        documents = COCO(), COCO()
        for document, entries in zip(documents, (there, said), strict=True):
            rows = [{"id": number, **entry} for number, entry in enumerate(chain.from_iterable(entries), start=1)]
            document.dataset = {"images": images, "categories": categories, "annotations": rows}
            document.createIndex()
        evaluation = COCOeval(*documents, "bbox")
        # Its 12 figures take each range and each of three limits by itself; most of its time goes into the ranges.
        evaluation.params.maxDets = evaluation.params.maxDets[-1:]
        evaluation.params.areaRng = evaluation.params.areaRng[:areas]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:areas]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _entries(image_id: int, boxes: Boxes, **columns: NDArray[Any]) -> Iterator[dict[str, Any]]:
    """Entries of a COCO file for the xyxy boxes of one image."""
    columns["bbox"] = xyxy_to_xywh(boxes.astype(np.float64))
    for values in zip(*(column.tolist() for column in columns.values()), strict=True):
        yield {"image_id": image_id, **dict(zip(columns, values, strict=True))}


def _mean(values: NDArray[np.float64]) -> float | None:
    """Mean over what could be scored; pycocotools marks the rest with -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None
