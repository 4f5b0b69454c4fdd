"""Exports as annotation tools write them, of a few small pictures, and what must come out of all of them.

Each writer follows what a program wrote: Roboflow's layouts by supervision 0.31.2, those of CVAT, darknet, Ultralytics
and Pascal VOC by datumaro 1.13.12, LabelMe's by globox 2.9.0, Label Studio's by its SDK 2.0.19.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
    """One folder, file names with the server's path, and no size where there is no box."""
    pictures(root / "images")
    coco(root / "result.json", prefix="/data/upload/1/", info={"version": "1.0"})
    images.edit_json(root / "result.json", lambda d: d["images"][2].update(width=None, height=None))
    return root


def _shares(xyxy: tuple[float, ...]) -> str:
    left, top, right, bottom = (side / full for side, full in zip(xyxy, images.SIZE * 2, strict=True))
    return f"{(left + right) / 2:.6f} {(top + bottom) / 2:.6f} {right - left:.6f} {bottom - top:.6f}"


def labels(folder: Path) -> None:
    """YOLO's label file of each picture; the good one's is empty."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, boxes in TRUTH.items():
        lines = [f"{('scratch', 'dent').index(category)} {_shares(xyxy)}\n" for category, xyxy in boxes]
        (folder / name).with_suffix(".txt").write_text("".join(lines), encoding="utf-8")


def roboflow_yolo(root: Path) -> Path:
    """``train/images``, ``train/labels`` and so on; the description's paths are those of another folder."""
    for number, split in enumerate(SPLITS):
        pictures(root / split / "images", seed=100 * number)
        labels(root / split / "labels")
    description = (
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['scratch', 'dent']\n"
    )
    (root / "data.yaml").write_text(description, encoding="utf-8")
    return root


def ultralytics(root: Path) -> Path:
    """``images/`` and ``labels/`` with folders whose names only the description explains."""
    for number, folder in enumerate("abc"):
        pictures(root / "images" / folder, seed=100 * number)
        labels(root / "labels" / folder)
    description = f"path: {root}\ntrain: images/a\nval: [images/b]\ntest: ./images/c\nnames:\n  0: scratch\n  1: dent\n"
    (root / "parts.yaml").write_text(description, encoding="utf-8")
    return root


def darknet(root: Path) -> Path:
    """Label files beside the pictures, in folders with a list each, as CVAT and datumaro write them."""
    for number, split in enumerate(("train", "valid", "test")):
        folder = root / f"obj_{split}_data"
        names = pictures(folder, seed=100 * number)
        labels(folder)
        (root / f"{split}.txt").write_text("\n".join(f"data/{folder.name}/{n}" for n in names), encoding="utf-8")
    (root / "obj.names").write_text("scratch\ndent\n", encoding="utf-8")
    (root / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n", encoding="utf-8")
    return root


def label_studio_yolo(root: Path) -> Path:
    """One folder, with a list of the classes."""
    pictures(root / "images")
    labels(root / "labels")
    (root / "classes.txt").write_text("scratch\ndent", encoding="utf-8")
    images.write_json(root / "notes.json", {"categories": [{"id": 0, "name": "scratch"}], "info": {"version": "1.0"}})
    return root


def voc_file(file: Path, name: str, objects: str) -> None:
    """Pascal VOC's file of one picture."""
    width, height = images.SIZE
    file.parent.mkdir(parents=True, exist_ok=True)
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    text = f"<annotation><folder>any</folder><filename>{name}</filename>{size}{objects}</annotation>"
    file.write_text(text, encoding="utf-8")


def voc_object(category: str, xyxy: tuple[float, ...], more: str = "") -> str:
    left, top, right, bottom = xyxy
    sides = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    return f"<object><name>{category}</name>{more}<bndbox>{sides}</bndbox></object>"


def voc(root: Path) -> Path:
    """One folder of pictures, one of files, and the splits as lists of names."""
    for number, split in enumerate(("train", "val", "test")):
        names = []
        for name in pictures(root / "JPEGImages", seed=100 * number):
            picture = root / "JPEGImages" / name
            names.append(f"{split}_{picture.stem}")
            picture.rename(picture.with_name(f"{names[-1]}.png"))
            objects = "".join(voc_object(*box) for box in TRUTH[name])
            voc_file(root / f"Annotations/{names[-1]}.xml", f"{names[-1]}.png", objects)
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(names), encoding="utf-8")
    images.save_picture(root / "JPEGImages", seed=7).rename(_made(root / "SegmentationClass") / "train_rgb-1.png")
    return root


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def labelme_file(file: Path, name: str, shapes: list[Any]) -> None:
    """LabelMe's file of one picture."""
    width, height = images.SIZE
    document = {"version": "5.2.0", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None}
    images.write_json(file, {**document, "imageHeight": height, "imageWidth": width})


def labelme(root: Path) -> Path:
    """A file beside each picture, annotated on Windows."""
    for name in pictures(root):
        shapes = [
            {"label": category, "points": [[right, bottom], [left, top]], "shape_type": "rectangle", "flags": {}}
            for category, (left, top, right, bottom) in TRUTH[name]
        ]
        labelme_file((root / name).with_suffix(".json"), f"..\\photos\\{name}", shapes)
    return root


def cvat_xml(root: Path) -> Path:
    """One file for all images, each of a subset."""
    found = []
    for number, subset in enumerate(("Train", "Validation", "Test")):
        for id_, name in enumerate(pictures(root / "images" / subset, seed=100 * number)):
            boxes = "".join(
                f'<box label="{category}" xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}" z_order="0"></box>'
                for category, (left, top, right, bottom) in TRUTH[name]
            )
            found.append(f'<image id="{id_}" name="{name}" subset="{subset}" width="64" height="48">{boxes}</image>')
    named = "".join(f"<label><name>{name}</name></label>" for name in ("scratch", "dent"))
    meta = f"<version>1.1</version><meta><job><labels>{named}</labels></job></meta>"
    text = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{meta}{"".join(found)}</annotations>'
    (root / "annotations.xml").write_text(text, encoding="utf-8")
    return root


# How a tool's export is written, of one folder and with splits.
PLAIN: Mapping[str, Callable[[Path], Path]] = {
    "coco of CVAT": cvat,
    "coco of Label Studio": label_studio,
    "labelme": labelme,
    "yolo of Label Studio": label_studio_yolo,
}
SPLIT: Mapping[str, Callable[[Path], Path]] = {
    "coco of Roboflow": roboflow,
    "cvat": cvat_xml,
    "voc": voc,
    "yolo of darknet": darknet,
    "yolo of Roboflow": roboflow_yolo,
    "yolo of Ultralytics": ultralytics,
}
