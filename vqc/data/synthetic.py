"""The generated data set: photographs of brushed metal with scratches, dents and stains; good parts too.

Written by ``vqc sample``, and by training and the search where no data is given. Everything is drawn from the seed: the
same versions of numpy, OpenCV and Pillow write the same bytes.

A *canvas* is float32 [SIDE_PX, SIDE_PX] of grey levels, 0 black to 255 white; an *alpha* has the same shape and says,
0 to 1, how visible a defect is at each pixel.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqc.errors import DataError
from vqc.files import new_folder

CATEGORIES = ("scratch", "dent", "stain")
SAMPLE_IMAGES: Mapping[str, int] = {"train": 128, "val": 48, "test": 64}
SAMPLE_VERSION = 1  # to be raised when the same seed writes other bytes
SIDE_PX = 256
JPEG_QUALITY = 92
GOOD_EVERY = 3  # one part in three is good
MARGIN_PX = 8  # between a defect and the edge, and between two defects
VISIBLE = 0.25  # a pixel belongs to a defect's box where its alpha is above this

Canvas = NDArray[np.float32]


@dataclass(frozen=True)
class _Defect:
    """A defect: its alpha, the grey levels that it adds to the metal, and their weights in R, G and B."""

    category: str
    alpha: Canvas
    shade: Canvas
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @cached_property
    def corners(self) -> NDArray[np.int64]:
        """The visible part's left top and right bottom corner [2, 2] in pixels."""
        places = np.argwhere(self.alpha > VISIBLE)[:, ::-1]
        return np.array([places.min(axis=0), places.max(axis=0) + 1])


def choose_data(folder: Path | None, results: Path) -> tuple[Path, str]:
    """The folder of data to use: the given one, else ``data/``, else the sample below ``results``, written if needed.

    Returns:
        The folder, and a sentence for the user where it is the sample, else nothing.

    Raises:
        DataError: the sample is needed and cannot be written.
    """
    if folder is not None or Path("data").is_dir():
        return folder or Path("data"), ""
    sample = write_sample(results / "sample")
    return sample, f"No --data given and no folder 'data': the generated sample is used ({sample})."


def write_sample(folder: Path, *, seed: int = 0, images: Mapping[str, int] = SAMPLE_IMAGES) -> Path:
    """Write ``folder/{train,val,test}/{images/,annotations.json}``, or keep it where it is already complete.

    The folder appears only when it is complete. It is not fsynced: after a power cut ``vqc check`` may find it damaged.

    Args:
        images: split -> number of images.

    Raises:
        DataError: the folder holds something else, or cannot be written.
    """
    if seed < 0 or any(count < 1 for count in images.values()):
        raise DataError(f"expected a seed of at least 0 and at least 1 image a split, got {seed} and {dict(images)}")
    origin = {
        "about": "Generated, not photographed: brushed metal with scratches, dents and stains, made by 'vqc sample'.",
        "generator": "vqc.data.synthetic",
        "version": SAMPLE_VERSION,
        "seed": seed,
        "images": dict(images),
    }
    if _is_whole(folder, origin):
        return folder
    try:
        with new_folder(folder) as draft:
            for number, (split, count) in enumerate(images.items()):
                _write_split(draft / split, seed=seed, number=number, count=count)
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


def _write_split(folder: Path, *, seed: int, number: int, count: int) -> None:
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        # A stream for each image: its pixels do not depend on how many there are.
        rng = np.random.default_rng([seed, number, index])
        pixels, defects = _part(rng, good=index % GOOD_EVERY == GOOD_EVERY - 1)
        name = f"part-{index + 1:04d}.jpg"
        Image.fromarray(pixels).save(folder / "images" / name, quality=JPEG_QUALITY)
        images.append({"id": index + 1, "file_name": name, "width": SIDE_PX, "height": SIDE_PX})
        for defect in defects:
            (left, top), (right, bottom) = defect.corners.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": CATEGORIES.index(defect.category) + 1,
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


def _part(rng: np.random.Generator, *, good: bool) -> tuple[NDArray[np.uint8], list[_Defect]]:
    """One photograph ``[SIDE_PX, SIDE_PX, 3]`` RGB and the defects on it."""
    metal = _metal(rng)
    defects = [] if good else _defects(rng)
    # Steel is a little blue, aluminium neutral, brass-plated steel warm.
    tint = np.array(((0.97, 1.0, 1.04), (1.0, 1.0, 1.0), (1.05, 1.0, 0.92))[rng.integers(3)], dtype=np.float32)
    colour = metal[:, :, None] * tint
    for defect in defects:
        colour += defect.shade[:, :, None] * np.array(defect.tint, dtype=np.float32)
    colour += 2.5 * rng.standard_normal(colour.shape, dtype=np.float32)  # the camera's own noise
    return colour.clip(0, 255).astype(np.uint8), defects


