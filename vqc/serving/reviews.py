"""What operators say of inspections: which they are asked about, and their answers as training data.

The answers are COCO: a good part is an image without annotations, and the categories are the model's. Each image also
says where it comes from: ``inspection_id``, ``reviewed_at``, ``group``, ``sha256``, ``bytes``, and ``coco_url``.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vqc.errors import DataError
from vqc.files import link_or_copy, new_folder, write_json
from vqc.inference.model_file import open_predictor
from vqc.seeding import stream_seed
from vqc.serving.history import DATABASE, PHOTOGRAPHS, SUFFIXES
from vqc.serving.inspection import Inspection, RequestedReview
from vqc.serving.model_slot import MODEL, STATE, State

NO_BOX = "defective, but no box was drawn: it cannot say where"
NOT_READ = "the photograph could not be read"
OTHER_MODEL = "a box of a category that the model does not have"

Categories = Sequence[tuple[int, str]]


def requested_review(
    id_: str, *, score: float, threshold: float, readable: bool, odds: float, share: float, seed: int
) -> RequestedReview | None:
    """Whether a person is asked to look too: at all that is unsure, and at a share of the rest, by chance.

    The random share is what says how good the detector is on the line: what is unsure is harder than the rest.

    Args:
        odds: a score whose odds, s / (1 - s), are the threshold's or up to so many times more or less is unsure, and
            so is what could not be read. A distance would make nearly every score unsure where the threshold is low.
        share: of the others, 0..1.
        seed: of the chance; the same id gives the same answer.
    """
    above, below = score * (1 - threshold), threshold * (1 - score)
    if not readable or (above <= odds * below and below <= odds * above):
        return "unsure"
    return "random" if stream_seed(seed, f"review:{id_}") < share * 2**32 else None


def coco_document(inspections: Iterable[Inspection], categories: Categories) -> dict[str, Any]:
    """The reviewed inspections as a COCO file; what cannot be training data is counted in ``info``."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    known = {id_ for id_, _ in categories}
    for inspection in inspections:
        if inspection.review is None:
            continue
        if (why := _unusable(inspection, known)) is not None:
            left_out[why] += 1
            continue
        images.append(_image(inspection, len(images) + 1))
        for box in inspection.review.boxes:
            left, top, width, height = box.bbox
            annotations.append({
                "id": len(annotations) + 1, "image_id": len(images), "category_id": box.category_id,
                "bbox": [left, top, width, height], "area": width * height, "iscrowd": 0,
            })  # fmt: skip
    return {
        "info": {"description": "Reviews of vqc serve", "left_out": dict(left_out)},
        "categories": [{"id": id_, "name": name} for id_, name in categories],
        "images": images,
        "annotations": annotations,
    }


def _unusable(inspection: Inspection, known: set[int]) -> str | None:
    review = inspection.review
    if inspection.verdict == "unreadable" or review is None:
        return NOT_READ
    if review.verdict == "defective" and not review.boxes:
        return NO_BOX
    return None if {box.category_id for box in review.boxes} <= known else OTHER_MODEL


def _image(inspection: Inspection, number: int) -> dict[str, Any]:
    image, review = inspection.image, inspection.review
    return {
        "id": number,
        "file_name": f"{inspection.id}{SUFFIXES[image.media_type]}",
        "width": image.width,
        "height": image.height,
        "coco_url": image.url,
        "group": f"reviewed-{image.sha256[:16]}",  # the same bytes are the same part; what looks alike is found later
        "sha256": image.sha256,
        "bytes": image.bytes,
        "inspection_id": inspection.id,
        "inspection_verdict": inspection.verdict,
        "model": inspection.model.version,
        "reviewed_at": review.reviewed_at.isoformat() if review else None,
    }


def write_reviews(store: Path, folder: Path) -> dict[str, Any]:
    """Write the reviews of a server's folder as ``folder/{images/,annotations.json}``; the server may be running.

    Photographs are hard links or copies.

    Returns:
        The COCO document.

    Raises:
        DataError: no history there, or it cannot be read, or its model is gone.
    """
    if not (store / DATABASE).is_file():
        expected = "expected the --store of vqc serve, or a folder that vqc import fetched from it"
        raise DataError(f"{store}: holds no history, {expected}")
    document = coco_document(_reviewed(store), _categories(store))
    names = {one["file_name"] for one in document["images"]}
    found = {path.name: path for path in (store / PHOTOGRAPHS).rglob("*") if path.name in names}
    with new_folder(folder) as draft:
        (draft / "images").mkdir()
        for name, path in found.items():
            link_or_copy(path, draft / "images" / name)
        kept = [one for one in document["images"] if one["file_name"] in found]
        ids = {one["id"] for one in kept}
        document = {**document, "images": kept,
                    "annotations": [one for one in document["annotations"] if one["image_id"] in ids]}  # fmt: skip
        write_json(draft / "annotations.json", document)
    return document


def _reviewed(store: Path) -> Iterator[Inspection]:
    file = store / DATABASE
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as database:
            rows = database.execute("SELECT record FROM inspections WHERE reviewed = 1 ORDER BY id")
            yield from (Inspection.model_validate_json(record) for (record,) in rows)
    except (sqlite3.Error, ValidationError) as error:
        raise DataError(f"{file}: cannot be read: {str(error).splitlines()[0]}") from None


def _categories(store: Path) -> Categories:
    try:
        state = State.model_validate_json((store / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{store / STATE}: does not say which model was served: {error}") from None
    return open_predictor(Path(state.bundle) / MODEL).categories
