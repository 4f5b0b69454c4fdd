"""What is done to a training image: the only module that imports albumentations."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqc.config import Augmentation

__all__ = ["Augmenter"]

MIN_VISIBLE = 0.1  # a box of which less than this share remains is dropped


class Augmenter:
    """Random flips, brightness and contrast of one image and its boxes.

    Not safe to share between threads: each preparing thread makes its own.
    """

    def __init__(self, settings: Augmentation) -> None:
        self._compose = _compose(settings)

    def __call__(
        self, image: NDArray[np.uint8], boxes: NDArray[np.float32], labels: NDArray[np.int64], *, seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
        """The augmented image, its boxes and labels; equal seeds give equal results.

        Args:
            image: [H, W, 3] RGB.
            boxes: [n, 4] xyxy pixels inside the image, not empty.
            labels: [n].
            seed: of this image in this epoch.
        """
        self._compose.set_random_seed(seed)
        out = self._compose(image=image, bboxes=boxes, labels=labels)
        return (
            out["image"],
            np.asarray(out["bboxes"], dtype=np.float32).reshape(-1, 4),
            np.asarray(out["labels"], dtype=np.int64).reshape(-1),
        )


def _compose(settings: Augmentation) -> Any:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # read at import: it would ask the network for a newer release
    import albumentations as A
    import cv2

    cv2.setNumThreads(1)  # batches are prepared by several threads already
    return A.Compose(
        [
            A.HorizontalFlip(p=settings.horizontal_flip),
            A.VerticalFlip(p=settings.vertical_flip),
            A.RandomBrightnessContrast(settings.brightness, settings.contrast, p=1.0),
        ],
        bbox_params=A.BboxParams(
            format="pascal_voc",
            label_fields=["labels"],
            clip=True,
            filter_invalid_bboxes=True,
            min_visibility=MIN_VISIBLE,
        ),
    )
