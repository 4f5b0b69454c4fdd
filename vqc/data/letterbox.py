"""A picture fitted into the one size that a detector takes: scaled to the top left corner, the rest padded.

Knows neither torch nor annotations, so that a detector can be run without either.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PAD_VALUE = 114  # near the mean of photographs, so that padding carries no contrast of its own
# A JPEG may be decoded at a half, a quarter or an eighth of its size, three times as fast. With at least twice the
# resolution that it is fitted to, the fitted image is nearly the same (0.1 grey values of 255 on average).
REDUCTIONS = (8, 4, 2)
REDUCED_AT_LEAST = 2


def fit_scale(width: int, height: int, size: tuple[int, int]) -> float:
    """Factor by which an image is scaled to fit into ``size`` (height, width), its shape kept."""
    return min(size[0] / height, size[1] / width)


def reduction(width: int, height: int, size: tuple[int, int]) -> int:
    """By how much, 1, 2, 4 or 8, an image may be made smaller before it is fitted into ``size`` (height, width)."""
    spare = 1 / (REDUCED_AT_LEAST * fit_scale(width, height, size))
    return next((factor for factor in REDUCTIONS if factor <= spare), 1)


def inner_size(width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels of the image inside a fitted one, without the padding."""
    scale = fit_scale(width, height, size)
    return max(1, round(height * scale)), max(1, round(width * scale))


def fit_image(
    image: NDArray[np.uint8], size: tuple[int, int], *, original: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """The image scaled into the top left corner of ``size`` (height, width); the rest is padding.

    Args:
        image: [h, w, 3].
        original: width and height in pixels of what the image is a reduction of.

    Returns:
        [H, W, 3]; a point (x, y) of the original lies at (x, y) * ``fit_scale``, to half a pixel.
    """
    import cv2

    width, height = original or (image.shape[1], image.shape[0])
    rows, columns = inner_size(width, height, size)
    fitted = np.full((*size, 3), PAD_VALUE, np.uint8)
    method = cv2.INTER_AREA if fit_scale(width, height, size) < 1 else cv2.INTER_LINEAR
    fitted[:rows, :columns] = cv2.resize(image, (columns, rows), interpolation=method)
    return fitted
