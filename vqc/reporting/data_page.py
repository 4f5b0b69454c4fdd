"""The page of ``vqc check``: what is wrong, with photographs side by side, suspected label errors, sizes, examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vqc.boxes import areas_px2
from vqc.data.dataset import Data, ImageRecord, read_image
from vqc.data.defect_size import DefectSizes
from vqc.data.findings import Finding, Severity, grouped
from vqc.data.image_io import decode_picture, picture_bytes
from vqc.data.validation import TWICE, close_pairs
from vqc.errors import DataError
from vqc.evaluation.label_errors import LabelErrors, Suspect
from vqc.reporting.draw import FOUND_RGB, TRUTH_RGB, Frames, cut_out, fitted
from vqc.reporting.html import picture_uri, render

T = TypeVar("T")

TEMPLATE = Path(__file__).parent / "templates" / "data.html.j2"
MOST_FINDINGS = 20  # of one kind
MOST_PAIRS = 40  # of one finding
EXAMPLES = 6  # of each class
CONTEXT = 3.0  # side of an example as a multiple of the box's longer side
FEWEST_PX = 64  # side of the smallest example
MOST_SUSPECTS = 60
SUSPECT_CONTEXT, SUSPECT_PX = 5.0, 96  # as the two above
OTHERS_RGB = (120, 150, 155)  # frames of boxes that are not suspected
TOUCHING_PX = 1.0  # between two boxes, at most
WHOLE = 0.9  # of the photograph's area
# What boxes can be -> heading, and what it may mean.
ODD = {
    "twice": ("Two boxes at one place", "A defect has one box and one class: delete one of each pair."),
    "touching": (
        "Boxes of one class that touch or overlap",
        "Two defects, or one in two pieces? It matters for AP, not for escape and overkill: decide it once.",
    ),
    "whole": (
        "Boxes of the whole photograph",
        "They say that there is a defect and not where: a detector learns nothing from them.",
    ),
}
QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, kw_only=True)
class Oddity:
    """Boxes that may be right and are worth a look: how many, and a few of them as ``data:`` URIs with file names."""

    title: str
    note: str
    count: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class: its boxes in each split, quantiles of their shorter side in px, and examples as ``data:`` URIs."""

    name: str
    boxes: tuple[int, ...]
    sides_px: tuple[float, ...]
    examples: tuple[str, ...]


