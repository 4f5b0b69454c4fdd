"""Augmentation of a training image: flips, turns, scale, brightness and contrast, written directly into the batch.

Boxes are moved here: albumentations converts them to shares of the image's size and back, which is ten times slower and
not exact (the tests compare).
"""

from __future__ import annotations

import os
import threading
from random import Random

import numpy as np
from numpy.typing import NDArray

from vqc.config import Augmentation
from vqc.data.letterbox import PAD_VALUE

# OpenCV's codes, by whether an image is flipped left to right and top to bottom.
_FLIPS = {(True, False): 1, (False, True): 0, (True, True): -1}


class Augmenter:
    """Augments one image at a time; may be called from several threads."""

    def __init__(self, settings: Augmentation) -> None:
        self._settings = settings
        self._own = threading.local()  # albumentations' random state is not shared between threads

    def __call__(
        self, image: NDArray[np.uint8], boxes: NDArray[np.float32], *, seed: int, out: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Write the augmented image into ``out`` and return its boxes; equal seeds give equal results.

        Args:
            image: [H, W, 3] RGB, not changed.
            boxes: [n, 4] xyxy pixels inside the image, not changed.
            seed: of this image in this epoch.
            out: [H, W, 3], contiguous, not overlapping ``image``.

        Returns:
            [n, 4] xyxy pixels, in the order of ``boxes``.
        """
        import cv2

        settings = self._settings
        random = Random(seed)  # faster to create than numpy's, and the same in all releases
        horizontal = random.random() < settings.horizontal_flip
        vertical = random.random() < settings.vertical_flip
        if settings.scale_jitter:
            image, boxes = rescaled(image, boxes, jitter=settings.scale_jitter, random=random)
        height, width = (np.float32(side) for side in image.shape[:2])
        if settings.quarter_turn and random.random() < settings.quarter_turn:
            image = np.rot90(image, -1).copy()  # clockwise
            boxes = np.stack([height - boxes[:, 3], boxes[:, 0], height - boxes[:, 1], boxes[:, 2]], axis=1)
        flip = _FLIPS.get((horizontal, vertical))
        if flip is not None:
            cv2.flip(image, flip, dst=out)
            image = out
        if settings.brightness or settings.contrast:
            image = self._lit(image, random.getrandbits(32))
        if image is not out:
            np.copyto(out, image)
        flipped = boxes.copy()
        if horizontal:
            flipped[:, [0, 2]] = width - boxes[:, [2, 0]]
        if vertical:
            flipped[:, [1, 3]] = height - boxes[:, [3, 1]]
        return flipped

    def _lit(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """The image with another brightness and contrast, drawn by albumentations within the settings."""
        if not hasattr(self._own, "light"):
            os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # read at import: no request to the network
            import albumentations as A

            limits = {"brightness_limit": self._settings.brightness, "contrast_limit": self._settings.contrast}
            self._own.light = A.Compose([A.RandomBrightnessContrast(**limits, p=1.0)])
        self._own.light.set_random_seed(seed)
        lit: NDArray[np.uint8] = self._own.light(image=image)["image"]
        return lit


def rescaled(
    image: NDArray[np.uint8], boxes: NDArray[np.float32], *, jitter: float, random: Random
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The image up to ``1 + jitter`` times larger or smaller, in its frame, and its boxes.

    A larger one is seen through a window that holds all boxes, so it grows less where they are far apart; a smaller one
    lies whole amid padding. Scale jitter as by Ghiasi et al. 2021, section 3, with crops that are safe for boxes.

    Args:
        image: [H, W, 3].
        boxes: [n, 4] xyxy pixels inside the image.
    """
    import cv2

    height, width = image.shape[:2]
    frame = np.array([width, height], np.float64)
    first, last = boxes[:, :2].min(axis=0, initial=np.inf), boxes[:, 2:].max(axis=0, initial=-np.inf)  # of all boxes
    factor = min((1 + jitter) ** random.uniform(-1, 1), *(frame / np.maximum(last - first, 1)))
    window = frame / factor
    spare = frame - window  # negative where the window is larger than the image
    low, high = np.maximum(np.minimum(spare, 0), last - window), np.minimum(np.maximum(spare, 0), first)
    corner = low + (high - low) * (random.random(), random.random())
    # OpenCV counts from the centre of the first pixel, boxes from its corner.
    matrix = np.column_stack([np.eye(2) * factor, factor * (0.5 - corner) - 0.5])
    pixels = cv2.warpAffine(image, matrix, (width, height), borderValue=(PAD_VALUE,) * 3)
    moved = (boxes - np.tile(corner, 2)) * factor
    return np.asarray(pixels, np.uint8), np.clip(moved, 0, np.tile(frame, 2)).astype(np.float32)