def _metal(rng: np.random.Generator) -> Canvas:
    """A brushed plate: grain along one direction, uneven light, vignetting, the marks of a tool."""
    import cv2

    wide = SIDE_PX * 3 // 2  # so that turning it leaves no empty corner
    noise = rng.standard_normal((3, wide, wide), dtype=np.float32)
    grain = np.zeros((wide, wide), dtype=np.float32)
    for layer, length_px, strength in zip(noise, (151, 41, 9), (6.0, 4.5, 2.5), strict=True):
        blurred = cv2.blur(layer, (length_px, 1))
        grain += blurred * (strength / float(blurred.std()))
    rows = np.arange(wide, dtype=np.float32)
    spacing_px = rng.uniform(14, 34)
    wave = np.sin(2 * np.pi * rows / spacing_px + rng.uniform(0, 2 * np.pi)) ** 9
    grain += (rng.uniform(0, 5) * wave)[:, None].astype(np.float32)
    angle = rng.uniform(-6, 6) + 90 * rng.integers(2)
    turn = cv2.getRotationMatrix2D((wide / 2, wide / 2), float(angle), 1.0)
    turned = cv2.warpAffine(grain, turn, (wide, wide), flags=cv2.INTER_LINEAR)
    edge = (wide - SIDE_PX) // 2
    return np.asarray(_light(rng) + turned[edge : edge + SIDE_PX, edge : edge + SIDE_PX], dtype=np.float32)


def _light(rng: np.random.Generator) -> Canvas:
    """A lamp from one side, its blurred reflection as a band, and a lens that darkens the corners."""
    x, y = _grid(SIDE_PX / 2, SIDE_PX / 2)
    x, y = x / (SIDE_PX / 2), y / (SIDE_PX / 2)
    angle = rng.uniform(0, 2 * np.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    band = np.exp(-(((along - rng.uniform(-0.8, 0.8)) / rng.uniform(0.3, 0.7)) ** 2))
    level = rng.uniform(118, 158) + rng.uniform(8, 26) * along + rng.uniform(6, 24) * band
    return np.asarray(level * (1 - rng.uniform(0.05, 0.14) * (x**2 + y**2)), dtype=np.float32)


def _grid(x: float, y: float) -> tuple[Canvas, Canvas]:
    """Each pixel's distance from a point, to the right and downwards, in pixels."""
    rows, columns = np.indices((SIDE_PX, SIDE_PX), dtype=np.float32)
    return columns - np.float32(x), rows - np.float32(y)


def _defects(rng: np.random.Generator) -> list[_Defect]:
    """One to five defects that do not touch, all lit by the same lamp."""
    lamp = float(rng.uniform(0, 2 * math.pi))
    makers: tuple[Callable[[np.random.Generator, float], _Defect], ...] = (_scratch, _dent, _stain)
    found: list[_Defect] = []
    for _ in range(rng.choice(5, p=(0.15, 0.25, 0.25, 0.2, 0.15)) + 1):
        make = makers[rng.integers(len(makers))]
        for _ in range(20):  # a part too full to take one more keeps what it has
            defect = make(rng, lamp)
            inside = defect.corners.min() >= MARGIN_PX and defect.corners.max() <= SIDE_PX - MARGIN_PX
            if inside and not any(_touch(defect, other) for other in found):
                found.append(defect)
                break
    return found


def _touch(one: _Defect, other: _Defect) -> bool:
    apart_px = np.maximum(one.corners[0] - other.corners[1], other.corners[0] - one.corners[1])
    return bool(apart_px.max() < MARGIN_PX)


def _scratch(rng: np.random.Generator, lamp: float) -> _Defect:
    """A thin, slightly bent line that tapers off, bright where metal is bare or dark where dirt sits in it."""
    import cv2

    length_px, width_px = rng.uniform(55, 140), rng.uniform(2.0, 4.0)
    # Never along an axis: a box thinner than some 16 px is hard for any detector and looks like grain.
    angle = math.radians(rng.uniform(18, 72)) + math.pi / 2 * rng.integers(2)
    ahead = np.array((math.cos(angle), math.sin(angle)))
    aside = np.array((-ahead[1], ahead[0]))
    bend_px = rng.uniform(-0.12, 0.12) * length_px
    t = np.linspace(-1, 1, 48)
    points = _middle(rng) + t[:, None] * ahead * length_px / 2 + (1 - t**2)[:, None] * aside * bend_px
    corners = (points * 8).round().astype(np.int32)  # three bits of them are fractions of a pixel
    alpha = np.zeros((SIDE_PX, SIDE_PX), dtype=np.float32)
    for place in sorted(range(len(t) - 1), key=lambda place: -abs(t[place])):  # ends first, the thick middle over them
        taper = math.sqrt(max(1 - abs(t[place]) ** 3, 0.05))
        thickness_px = max(1, round(width_px * taper))
        cv2.line(alpha, corners[place].tolist(), corners[place + 1].tolist(), taper, thickness_px, cv2.LINE_8, 3)
    alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), 0.7), dtype=np.float32)
    core = (1.0 if rng.random() < 0.6 else -1.0) * rng.uniform(42, 86)
    # The burr beside the groove lies in shadow on the side away from the lamp.
    burr = np.roll(alpha, (round(1.4 * math.sin(lamp)), round(1.4 * math.cos(lamp))), (0, 1))
    shade = core * (alpha - 0.5 * np.clip(burr - alpha, 0, 1))
    return _Defect("scratch", alpha, shade)


