"""The generated data set: photographs of metal with scratches, dents and stains; good parts too.

Defects are 6 to 40 px large and of little contrast, on metal that is brushed or cast. Every part may also have drilled
holes, drops and fibres, which look like defects and are none.

Written by ``vqc sample``, and by training and the search where no data is given. Everything is drawn from the seed: the
same versions of numpy, OpenCV and Pillow write the same bytes.

The large set has photographs of 3,000 x 2,000 px with the same marks of at most 24 px: what tiles are for.

A *canvas* is float32 [h, w] of grey levels, 0 black to 255 white; an *alpha* has the same shape and says, 0 to 1, how
visible a mark is at each pixel. A mark is drawn on a canvas of SIDE_PX.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqc.errors import DataError
from vqc.files import new_folder

CATEGORIES = ("scratch", "dent", "stain")
SAMPLE_IMAGES: Mapping[str, int] = {"train": 26, "val": 18, "test": 48}
LARGE_IMAGES: Mapping[str, int] = {"train": 72, "val": 16, "test": 32}
SAMPLE_VERSION = 4  # to be raised when the same seed writes other bytes
SIDE_PX = 224
JPEG_QUALITY = 92
GOOD_EVERY = 3  # one part in three is good, one in two of the large ones
LARGE_PX = (2000, 3000)  # height and width
SIZES_PX = (6, 40)  # sides of the boxes
LARGE_SIZES_PX = (6, 24)
MOST_LARGE_MARKS = (6, 12)  # defects on a large photograph, and marks that are none
MIDDLES_PX = (22, SIDE_PX - 22)  # of marks
MARGIN_PX = 4  # between two marks
VISIBLE = 0.25  # a pixel belongs to a mark's box where its alpha is above this

Canvas = NDArray[np.float32]
Defect = tuple[str, NDArray[np.int64]]  # its category, and its left top and right bottom corner [2, 2]


@dataclass(frozen=True)
class _Mark:
    """A defect, or what looks like one: its alpha, the grey levels that it adds, and their weights in R, G and B."""

    category: str  # none where it is no defect
    alpha: Canvas
    shade: Canvas
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @cached_property
    def corners(self) -> NDArray[np.int64]:
        """The visible part's left top and right bottom corner [2, 2] in pixels."""
        places = np.argwhere(self.alpha > VISIBLE)[:, ::-1]
        return np.array([places.min(axis=0), places.max(axis=0) + 1])


def write_sample(folder: Path, *, seed: int = 0, images: Mapping[str, int] | None = None, large: bool = False) -> Path:
    """Write ``folder/{train,val,test}/{images/,annotations.json}``, or keep it where it is already complete.

    The folder appears only when it is complete. It is not fsynced: after a power cut ``vqc check`` may find it damaged.

    Args:
        images: split -> number of images; None: as many as usual.
        large: photographs of ``LARGE_PX``, half of them good.

    Raises:
        DataError: the folder holds something else, or cannot be written.
    """
    images = images or (LARGE_IMAGES if large else SAMPLE_IMAGES)
    if seed < 0 or any(count < 1 for count in images.values()):
        raise DataError(f"expected a seed of at least 0 and at least 1 image a split, got {seed} and {dict(images)}")
    origin = {
        "about": "Generated, not photographed: metal parts with scratches, dents and stains, made by 'vqc sample'.",
        "generator": "vqc.data.synthetic",
        "version": SAMPLE_VERSION,
        "seed": seed,
        "images": dict(images),
        **({"large": True} if large else {}),
    }
    if _is_whole(folder, origin):
        return folder
    try:
        with new_folder(folder) as draft:
            for number, (split, count) in enumerate(images.items()):
                _write_split(draft / split, seed=seed, number=number, count=count, large=large)
            _write_text(draft / "README.txt", f"{origin['about']}\nseed {seed}, version {SAMPLE_VERSION}\n")
            _write_text(draft / "provenance.json", json.dumps(origin, indent=2) + "\n")
    except (DataError, OSError) as error:
        if _is_whole(folder, origin):  # another process wrote it meanwhile
            return folder
        if isinstance(error, OSError):
            raise DataError(f"{folder}: the sample cannot be written: {error.strerror or error}") from None
        problem = "holds something else than this sample, expected a new or empty folder"
        raise DataError(f"{folder}: {problem}", command=f"vqc sample --out new-folder --seed {seed}") from None
    return folder


