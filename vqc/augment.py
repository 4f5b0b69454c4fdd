"""What is done to a training image: flips, brightness and contrast, written straight into the batch.

Called by ``vqc.dataset`` from several threads at once; the result depends on the arguments alone. It is that of
albumentations' HorizontalFlip, VerticalFlip and RandomBrightnessContrast (the tests compare them; albumentations
rounds light down, this to the nearest), without its three seconds of import and its way of boxes through shares of
the image's size.
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
    """What chance chose for one image: a value v becomes ``contrast`` * v + ``brightness``, rounded, in 0..255."""

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
    _write(image, drawn, out)
    return _flipped(boxes, drawn, height=image.shape[0], width=image.shape[1])


def _drawn(settings: Augmentation, seed: int) -> _Draw:
    random = Random(seed)  # quicker to make than numpy's, and promised to stay the same between releases
    return _Draw(
        horizontal=random.random() < settings.horizontal_flip,
        vertical=random.random() < settings.vertical_flip,
        contrast=1 + random.uniform(-settings.contrast, settings.contrast),
        brightness=255 * random.uniform(-settings.brightness, settings.brightness),
    )


def _write(image: NDArray[np.uint8], drawn: _Draw, out: NDArray[np.uint8]) -> None:
    import cv2

    flip = _FLIPS.get((drawn.horizontal, drawn.vertical))
    if flip is not None:
        cv2.flip(image, flip, dst=out)
        image = out
    if drawn.contrast != 1 or drawn.brightness != 0:
        # The second image has no weight. Faster than a table of 256 values, and other threads run meanwhile.
        cv2.addWeighted(image, drawn.contrast, image, 0, drawn.brightness, dst=out)
    elif image is not out:
        np.copyto(out, image)


def _flipped(boxes: NDArray[np.float32], drawn: _Draw, *, height: int, width: int) -> NDArray[np.float32]:
    flipped = boxes.copy()
    if drawn.horizontal:
        flipped[:, [0, 2]] = np.float32(width) - boxes[:, [2, 0]]
    if drawn.vertical:
        flipped[:, [1, 3]] = np.float32(height) - boxes[:, [3, 1]]
    return flipped