def data_page(
    root: Path,
    data: Data | None,
    findings: Sequence[Finding],
    sizes: Sequence[DefectSizes],
    label_errors: LabelErrors | None = None,
) -> str:
    """The data set as an HTML document without outside references.

    Args:
        data: None where there are errors.
        sizes: of the defects, in the photographs and at each detector's input; empty where there are errors.
        label_errors: None where none were looked for.
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
        oddities=[] if data is None else _oddities(data),
        quantiles=QUANTILES,
        defect_sizes=sizes,
        label_errors=label_errors,
        suspects=[] if data is None or label_errors is None else _suspects(data, label_errors),
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
        found.append([(name, picture_uri(fitted(one))) for name, one in zip(names, pixels, strict=True)])
    return found


def _suspects(data: Data, label_errors: LabelErrors) -> list[tuple[Suspect, str]]:
    """The clearest suspects, each with its place on the photograph."""
    images = {(split.name, image.image_id): image for split in data.splits for image in split.images}
    shown = label_errors.suspects[:MOST_SUSPECTS]
    return [(one, picture_uri(_suspect(images[one.split, one.image_id], one))) for one in shown]


def _suspect(image: ImageRecord, one: Suspect) -> NDArray[np.uint8]:
    """The part of a photograph [h, w, 3] RGB with the suspected box, the detection, and the other boxes thinly."""
    boxes = [np.array([box] if box else [], np.float32).reshape(-1, 4) for box in (one.annotated_box, one.detected_box)]
    both = np.concatenate(boxes)
    around = (*both[:, :2].min(axis=0).tolist(), *both[:, 2:].max(axis=0).tolist())
    frames = (
        Frames(boxes=image.boxes, rgb=OTHERS_RGB, width_px=1),
        Frames(boxes=boxes[0], rgb=TRUTH_RGB),
        Frames(boxes=boxes[1], rgb=FOUND_RGB),
    )
    return cut_out(read_image(image), around, frames, context=SUSPECT_CONTEXT, fewest_px=SUSPECT_PX)


def _sizes(data: Data) -> list[tuple[str, int]]:
    """Width and height of photographs, and how many have them: the most frequent first."""
    sizes = [f"{image.width} x {image.height} px" for split in data.splits for image in split.images]
    names, counts = np.unique(np.array(sizes), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:10]
    return [(str(names[at]), int(counts[at])) for at in order]


def _oddities(data: Data) -> list[Oddity]:
    """Of each kind that occurs, how often and a few examples."""
    places: dict[str, list[tuple[ImageRecord, list[int]]]] = {kind: [] for kind in ODD}
    for image in (image for split in data.splits for image in split.images):
        boxes, objects = image.boxes, np.flatnonzero(~image.crowd)
        for one, other in close_pairs(boxes[objects], overlap=TWICE):
            places["twice"].append((image, [int(objects[one]), int(objects[other])]))
        for label in np.unique(image.labels[objects]):
            own = objects[image.labels[objects] == label]
            close = set(close_pairs(boxes[own], margin_px=TOUCHING_PX / 2)) - set(
                close_pairs(boxes[own], overlap=TWICE)
            )
            places["touching"] += [(image, [int(own[one]), int(own[other])]) for one, other in sorted(close)]
        large = areas_px2(boxes) >= WHOLE * image.width * image.height
        places["whole"] += [(image, [int(at)]) for at in objects if large[at]]
    return [
        Oddity(
            title=title,
            note=note,
            count=len(places[kind]),
            examples=tuple(_placed(*one) for one in _spread(places[kind])),
        )
        for kind, (title, note) in ODD.items()
        if places[kind]
    ]


def _placed(image: ImageRecord, at: list[int]) -> tuple[str, str]:
    """A file's name, and the part of its photograph with these boxes."""
    boxes = image.boxes[at]
    around = (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist())
    colours = (TRUTH_RGB, FOUND_RGB)
    frames = [Frames(boxes=boxes[k : k + 1], rgb=colours[k]) for k in range(len(at))]
    return image.path.name, picture_uri(
        cut_out(read_image(image), around, frames, context=CONTEXT, fewest_px=FEWEST_PX)
    )


def _spread(some: Sequence[T]) -> list[T]:
    """At most ``EXAMPLES`` of them, from the first to the last."""
    places = np.unique(np.linspace(0, len(some) - 1, min(EXAMPLES, len(some))).astype(int)) if some else ()
    return [some[int(at)] for at in places]


def _class_row(data: Data, label: int) -> ClassRow:
    name = data.categories[label - 1].name
    boxes = [
        (image, box)
        for split in data.splits
        for image in split.images
        for box in image.boxes[(image.labels == label) & ~image.crowd]
    ]
    sides = [float(min(box[2] - box[0], box[3] - box[1])) for _, box in boxes]
    by_size = [boxes[at] for at in np.argsort(sides)]
    return ClassRow(
        name=name,
        boxes=tuple(split.boxes_per_category[name] for split in data.splits),
        sides_px=tuple(np.quantile(sides, QUANTILES).tolist()) if sides else (),
        examples=tuple(picture_uri(_example(*one)) for one in _spread(by_size)),
    )


def _example(image: ImageRecord, box: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The part of a photograph around a box, [h, w, 3] RGB, with its frame."""
    x0, y0, x1, y1 = box.tolist()
    frames = [Frames(boxes=box[None], rgb=TRUTH_RGB)]
    return cut_out(read_image(image), (x0, y0, x1, y1), frames, context=CONTEXT, fewest_px=FEWEST_PX)
