"""Everything that ``vqc evaluate`` measures of one detector on one split, as one record.

Called by ``vqc.cli.evaluate``; calls detection, COCO scores, inspection, calibration and the clock. All figures are
measured in float32, as exported.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from vqc.config import Record
from vqc.data.dataset import Data, Split, read_image
from vqc.data.loader import FittedImages, evaluation_batches
from vqc.epoch import Scores
from vqc.errors import DataError, ModelError
from vqc.evaluation.calibration_fit import CalibrationErrors, calibrated_scores, errors, samples_of
from vqc.evaluation.coco_metrics import AreaScores, coco_scores, coco_scores_by_area, detect
from vqc.evaluation.error_cases import Case, false_alarms, misses
from vqc.evaluation.image_metrics import (
    Froc,
    PerImage,
    Recall,
    TradeOff,
    confusion,
    froc,
    kinds,
    per_image,
    recall_by_class,
    recall_by_size,
    terciles_px2,
    trade_off,
)
from vqc.evaluation.intervals import FEWEST
from vqc.files import file_sha256
from vqc.hardware.precision import Precision
from vqc.inference.calibration import Calibration, load_calibration
from vqc.inference.detections import Detections
from vqc.inference.onnx_export import Latency, measure_latency, torch_detector
from vqc.models.build import move_detector
from vqc.models.checkpoint import ModelInfo, load_model
from vqc.reporting.html import percent

__all__ = [
    "DEFAULT_THRESHOLD",
    "Evaluated",
    "Evaluation",
    "check_categories",
    "detections_on",
    "evaluate",
    "exact_precision",
]

DEFAULT_THRESHOLD = 0.5
WORST_SHOWN = 8
LATENCY_IMAGES = 8
BATCH_SIZE = 8
PACKAGES = ("vqc-tune", "torch", "torchvision", "pycocotools", "numpy")


class Evaluation(Record):
    """The content of ``metrics/evaluation_results.json``; what cannot be told is null, with a reason or a note."""

    version: Literal[1] = 1
    model_file: str
    model_sha256: str
    detector: str = Field(description="architecture")
    image_size: tuple[int, int] = Field(description="height and width in pixels that images are fitted to")
    epoch: int = Field(description="of its training")
    data: dict[str, Any]
    split: str
    images: int
    device: str
    coco: Scores
    coco_by_area: dict[str, AreaScores]
    calibrated: bool = Field(description="whether the thresholds are on calibrated scores")
    thresholds: dict[str, float] = Field(description="category -> lowest score that rejects a part")
    threshold_source: str = Field(description="where the thresholds come from, in a sentence")
    per_image: PerImage
    trade_off: TradeOff
    froc: Froc
    confusion_names: tuple[str, ...] = Field(description="of rows and columns; the last is nothing")
    confusion: tuple[tuple[int, ...], ...] = Field(description="rows what is there, columns what was said")
    recall_by_class: tuple[Recall, ...]
    recall_by_size: tuple[Recall, ...] = Field(description="COCO's small, medium and large")
    recall_by_tercile: tuple[Recall, ...] = Field(description="thirds of the training defects by area; empty: too few")
    score_errors_raw: CalibrationErrors
    score_errors: CalibrationErrors = Field(description="of the scores as used: calibrated where they are")
    latency: Latency
    worst_misses: tuple[Case, ...]
    worst_false_alarms: tuple[Case, ...]
    notes: tuple[str, ...] = Field(description="what limits these figures, in sentences")
    versions: dict[str, str]
    created: str
    command: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluated:
    """The record, and what its pictures are drawn from."""

    record: Evaluation
    split: Split
    detections: tuple[Detections, ...]  # with the scores as used
    thresholds: Mapping[int, float]


def evaluate(
    model_path: Path,
    data: Data,
    *,
    split: str,
    threshold: float | None = None,
    command: str = "",
    on_step: Callable[[str], None] = lambda text: None,
) -> Evaluated:
    """Measure a detector on a split.

    Args:
        model_path: weights; their calibration is used where one lies beside them.
        threshold: lowest score that rejects, for all classes; None: the calibration's, else ``DEFAULT_THRESHOLD``.
        command: that was typed.
        on_step: is told in few words what happens next.

    Raises:
        ModelError: the weights or the calibration cannot be used, or know other categories.
        DataError: the split is not there or empty.
    """
    judged = data.split(split)
    if not judged.images:
        raise DataError(f"{data.root}: the split '{split}' has no images, expected some to evaluate on")
    model, info = load_model(model_path)
    check_categories(model_path, info, data)
    calibration = load_calibration(model_path)
    thresholds, source = _thresholds(info, calibration, threshold)
    precision = exact_precision()
    on_step(f"finding defects on {len(judged.images)} images of {split}")
    raw = detections_on(data, split, model=model, info=info, precision=precision)
    on_step("measuring latency")
    pictures = [read_image(record) for record in judged.images[:LATENCY_IMAGES]]
    latency = measure_latency(torch_detector(model, size=info.config.image_size, precision=precision), pictures)
    found = raw if calibration is None else [calibration.calibrated(one) for one in raw]
    parts = _part_figures(judged, found, thresholds, data.train)
    record = Evaluation(
        **_origin(model_path, info, data, judged, precision, command),
        **_box_figures(judged, raw, calibration),
        **parts,
        calibrated=calibration is not None,
        thresholds={name: thresholds[label] for label, (_, name) in enumerate(info.categories, start=1)},
        threshold_source=source,
        latency=latency,
        notes=(*_notes(info, data, judged, calibration), *_luck(parts["per_image"])),
    )
    return Evaluated(record=record, split=judged, detections=tuple(found), thresholds=thresholds)


def exact_precision() -> Precision:
    """Float32, on the GPU where there is one."""
    return Precision(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"), dtype=torch.float32)


def detections_on(
    data: Data, split: str, *, model: nn.Module, info: ModelInfo, precision: Precision
) -> list[Detections]:
    """What the detector finds on the images of a split, with raw scores; the model is moved to the device."""
    images = FittedImages(data, split, size=info.config.image_size, cache=None)
    batches = evaluation_batches(images, batch_size=BATCH_SIZE, threads=1)
    move_detector(model, precision.device)
    return detect(model, batches, images.split, size=info.config.image_size, precision=precision)


def check_categories(model_path: Path, info: ModelInfo, data: Data) -> None:
    """Raise ``ModelError`` unless the data has the categories that the detector was trained on."""
    there = tuple((category.id, category.name) for category in data.categories)
    if there != info.categories:
        names = [", ".join(f"{id_} '{name}'" for id_, name in some) for some in (info.categories, there)]
        raise ModelError(f"{model_path}: finds {names[0]}, but {data.root} has {names[1]}; expected the same")


def _thresholds(
    info: ModelInfo, calibration: Calibration | None, threshold: float | None
) -> tuple[dict[int, float], str]:
    """Label -> lowest score that rejects, and where that comes from."""
    labels = range(1, len(info.categories) + 1)
    scale = "calibrated" if calibration else "raw"
    if threshold is not None:
        return dict.fromkeys(labels, threshold), f"The threshold, {threshold:g} on the {scale} score, was given."
    if calibration is None:
        chosen = f"No operating threshold was chosen for this model; {DEFAULT_THRESHOLD:g} on the raw score is used."
        return dict.fromkeys(labels, DEFAULT_THRESHOLD), chosen
    point = calibration.operating_point
    goal = f"for at most {percent(point.max_escape)} escapes" + ("" if point.reached else ", which val did not reach")
    return calibration.thresholds, f"The threshold was chosen by the calibration on val {goal}."


def _origin(
    path: Path, info: ModelInfo, data: Data, split: Split, precision: Precision, command: str
) -> dict[str, Any]:
    cpu = f"CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
    return {
        "model_file": path.name,
        "model_sha256": file_sha256(path),
        "detector": info.config.model,
        "image_size": info.config.image_size,
        "epoch": info.epoch,
        "data": data.summary(),
        "split": split.name,
        "images": len(split.images),
        "device": torch.cuda.get_device_name(precision.device) if precision.device.type == "cuda" else cpu,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
    }


def _box_figures(split: Split, raw: Sequence[Detections], calibration: Calibration | None) -> dict[str, Any]:
    """COCO scores and score errors. Calibration keeps the order within a class, so it leaves the COCO scores alone."""
    samples = samples_of(split, raw)
    used = None if calibration is None else calibrated_scores(calibration.curves, samples)
    return {
        "coco": coco_scores(split, raw),
        "coco_by_area": coco_scores_by_area(split, raw),
        "score_errors_raw": errors(samples),
        "score_errors": errors(samples, used),
    }


def _part_figures(
    split: Split, found: Sequence[Detections], thresholds: Mapping[int, float], train: Split
) -> dict[str, Any]:
    terciles = terciles_px2(train)
    by_tercile = terciles and recall_by_size(split, found, thresholds=thresholds, edges_px2=terciles)
    table = confusion(split, found, thresholds=thresholds)
    return {
        "per_image": per_image(split, found, thresholds=thresholds),
        "trade_off": trade_off(split, found),
        "froc": froc(split, found),
        "confusion_names": (*(category.name for category in split.categories), "nothing"),
        "confusion": tuple(tuple(row) for row in table.tolist()),
        "recall_by_class": recall_by_class(split, found, thresholds=thresholds),
        "recall_by_size": recall_by_size(split, found, thresholds=thresholds),
        "recall_by_tercile": by_tercile or (),
        "worst_misses": misses(split, found, thresholds=thresholds, most=WORST_SHOWN),
        "worst_false_alarms": false_alarms(split, found, thresholds=thresholds, most=WORST_SHOWN),
    }


def _notes(info: ModelInfo, data: Data, split: Split, calibration: Calibration | None) -> Iterator[str]:
    """What limits these figures."""
    if data.fingerprint != info.fingerprint:
        yield "The detector was trained on other data than this: its figures there may differ."
    elif split.name == "train":
        yield "The detector was trained on these images: their figures say nothing of new parts."
    elif split.name == "val":
        yield "The val split chose the epoch, and the configuration where there was a search: its figures flatter."
    if calibration is not None and split.name == "val" and calibration.data_fingerprint == data.fingerprint:
        yield "The val split chose the calibration and the operating point, too."
    if calibration is not None and calibration.data_fingerprint != data.fingerprint:
        yield "The calibration was fitted on other data than this."
    defective, good = kinds(split)
    if not good.any():
        yield "There are no good images in this split, so overkill cannot be told."
    elif good.sum() < FEWEST:
        yield f"There are only {good.sum()} good images in this split, too few to state a rate of overkill."
    if not defective.any():
        yield "There are no defective images in this split, so the escape rate cannot be told."
    elif defective.sum() < FEWEST:
        yield f"There are only {defective.sum()} defective images in this split, too few to state an escape rate."


def _luck(verdicts: PerImage) -> Iterator[str]:
    """What an escape rate hides: parts rejected for something else than their defect."""
    if verdicts.beside:
        rejected = verdicts.escape.total - verdicts.escape.count
        yield f"Of {rejected} rejected defective parts {verdicts.beside} had no detection on a defect: luck, not skill."
