"""Small factories for tests: pictures of every kind, and folders of annotated ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CATEGORIES = ({"id": 3, "name": "scratch"}, {"id": 7, "name": "dent"})
SIZE = (64, 48)  # width and height of every picture, in pixels
ORIENTATION = 0x0112


def rgb(seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Smooth pixels ``[height, width, 3]`` that differ from seed to seed, in every corner and channel."""
    rng = np.random.default_rng(seed)
    corners = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    return np.asarray(corners.resize(size, Image.Resampling.BILINEAR))


def _save_grey16(pixels: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257).save(path)


def _save_as(mode: str) -> Callable[[NDArray[np.uint8], Path], None]:
    return lambda pixels, path: Image.fromarray(pixels).convert(mode).save(path)


# kind -> suffix and writer
KINDS: Mapping[str, tuple[str, Callable[[NDArray[np.uint8], Path], None]]] = {
    "rgb": (".png", _save_as("RGB")),
    "jpeg": (".jpg", _save_as("RGB")),
    "grey": (".png", _save_as("L")),
    "grey16": (".png", _save_grey16),
    "grey16-tiff": (".tif", _save_grey16),
    "rgba": (".png", _save_as("RGBA")),
    "grey-alpha": (".png", _save_as("LA")),
    "palette": (".png", _save_as("P")),
    "bilevel": (".png", _save_as("1")),
    "cmyk": (".jpg", _save_as("CMYK")),
    "bmp": (".bmp", _save_as("RGB")),
    "webp": (".webp", _save_as("RGB")),
}


def save_picture(folder: Path, kind: str = "rgb", *, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """Write one picture of a kind and return its path."""
    suffix, write = KINDS[kind]
    path = folder / f"{kind}-{seed}{suffix}"
    write(rgb(seed, size), path)
    return path


def save_rotated(path: Path, orientation: int, *, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """Write a PNG of ``size`` as stored, with an EXIF orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(rgb(seed, size)).save(path, exif=exif)
    return path


def image(id_: int, file_name: str, size: tuple[int, int] = SIZE, **extra: Any) -> dict[str, Any]:
    """An entry of a COCO file's ``images``."""
    return {"id": id_, "file_name": file_name, "width": size[0], "height": size[1], **extra}


def annotation(id_: int, image_id: int, bbox: Sequence[float] = (8, 6, 20, 10), **extra: Any) -> dict[str, Any]:
    """An entry of a COCO file's ``annotations``; a scratch unless told."""
    return {"id": id_, "image_id": image_id, "category_id": 3, "bbox": list(bbox), "iscrowd": 0, **extra}


def document(images: Sequence[Any] = (), annotations: Sequence[Any] = (), **extra: Any) -> dict[str, Any]:
    """A COCO file."""
    return {"categories": list(CATEGORIES), "images": list(images), "annotations": list(annotations), **extra}


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_split(folder: Path, *, count: int, first_seed: int, size: tuple[int, int] = SIZE) -> Path:
    """A split of ``count`` pictures of its own; every third is good, the others have a scratch and a dent."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for id_ in range(1, count + 1):
        path = save_picture(folder / "images", seed=first_seed + id_, size=size)
        images.append(image(id_, path.name, size))
        if id_ % 3:
            annotations.append(annotation(len(annotations) + 1, id_))
            annotations.append(annotation(len(annotations) + 1, id_, (30, 20, 24.5, 16), category_id=7, area=200))
    write_json(folder / "annotations.json", document(images, annotations))
    return folder


def write_data(root: Path, *, train: int = 6, val: int = 3, test: int = 3, size: tuple[int, int] = SIZE) -> Path:
    """A small, faultless data set."""
    for number, (name, count) in enumerate({"train": train, "val": val, "test": test}.items()):
        write_split(root / name, count=count, first_seed=1000 * number, size=size)
    return root


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Read a JSON file, let ``change`` alter it in place, and write it back."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    write_json(path, content)
