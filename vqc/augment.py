"""What is done to a training image: flips, brightness and contrast, written straight into the batch.

Called by ``vqc.dataset`` from several threads at once; the result depends on the arguments alone. Pixels and boxes
are those that albumentations' HorizontalFlip, VerticalFlip and RandomBrightnessContrast give (the tests compare
them), without its three seconds of import and its detour of boxes through shares of the image's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from vqc.config import Augmentation

__all__ = ["augment"]

# OpenCV's codes, by whether an image is flipped left to right and top to bottom.
_FLIPS = {(True, False): 1, (False, True): 0, (True, True): -1}


@dataclass(frozen=True, kw_only=True)
class _Draw:
    """What chance chose for one image: a value v becomes ``contrast`` * v + ``brightness``."""

    horizontal: bool
    vertical: bool
    contrast: float
    brightness: float


def augment(
    image: NDArray[np.uint8], boxes: NDArray[np.float32], *, settings: Augmentation, seed: int, out: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Write the augmented image into ``out`` and return its boxes; equal seeds give equal results.

    Args:
        image: [H, W, 3] RGB, not altered.
        boxes: [n, 4] xyxy pixels inside the image, not altered.
        seed: of this image in this epoch.
        out: [H, W, 3], contiguous, not overlapping ``image``.

    Returns:
        [n, 4] xyxy pixels, in the order of ``boxes``.
    """
    drawn = _drawn(settings, seed)
    _write(image, out, flip=_FLIPS.get((drawn.horizontal, drawn.vertical)), table=_table(drawn))
    return _flipped(boxes, drawn, height=image.shape[0], width=image.shape[1])


def _drawn(settings: Augmentation, seed: int) -> _Draw:
    random = Random(seed)  # quicker to make than numpy's, and promised to stay the same between releases
    return _Draw(
        horizontal=random.random() < settings.horizontal_flip,
        vertical=random.random() < settings.vertical_flip,
        contrast=1 + random.uniform(-settings.contrast, settings.contrast),
        brightness=255 * random.uniform(-settings.brightness, settings.brightness),
    )


def _table(drawn: _Draw) -> NDArray[np.uint8] | None:
    """The new value of each of the 256 old ones, rounded down; None where nothing changes."""
    if drawn.contrast == 1 and drawn.brightness == 0:
        return None
    values = np.arange(256, dtype=np.float32) * drawn.contrast + drawn.brightness
    table: NDArray[np.uint8] = np.clip(values, 0, 255).astype(np.uint8)
    return table


def _write(
    image: NDArray[np.uint8], out: NDArray[np.uint8], *, flip: int | None, table: NDArray[np.uint8] | None
) -> None:
    import cv2  # it lets other threads run meanwhile, which the quicker table of albumentations' own core does not

    if flip is not None:
        image = cv2.flip(image, flip, dst=out)  # type: ignore[assignment]
    if table is not None:
        cv2.LUT(image, table, dst=out)
    elif flip is None:
        np.copyto(out, image)


def _flipped(boxes: NDArray[np.float32], drawn: _Draw, *, height: int, width: int) -> NDArray[np.float32]:
    flipped = boxes.copy()
    if drawn.horizontal:
        flipped[:, [0, 2]] = np.float32(width) - boxes[:, [2, 0]]
    if drawn.vertical:
        flipped[:, [1, 3]] = np.float32(height) - boxes[:, [3, 1]]
    return flipped
