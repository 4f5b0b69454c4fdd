"""The page of ``vqc check``: what is wrong, with photographs side by side, then sizes and examples of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vqc.data.dataset import Data, ImageRecord, read_image
from vqc.data.defect_size import DefectSizes
from vqc.data.findings import Finding, Severity, grouped
from vqc.data.image_io import decode_picture, picture_bytes
from vqc.errors import DataError
from vqc.reporting.html import picture_uri, render

TEMPLATE = Path(__file__).parent / "templates" / "data.html.j2"
PICTURE_PX = 360
MOST_FINDINGS = 20  # of one kind
MOST_PAIRS = 40  # of one finding
EXAMPLES = 6  # of each class
CONTEXT = 3.0  # side of an example as a multiple of the box's longer side
FEWEST_PX = 64  # side of the smallest example
FRAME_RGB = (46, 204, 190)
QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class: its boxes in each split, quantiles of their shorter side in px, and examples as ``data:`` URIs."""

    name: str
    boxes: tuple[int, ...]
    sides_px: tuple[float, ...]
    examples: tuple[str, ...]


def data_page(root: Path, data: Data | None, findings: Sequence[Finding], sizes: Sequence[DefectSizes]) -> str:
    """The data set as an HTML document without outside references; ``data`` is None where there are errors.

    Args:
        sizes: of the defects, in the photographs and at each detector's input; empty where there are errors.
    """
    severities: tuple[Severity, ...] = ("error", "warning")
    kinds = [
        (one, kind, [(finding, _pairs(root, finding)) for finding in group[:MOST_FINDINGS]], len(group))
        for one in severities
        for kind, group in grouped(findings, one).items()
    ]
    return render(
        TEMPLATE,
        name=root.resolve().name,
        data=data,
        kinds=kinds,
        classes=[] if data is None else [_class_row(data, label) for label in range(1, len(data.categories) + 1)],
        sizes=[] if data is None else _sizes(data),
        quantiles=QUANTILES,
        defect_sizes=sizes,
    )


def _pairs(root: Path, finding: Finding) -> list[list[tuple[str, str]]]:
    """For each pair of photographs its two names and pictures; without those that cannot be read any more."""
    found = []
    for pair in finding.pictures[:MOST_PAIRS]:
        try:
            pixels = [decode_picture(picture_bytes(path), rotate=True) for path in pair]
        except DataError:
            continue
        names = [path.relative_to(root).as_posix() for path in pair]
        found.append([(name, picture_uri(_fitted(one))) for name, one in zip(names, pixels, strict=True)])
    return found


def _sizes(data: Data) -> list[tuple[str, int]]:
    """Width and height of photographs, and how many have them: the most frequent first."""
    sizes = [f"{image.width} x {image.height} px" for split in data.splits for image in split.images]
    names, counts = np.unique(np.array(sizes), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:10]
    return [(str(names[at]), int(counts[at])) for at in order]


def _class_row(data: Data, label: int) -> ClassRow:
    name = data.categories[label - 1].name
    boxes = [
        (image, box)
        for split in data.splits
        for image in split.images
        for box in image.boxes[(image.labels == label) & ~image.crowd]
    ]
    sides = [float(min(box[2] - box[0], box[3] - box[1])) for _, box in boxes]
    spread = np.unique(np.linspace(0, len(boxes) - 1, min(EXAMPLES, len(boxes))).astype(int)) if boxes else ()
    by_size = np.argsort(sides)
    return ClassRow(
        name=name,
        boxes=tuple(split.boxes_per_category[name] for split in data.splits),
        sides_px=tuple(np.quantile(sides, QUANTILES).tolist()) if sides else (),
        examples=tuple(picture_uri(_example(*boxes[by_size[at]])) for at in spread),
    )


def _example(image: ImageRecord, box: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The part of a photograph around a box, [h, w, 3] RGB, with its frame."""
    import cv2

    x0, y0, x1, y1 = box.tolist()
    half = max(FEWEST_PX, CONTEXT * max(x1 - x0, y1 - y0)) / 2
    left, top = max(0, round((x0 + x1) / 2 - half)), max(0, round((y0 + y1) / 2 - half))
    cut = read_image(image)[top : round((y0 + y1) / 2 + half), left : round((x0 + x1) / 2 + half)]
    fitted = np.ascontiguousarray(_fitted(cut))
    scale = fitted.shape[1] / cut.shape[1]
    corners = ((box - np.array([left, top] * 2)) * scale).round().astype(int).tolist()
    cv2.rectangle(fitted, corners[:2], corners[2:], FRAME_RGB, 2)
    return fitted


def _fitted(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture [h, w, 3] whose longer side is ``PICTURE_PX``."""
    import cv2

    scale = PICTURE_PX / max(pixels.shape[:2])
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(pixels), size, interpolation=way), np.uint8)
