"""Augmentation of a training image: flips, brightness and contrast, written directly into the batch.

Flips are done here: albumentations converts boxes to shares of the image's size and back, which is ten times slower and
not exact (the tests compare).
"""

from __future__ import annotations

import os
import threading
from random import Random

import numpy as np
from numpy.typing import NDArray

from vqc.config import Augmentation

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

        random = Random(seed)  # faster to create than numpy's, and the same in all releases
        horizontal = random.random() < self._settings.horizontal_flip
        vertical = random.random() < self._settings.vertical_flip
        flip = _FLIPS.get((horizontal, vertical))
        if flip is not None:
            cv2.flip(image, flip, dst=out)
            image = out
        if self._settings.brightness or self._settings.contrast:
            image = self._lit(image, random.getrandbits(32))
        if image is not out:
            np.copyto(out, image)
        height, width = image.shape[:2]
        flipped = boxes.copy()
        if horizontal:
            flipped[:, [0, 2]] = np.float32(width) - boxes[:, [2, 0]]
        if vertical:
            flipped[:, [1, 3]] = np.float32(height) - boxes[:, [3, 1]]
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
