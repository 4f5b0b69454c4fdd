"""Exports as annotation tools write them, of a few small pictures, and what must come out of all of them.

Each writer follows what a program wrote: Roboflow's layout by supervision 0.31.2, CVAT's by datumaro 1.13.12, Label
Studio's by its SDK 2.0.19.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import images

Boxes = Mapping[str, list[tuple[str, tuple[float, ...]]]]  # file name -> category and xyxy, of its boxes

# Pictures of 64 x 48 px: two with defects, one good.
TRUTH: Boxes = {
    "rgb-1.png": [("scratch", (8, 6, 28, 16))],
    "rgb-2.png": [("scratch", (30, 20, 54.5, 36)), ("dent", (0, 0, 64, 48))],
    "rgb-3.png": [],
}
SPLITS = ("train", "valid", "test")


def pictures(folder: Path, *, seed: int = 0) -> list[str]:
    """Write the pictures of ``TRUTH``; another seed gives others of the same names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TRUTH:
        images.save_picture(folder, seed=seed + int(name[4])).rename(folder / name)
    return list(TRUTH)


def boxes_of(annotations: Path) -> Boxes:
    """What a file of this project's layout says, as ``TRUTH`` does."""
    document = json.loads(annotations.read_text(encoding="utf-8"))
    names = {entry["id"]: entry["name"] for entry in document["categories"]}
    found: dict[int, list[Any]] = {entry["id"]: [] for entry in document["images"]}
    for entry in document["annotations"]:
        x, y, width, height = entry["bbox"]
        found[entry["image_id"]].append((names[entry["category_id"]], (x, y, x + width, y + height)))
    return {entry["file_name"]: found[entry["id"]] for entry in document["images"]}


def coco(file: Path, *, prefix: str = "", categories: list[Any] | None = None, **extra: Any) -> dict[str, Any]:
    """A COCO file of the pictures of ``TRUTH``; a category's id is its place."""
    categories = categories or [{"id": 0, "name": "scratch"}, {"id": 1, "name": "dent"}]
    ids = {entry["name"]: entry["id"] for entry in categories}
    entries, annotations = [], []
    for number, (name, boxes) in enumerate(TRUTH.items()):
        entries.append(images.image(number, prefix + name))
        for category, (left, top, right, bottom) in boxes:
            bbox = (left, top, right - left, bottom - top)
            annotations.append(images.annotation(len(annotations), number, bbox, category_id=ids[category]))
    document = {"images": entries, "annotations": annotations, "categories": categories, **extra}
    images.write_json(file, document)
    return document


def roboflow(root: Path) -> Path:
    """``train/``, ``valid/`` and ``test/``, a category 0 that groups the others."""
    categories = [{"id": 0, "name": "parts", "supercategory": "none"}]
    categories += [
        {"id": id_, "name": n, "supercategory": "parts"} for id_, n in enumerate(("scratch", "dent"), start=1)
    ]
    for number, split in enumerate(SPLITS):
        pictures(root / split, seed=100 * number)
        coco(root / split / "_annotations.coco.json", categories=categories, info={"year": "2026"}, licenses=[])
    (root / "README.roboflow.txt").write_text("parts - v1", encoding="utf-8")
    return root


def cvat(root: Path) -> Path:
    """One folder, without ``licenses``."""
    pictures(root / "images" / "default")
    coco(root / "annotations" / "instances_default.json", info={"contributor": ""})
    return root


def label_studio(root: Path) -> Path:
    """One folder, file names with the server's path."""
    pictures(root / "images")
    coco(root / "result.json", prefix="..\\..\\label-studio\\data\\media\\upload\\1\\", info={"version": "1.0"})
    return root