def _dent(rng: np.random.Generator, lamp: float) -> _Defect:
    """A shallow bowl: shadow on the side towards the lamp, highlight on the far one, a thin lip around it."""
    radius_px, squeeze, turn = rng.uniform(13, 30), rng.uniform(0.75, 1.0), rng.uniform(0, math.pi)
    right, down = _grid(*_middle(rng))
    along = right * math.cos(turn) + down * math.sin(turn)
    across = (down * math.cos(turn) - right * math.sin(turn)) / squeeze
    radius = np.asarray(np.hypot(along, across) / radius_px, dtype=np.float32)
    towards = (right * math.cos(lamp) + down * math.sin(lamp)) / radius_px
    strength = rng.uniform(40, 72)
    shade = -strength * towards * (0.45 + 0.55 * radius**2) - rng.uniform(6, 18) * np.exp(-2 * radius**2)
    glint = np.exp(-(((towards + 0.62) / 0.3) ** 2) - ((radius - 0.62) / 0.28) ** 2)
    shade += strength * rng.uniform(0.15, 0.6) * glint
    lip = np.exp(-(((radius - 1.0) / 0.07) ** 2))
    alpha = _inside(radius, edge=0.96, sharpness=rng.uniform(11, 20))
    return _Defect("dent", alpha, alpha * (shade + 0.35 * strength * towards * lip).astype(np.float32))


def _stain(rng: np.random.Generator, lamp: float) -> _Defect:
    """A dark blotch with a wavy outline and a darker rim, as a dried drop leaves it; the lamp does not matter."""
    import cv2

    radius_px = rng.uniform(13, 30)
    right, down = _grid(*_middle(rng))
    around = np.arctan2(down, right)
    outline = np.ones_like(around)
    for wave in range(1, 9):
        outline += rng.normal(0, 0.30) / (wave + 1) * np.sin(wave * around + rng.uniform(0, 2 * math.pi))
    blotches = cv2.GaussianBlur(rng.standard_normal(around.shape, dtype=np.float32), (0, 0), 4)
    blotches = np.asarray(blotches / float(blotches.std()), dtype=np.float32)
    radius = np.hypot(right, down) / (np.float32(radius_px) * outline.clip(0.45, 1.5)) + np.float32(0.06) * blotches
    alpha = _inside(radius, edge=0.92, sharpness=rng.uniform(7, 22))
    rim = np.exp(-(((radius - 0.84) / 0.12) ** 2))
    shade = -rng.uniform(24, 48) * (1 + 0.22 * blotches) - rng.uniform(4, 20) * rim
    warm = rng.uniform(-0.05, 0.22)  # rust and oil take the blue first
    return _Defect("stain", alpha, alpha * shade.astype(np.float32), (1 - warm, 1.0, 1 + warm))


def _middle(rng: np.random.Generator) -> tuple[float, float]:
    x, y = rng.uniform(MARGIN_PX + 14, SIDE_PX - MARGIN_PX - 14, 2)
    return float(x), float(y)


def _inside(radius: Canvas, *, edge: float, sharpness: float) -> Canvas:
    """1 within ``radius == edge``, 0 outside, with a soft border; the sharper, the narrower."""
    return np.asarray(0.5 - 0.5 * np.tanh((radius - edge) * sharpness / 2), dtype=np.float32)