def _is_whole(folder: Path, origin: dict[str, Any]) -> bool:
    try:
        return bool(json.loads((folder / "provenance.json").read_text(encoding="utf-8")) == origin)
    except (OSError, ValueError):
        return False


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _write_split(folder: Path, *, seed: int, number: int, count: int, large: bool) -> None:
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        # A stream for each image: its pixels do not depend on how many there are.
        rng = np.random.default_rng([seed, number, index])
        every = 2 if large else GOOD_EVERY
        pixels, defects = (_large_part if large else _part)(rng, good=index % every == every - 1)
        name = f"part-{index + 1:04d}.jpg"
        Image.fromarray(pixels).save(folder / "images" / name, quality=JPEG_QUALITY)
        image = {"id": index + 1, "file_name": name, "width": pixels.shape[1], "height": pixels.shape[0]}
        if large:  # reduced to a thumbnail, all are bare metal and would be taken for one part
            image["group"] = f"{folder.name}-{index + 1}"
        images.append(image)
        for category, corners in defects:
            (left, top), (right, bottom) = corners.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": CATEGORIES.index(category) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                }
            )
    document = {
        "info": {"description": "generated surface defects", "version": str(SAMPLE_VERSION)},
        "categories": [{"id": number, "name": name} for number, name in enumerate(CATEGORIES, start=1)],
        "images": images,
        "annotations": annotations,
    }
    _write_text(folder / "annotations.json", json.dumps(document, indent=1) + "\n")


def _part(rng: np.random.Generator, *, good: bool) -> tuple[NDArray[np.uint8], list[Defect]]:
    """One photograph ``[SIDE_PX, SIDE_PX, 3]`` RGB and the defects on it."""
    lamp = float(rng.uniform(0, 2 * math.pi))
    colour = _metal(rng, lamp, (SIDE_PX, SIDE_PX))
    marks = _marks(rng, lamp, good=good)
    for mark in marks:
        colour += mark.shade[:, :, None] * np.array(mark.tint, dtype=np.float32)
    return _photographed(rng, colour), [(mark.category, mark.corners) for mark in marks if mark.category]


