"""A trained detector on a folder of photographs: what it finds, and whether each part passes.

Called by ``vqc predict`` and ``vqc explain``. A file of weights runs with torch, an exported one with onnxruntime, both
in float32, so that they give the same answer. A photograph that cannot be read is a finding and never a part that
passed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vqc.data.annotations import ImageEntry, read_annotations
from vqc.data.findings import Report
from vqc.data.image_io import decode_picture, picture_bytes, probe_picture
from vqc.errors import DataError, ModelError
from vqc.inference.calibration import Calibration, load_calibration
from vqc.inference.detections import Detections
from vqc.inference.onnx_export import Detector, onnx_detector, torch_detector

__all__ = ["OpenedDetector", "Photograph", "Verdict", "coco_results", "find_photographs", "judge", "open_detector",
           "predict", "read_photograph", "verdicts_csv"]  # fmt: skip

SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
DECIMALS = 6  # of a score or a corner in JSON: finer than float32 tells them apart

Category = tuple[int, str]  # id and name in the training annotations


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedDetector:
    """A detector's file, ready to run.

    Attributes:
        detect: picture [h, w, 3] RGB -> what is on it, in its pixels, best first; its scores are calibrated where a
            calibration lies beside the file, else raw.
        calibration: that one, or None.
        categories: in the order of the labels 1..C.
        runtime: "torch" or "onnxruntime".
    """

    path: Path
    detect: Detector
    calibration: Calibration | None
    categories: tuple[Category, ...]
    runtime: Literal["torch", "onnxruntime"]

    def category(self, label: int) -> Category:
        """Id and name of a label in 1..C."""
        return self.categories[label - 1]


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """One picture to look at.

    Attributes:
        image_id: of the COCO file, or its position in the sorted folder, from 1.
        file_name: relative to the folder, with forward slashes.
        annotated_size: width and height in pixels that a COCO file gives it; None without one.
    """

    image_id: int
    path: Path
    file_name: str
    annotated_size: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether one part passes: no detection reaches its class's operating threshold.

    Attributes:
        worst_score, worst_category: of the detection that scores highest, at any score; None where there is none.
        defects: detections at or above the threshold; None where the picture could not be read.
        reason: why it could not.
    """

    image_id: int
    file_name: str
    verdict: Literal["pass", "fail", "unreadable"]
    worst_score: float | None = None
    worst_category: str | None = None
    defects: int | None = None
    reason: str | None = None


def open_detector(path: Path, *, threads: int | None = None) -> OpenedDetector:
    """The detector in a file of weights or an exported one.

    Args:
        threads: of onnxruntime; None: as many as there are cores.

    Raises:
        ModelError: the file or its calibration is missing, damaged, or of another kind.
    """
    detect: Detector
    if path.suffix == ".onnx":
        exported = onnx_detector(path, threads=threads)
        detect, categories = exported, exported.categories
    elif path.suffix == ".safetensors":
        detect, categories = _torch(path)
    else:
        raise ModelError(f"{path}: expected a model.safetensors or a model.onnx, got '{path.suffix or path.name}'")
    calibration = load_calibration(path)
    return OpenedDetector(
        path=path,
        detect=detect if calibration is None else _calibrated(detect, calibration),
        calibration=calibration,
        categories=categories,
        runtime="onnxruntime" if path.suffix == ".onnx" else "torch",
    )


def _torch(path: Path) -> tuple[Detector, tuple[Category, ...]]:
    import torch

    from vqc.hardware.precision import Precision
    from vqc.models.checkpoint import load_model

    model, info = load_model(path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    exact = Precision(device=device, dtype=torch.float32)
    return torch_detector(model, size=info.config.image_size, precision=exact), info.categories


def _calibrated(detect: Detector, calibration: Calibration) -> Detector:
    return lambda image: calibration.calibrated(detect(image))


def find_photographs(images: Path, *, annotations: Path | None = None) -> list[Photograph]:
    """The pictures to look at, in the order of their names, or of the COCO file's images where one is given.

    Args:
        images: one picture or a folder, with all below it.
        annotations: a COCO file whose images lie in that folder; their ids are taken from it.

    Raises:
        DataError: nothing there to look at, or the COCO file cannot be used.
    """
    if annotations is not None:
        return [
            Photograph(
                image_id=entry.image_id,
                path=images / entry.file_name,
                file_name=entry.file_name,
                annotated_size=(entry.width, entry.height),
            )
            for entry in _entries(annotations)
        ]
    if images.is_file():
        return [Photograph(image_id=1, path=images, file_name=images.name)]
    if not images.is_dir():
        raise DataError(f"{images}: no such file or folder, expected a photograph or a folder of photographs")
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"{images}: no photograph in it, expected files ending in {', '.join(sorted(SUFFIXES))}")
    return [
        Photograph(image_id=number, path=path, file_name=path.relative_to(images).as_posix())
        for number, path in enumerate(paths, start=1)
    ]


