"""Boxes and detections drawn over the photograph or a part of it, and heat."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vqc.data.annotations import Xyxy
from vqc.files import write_atomically

CUT_OUT_PX = 360  # longer side of a cut-out, or of a small picture, on a page
READABLE_PX = 640  # a longer side below this is enlarged, so that captions can be read
BOX_RGB = (255, 64, 64)
TRUTH_RGB, FOUND_RGB = (46, 204, 190), (255, 140, 60)  # frames of annotated boxes and of detections on a page
TEXT_RGB = (255, 255, 255)
STRONGEST = 0.75  # of the heat's colour over the photograph where the heat is 1
JPEG_QUALITY = 90


def draw_boxes(image: NDArray[np.uint8], boxes: NDArray[np.float32], captions: Sequence[str]) -> NDArray[np.uint8]:
    """A copy of a picture [h, w, 3] RGB with framed and captioned boxes, [m, 4] xyxy in its pixels.

    It is enlarged by a whole factor, 1 for large pictures. Letters that the built-in font lacks are shown as frames.
    """
    import cv2
    from PIL import Image, ImageDraw, ImageFont

    factor = max(1, math.ceil(READABLE_PX / int(max(image.shape[:2]))))
    drawn = Image.fromarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC))
    pen = ImageDraw.Draw(drawn)
    unit = max(drawn.size) / 320  # line widths and letters grow with the picture
    font = ImageFont.load_default(size=max(11.0, 11 * unit))
    for box, caption in zip(boxes * np.float32(factor), captions, strict=True):
        x0, y0, x1, y1 = (float(value) for value in box)
        pen.rectangle((x0, y0, x1, y1), outline=BOX_RGB, width=max(2, round(1.5 * unit)))
        if not caption:
            continue
        left, top, right, bottom = pen.textbbox((0, 0), caption, font=font)
        width, height = right - left + 6, bottom - top + 5
        x = min(max(0.0, x0), max(0.0, drawn.width - width))
        y = y0 - height if y0 >= height else min(y1, drawn.height - height)  # inside the picture, off the defect
        pen.rectangle((x, y, x + width, y + height), fill=BOX_RGB)
        pen.text((x + 3 - left, y + 2 - top), caption, fill=TEXT_RGB, font=font)
    return np.asarray(drawn)


def draw_heat(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A copy of [h, w, 3] RGB under colours from blue (little heat) to red (most), heat [h, w] in 0..1.

    Where the heat is 0 the photograph is left as it is.
    """
    import cv2

    colours = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_TURBO)[:, :, ::-1]
    opacity = STRONGEST * np.sqrt(heat)[:, :, None]  # the square root shows faint traces too
    return np.asarray((1 - opacity) * image + opacity * colours).round().astype(np.uint8)


def placed(heat: NDArray[np.float32], box: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Heat [h, w] of a part of a picture -> heat [H, W] of the picture, 0 elsewhere.

    Args:
        box: of the part, xyxy in pixels of the picture.
        shape: of the picture, [H, W, ...].
    """
    import cv2

    left, top, right, bottom = (round(float(value)) for value in box)
    within = np.zeros(shape[:2], np.float32)
    part = within[top:bottom, left:right]
    if part.size:
        part[:] = cv2.resize(heat, part.shape[::-1], interpolation=cv2.INTER_AREA)
    return within


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """Boxes [n, 4] xyxy in pixels of the photograph, and how their frames are drawn."""

    boxes: NDArray[np.float32]
    rgb: tuple[int, int, int]
    width_px: int = 2


def cut_out(
    photograph: NDArray[np.uint8], around: Xyxy, frames: Iterable[Frames], *, context: float, fewest_px: int
) -> NDArray[np.uint8]:
    """The part of a photograph [h, w, 3] RGB around a box, xyxy pixels, enlarged or reduced, with frames drawn on it.

    Args:
        context: side of the part as a multiple of the box's longer side.
        fewest_px: side of the smallest part.
    """
    import cv2

    x0, y0, x1, y1 = around
    side = max(fewest_px, context * max(x1 - x0, y1 - y0))
    height, width = (min(full, round(side)) for full in photograph.shape[:2])
    left = round(min(max(0.0, (x0 + x1 - width) / 2), photograph.shape[1] - width))
    top = round(min(max(0.0, (y0 + y1 - height) / 2), photograph.shape[0] - height))
    cut = fitted(photograph[top : top + height, left : left + width])
    scale = cut.shape[1] / width
    for some in frames:
        for box in some.boxes:
            corners = ((box - np.array([left, top] * 2)) * scale).round().astype(int).tolist()
            cv2.rectangle(cut, corners[:2], corners[2:], some.rgb, some.width_px)
    return cut


def fitted(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of a picture [h, w, 3] whose longer side is ``CUT_OUT_PX``."""
    import cv2

    scale = CUT_OUT_PX / max(pixels.shape[:2])
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.ascontiguousarray(cv2.resize(np.ascontiguousarray(pixels), size, interpolation=way), np.uint8)


def save_jpeg(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write a picture [h, w, 3] RGB as JPEG."""
    import cv2

    _, data = cv2.imencode(".jpg", np.ascontiguousarray(pixels[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    write_atomically(path, data.tobytes())