def _large_part(rng: np.random.Generator, *, good: bool) -> tuple[NDArray[np.uint8], list[Defect]]:
    """One photograph of ``LARGE_PX``; each mark has a field of SIDE_PX to itself."""
    lamp = float(rng.uniform(0, 2 * math.pi))
    colour = _metal(rng, lamp, LARGE_PX)
    rows, columns = (side // SIDE_PX for side in LARGE_PX)
    most_defects, most_others = MOST_LARGE_MARKS
    count = 0 if good else int(rng.integers(1, most_defects + 1))
    kinds = [*rng.integers(0, 3, count), *rng.integers(3, 6, rng.integers(most_others + 1))]
    defects: list[Defect] = []
    for kind, field in zip(kinds, rng.permutation(rows * columns), strict=False):
        mark = _mark(rng, lamp, int(kind), LARGE_SIZES_PX)
        if mark is None:
            continue
        left, top = int(field % columns) * SIDE_PX, int(field // columns) * SIDE_PX
        shade = mark.shade[:, :, None] * np.array(mark.tint, dtype=np.float32)
        colour[top : top + SIDE_PX, left : left + SIDE_PX] += shade
        if mark.category:
            defects.append((mark.category, mark.corners + (left, top)))
    return _photographed(rng, colour), defects


def _metal(rng: np.random.Generator, lamp: float, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The lit surface [h, w, 3] without any mark."""
    # Steel is a little blue, aluminium neutral, brass-plated steel warm.
    tint = np.array(((0.97, 1.0, 1.04), (1.0, 1.0, 1.0), (1.05, 1.0, 0.92))[rng.integers(3)], dtype=np.float32)
    return (_texture(rng, shape) + _light(rng, lamp, shape))[:, :, None] * tint


def _photographed(rng: np.random.Generator, colour: NDArray[np.float32]) -> NDArray[np.uint8]:
    """With the camera's own noise, in its range of values."""
    colour += 2.5 * rng.standard_normal(colour.shape, dtype=np.float32)
    return colour.clip(0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, shape: tuple[int, int]) -> Canvas:
    """Brushed metal, with the marks of a tool across it, or cast metal."""
    import cv2

    brushed = bool(rng.random() < 0.6)
    texture = np.zeros(shape, dtype=np.float32)
    for length_px, strength in ((151, 6.0), (41, 4.5), (9, 3.0)) if brushed else ((31, 6.0), (9, 4.5), (3, 3.0)):
        noise = rng.standard_normal(shape, dtype=np.float32)
        blurred = cv2.blur(noise, (length_px, 1 if brushed else length_px))
        texture += blurred * np.float32(strength * rng.uniform(0.6, 1.3) / blurred.std())
    wave = np.sin(2 * np.pi * _grid(0, 0, shape)[1] / rng.uniform(14, 34) + rng.uniform(0, 2 * np.pi)) ** 9
    texture += np.float32(brushed * rng.uniform(0, 12)) * wave
    # Only a square has the same shape when it is turned.
    return np.rot90(texture, int(rng.integers(2)) * (2 - (shape[0] == shape[1])))


def _light(rng: np.random.Generator, lamp: float, shape: tuple[int, int]) -> Canvas:
    """A lamp from one side, its blurred reflection as a band, and a lens that darkens the corners."""
    height, width = shape
    x, y = (distance / (min(shape) / 2) for distance in _grid(width / 2, height / 2, shape))
    along = x * math.cos(lamp) + y * math.sin(lamp)
    band = np.exp(-(((along - rng.uniform(-0.8, 0.8)) / rng.uniform(0.3, 0.7)) ** 2))
    level = rng.uniform(110, 160) + rng.uniform(8, 26) * along + rng.uniform(6, 30) * band
    return np.asarray(level * (1 - rng.uniform(0.05, 0.14) * (x**2 + y**2)), dtype=np.float32)


def _grid(x: float, y: float, shape: tuple[int, int] = (SIDE_PX, SIDE_PX)) -> tuple[Canvas, Canvas]:
    """Each pixel's distance from a point, to the right and downwards, in pixels."""
    rows, columns = np.indices(shape, dtype=np.float32)
    return columns - np.float32(x), rows - np.float32(y)


def _marks(rng: np.random.Generator, lamp: float, *, good: bool) -> list[_Mark]:
    """One to five defects, none on a good part, and up to three marks that are no defects; none touch."""
    defects = 0 if good else int(rng.choice(5, p=(0.15, 0.25, 0.25, 0.2, 0.15))) + 1
    found: list[_Mark] = []
    for kind in (*rng.integers(0, 3, defects), *rng.integers(3, 6, rng.integers(4))):
        mark = _mark(rng, lamp, int(kind), SIZES_PX, beside=found)
        found += [mark] if mark else []
    return found


def _mark(
    rng: np.random.Generator, lamp: float, kind: int, sizes_px: tuple[int, int], *, beside: Sequence[_Mark] = ()
) -> _Mark | None:
    """A mark of a kind that touches none of the others; None where a part is too full to take one more."""
    makers, (least, most) = (_scratch, _dent, _stain, _fibre, _hole, _drop), sizes_px
    for _ in range(20):
        size_px, contrast = least * (most / least) ** rng.beta(2, 2), rng.uniform(22, 50)
        mark = makers[kind](rng, lamp, float(size_px), float(contrast))
        near, far = mark.corners
        apart = all(np.maximum(near - o[1], o[0] - far).max() >= MARGIN_PX for o in (m.corners for m in beside))
        if apart and least <= (far - near).min() and (far - near).max() <= most:
            return mark
    return None


def _scratch(rng: np.random.Generator, lamp: float, size_px: float, contrast: float) -> _Mark:
    """A thin, slightly bent line that tapers off, bright where metal is bare or dark where dirt sits in it."""
    # Never along an axis: a box thinner than 6 px is hard for any detector and looks like grain.
    angle = math.radians(rng.uniform(27, 63)) + math.pi / 2 * rng.integers(2)
    alpha = _line(rng, angle, 1.3 * size_px, bend=0.1)
    # The burr beside the groove lies in shadow on the side away from the lamp.
    burr = np.roll(alpha, (round(1.4 * math.sin(lamp)), round(1.4 * math.cos(lamp))), (0, 1))
    core = np.float32(1.5 * contrast * rng.choice((-1.0, 1.0), p=(0.4, 0.6)))
    return _Mark("scratch", alpha, core * (alpha - 0.5 * np.clip(burr - alpha, 0, 1)))


def _fibre(rng: np.random.Generator, lamp: float, size_px: float, contrast: float) -> _Mark:
    """No defect: a thread of cloth that lies on the part, as thin as a scratch, bent far more and without a burr."""
    alpha = _line(rng, rng.uniform(0, 2 * math.pi), 1.3 * size_px, bend=0.45)
    return _Mark("", alpha, -np.float32(1.5 * contrast) * alpha)


def _line(rng: np.random.Generator, angle: float, length_px: float, *, bend: float) -> Canvas:
    """The alpha of a line that tapers off, bent to one side by at most ``bend`` of its length."""
    import cv2

    width_px = rng.uniform(1.2, 2.6)
    ahead = np.array((math.cos(angle), math.sin(angle))) * length_px
    aside = np.array((-ahead[1], ahead[0])) * rng.uniform(0.5, 1) * rng.choice((-bend, bend))
    t = np.linspace(-1, 1, 24)[:, None]
    points = rng.uniform(*MIDDLES_PX, 2) + t * ahead / 2 + (1 - t**2) * aside
    corners = (points * 8).round().astype(np.int32)  # three bits of them are fractions of a pixel
    alpha = np.zeros((SIDE_PX, SIDE_PX), dtype=np.float32)
    for place in sorted(range(len(t) - 1), key=lambda place: -abs(t[place, 0])):  # the thick middle over the ends
        taper = math.sqrt(max(1 - abs(t[place, 0]) ** 3, 0.05))
        thickness_px = max(1, round(width_px * taper))
        cv2.line(alpha, corners[place].tolist(), corners[place + 1].tolist(), taper, thickness_px, cv2.LINE_8, 3)
    return np.asarray(cv2.GaussianBlur(alpha, (0, 0), 0.7), dtype=np.float32)


def _dent(rng: np.random.Generator, lamp: float, size_px: float, contrast: float) -> _Mark:
    """A shallow bowl: shadow on the side towards the lamp, highlight on the far one, a thin lip around it."""
    radius, towards, alpha = _disc(rng, lamp, size_px, squeeze=rng.uniform(0.75, 1.0))
    lip = np.exp(-(((radius - 1.0) / 0.1) ** 2))
    shade = towards * (0.35 * lip - 0.45 - 0.55 * radius**2) - rng.uniform(0.1, 0.3) * np.exp(-2 * radius**2)
    return _Mark("dent", alpha, alpha * np.float32(1.3 * contrast) * shade)


def _hole(rng: np.random.Generator, lamp: float, size_px: float, contrast: float) -> _Mark:
    """No defect: a drilled hole, dark, exactly round, within a bright chamfer."""
    radius, towards, alpha = _disc(rng, lamp, size_px)
    chamfer = np.exp(-(((radius - 0.85) / 0.12) ** 2))
    return _Mark("", alpha, alpha * np.float32(contrast) * (chamfer - 1.6 * (radius < 0.75) * (1 + 0.3 * towards)))


def _stain(rng: np.random.Generator, lamp: float, size_px: float, contrast: float) -> _Mark:
    """A dark blotch with a wavy outline and a darker rim, as a dried drop leaves it."""
    radius, _, alpha = _disc(rng, lamp, size_px, wavy=0.3)
    rim = np.exp(-(((radius - 0.84) / 0.12) ** 2))
    warm = rng.uniform(-0.05, 0.22)  # rust and oil take the blue first
    return _Mark("stain", alpha, -alpha * np.float32(contrast) * (1 + 0.4 * rim), (1 - warm, 1.0, 1 + warm))


def _drop(rng: np.random.Generator, lamp: float, size_px: float, contrast: float) -> _Mark:
    """No defect: a drop of clear fluid, outlined like a stain, and bright on the side towards the lamp."""
    _, towards, alpha = _disc(rng, lamp, size_px, wavy=0.15)
    return _Mark("", alpha, alpha * np.float32(contrast) * (0.4 + 0.6 * towards))


def _disc(
    rng: np.random.Generator, lamp: float, size_px: float, *, squeeze: float = 1, wavy: float = 0
) -> tuple[Canvas, Canvas, Canvas]:
    """Around a random middle: the distance from it, 1 at the outline; its part towards the lamp; the alpha."""
    right, down = _grid(*rng.uniform(*MIDDLES_PX, 2))
    around, turn = np.arctan2(down, right), rng.uniform(0, math.pi)
    outline = np.full_like(around, size_px / 2)
    for wave in range(1, 9 if wavy else 1):
        outline *= 1 + rng.normal(0, wavy) / (wave + 1) * np.sin(wave * around + rng.uniform(0, 2 * math.pi))
    radius = np.hypot(right, down) / outline
    towards = radius * np.cos(around - lamp)
    radius *= np.hypot(np.cos(around - turn), np.sin(around - turn) / squeeze)
    alpha = np.asarray(0.5 - 0.5 * np.tanh((radius - 0.95) * rng.uniform(4, 10)), dtype=np.float32)
    return radius.astype(np.float32), towards.astype(np.float32), alpha