def _entries(annotations: Path) -> tuple[ImageEntry, ...]:
    report = Report()
    found = read_annotations(annotations, name=str(annotations), report=report)
    if found is None or not found.images:
        said = report.errors[0].message if report.errors else "it lists no images"
        raise DataError(f"{annotations}: {said}")
    return found.images


def read_photograph(photograph: Photograph) -> NDArray[np.uint8]:
    """Pixels [h, w, 3], RGB, uint8: upright, or as the COCO file sees them.

    Raises:
        DataError: missing, broken, or of another size than annotated; names no file.
    """
    data = picture_bytes(photograph.path)
    if photograph.annotated_size is None:
        return decode_picture(data, rotate=True)
    picture = probe_picture(data)
    upright = photograph.annotated_size == picture.upright_size
    if not upright and photograph.annotated_size != (picture.width, picture.height):
        (wide, high), (width, height) = photograph.annotated_size, picture.upright_size
        raise DataError(f"annotated as {wide} x {high} px, the picture has {width} x {height}")
    return decode_picture(data, rotate=upright)


def predict(
    detector: OpenedDetector, photographs: Iterable[Photograph]
) -> Iterator[tuple[Photograph, NDArray[np.uint8], Detections] | tuple[Photograph, None, str]]:
    """Each photograph with its pixels and what was found on it, or with ``None`` and why it could not be read."""
    for photograph in photographs:
        try:
            pixels = read_photograph(photograph)
        except DataError as error:
            yield photograph, None, error.what
            continue
        found = detector.detect(pixels)
        yield (
            photograph,
            pixels,
            Detections(image_id=photograph.image_id, boxes=found.boxes, scores=found.scores, labels=found.labels),
        )


def judge(
    photograph: Photograph, found: Detections, detector: OpenedDetector, *, thresholds: Mapping[int, float]
) -> Verdict:
    """The verdict on one part.

    Args:
        found: best first.
        thresholds: label in 1..C -> lowest score that rejects the part.
    """
    defects = len(found.reaching(thresholds))
    worst = None if len(found.scores) == 0 else detector.category(int(found.labels[0]))[1]
    return Verdict(
        image_id=photograph.image_id,
        file_name=photograph.file_name,
        verdict="fail" if defects else "pass",
        worst_score=None if worst is None else round(float(found.scores[0]), DECIMALS),
        worst_category=worst,
        defects=defects,
    )


def coco_results(found: Detections, detector: OpenedDetector) -> list[dict[str, Any]]:
    """Rows of a COCO results file: ``image_id``, ``category_id`` as in training, ``bbox`` xywh in pixels, ``score``."""
    rows = []
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        x0, y0, x1, y1 = (float(value) for value in box)
        rows.append(
            {
                "image_id": found.image_id,
                "category_id": detector.category(int(label))[0],
                "bbox": [round(value, DECIMALS) for value in (x0, y0, x1 - x0, y1 - y0)],
                "score": round(float(score), DECIMALS),
            }
        )
    return rows


def verdicts_csv(verdicts: Sequence[Verdict]) -> str:
    """One line a photograph, for a spreadsheet; what cannot be told is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(Verdict.__dataclass_fields__)
    writer.writerow(names)
    for verdict in verdicts:
        values = (getattr(verdict, name) for name in names)
        writer.writerow(["" if value is None else _plain(value) for value in values])
    return text.getvalue()


def _plain(value: object) -> object:
    """A file's name that begins as a formula does is not to be run by a spreadsheet."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
