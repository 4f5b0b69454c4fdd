"""Copy-paste: the defects of one photograph on a good part (Dwibedi et al. 2017, Ghiasi et al. 2021).

They keep their places, because parts in front of a fixed camera lie alike and a defect belongs where it occurs; each
brings its neighbourhood along, blended into the good part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray

BLEND_PX = 8  # a pasted box fades out over so many pixels around it


class Donors:
    """Chooses whose defects a good view is shown with: those of a view of the same size, whole photographs or tiles.

    Args:
        sizes: width and height of each view in pixels of its photograph.
        labels: of each view's defects; none on a good one.
    """

    def __init__(
        self, sizes: Sequence[tuple[int, int]], labels: Sequence[NDArray[np.int64]], *, probability: float
    ) -> None:
        self._sizes, self._labels, self._probability = sizes, labels, probability
        self._by_size: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for index, size in enumerate(sizes):
            if len(labels[index]):
                self._by_size[size].append(index)

    def of(self, index: int, *, seed: int) -> int:
        """The view whose defects view ``index`` is shown with: its own position where it stays as it is."""
        donors, random = self._by_size.get(self._sizes[index]), Random(seed)
        if len(self._labels[index]) or donors is None or random.random() >= self._probability:
            return index
        return random.choice(donors)


def with_defects(image: NDArray[np.uint8], donor: NDArray[np.uint8], boxes: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image with what the donor shows inside of the boxes, faded out around them.

    Each box gets the light of its new surroundings: the median of what the two photographs differ by is added to it.

    Args:
        image, donor: [H, W, 3], not changed.
        boxes: [n, 4] xyxy pixels, the defects of the donor.

    Returns:
        [H, W, 3]: the donor's pixels, lit alike, inside the boxes, the image's from ``BLEND_PX`` outside of them on.
    """
    import cv2

    half = BLEND_PX // 2
    change, share = donor.astype(np.float32) - image, np.zeros(image.shape[:2], np.float32)
    lit = np.zeros_like(change)
    reach = np.hstack([np.floor(boxes[:, :2]) - BLEND_PX, np.ceil(boxes[:, 2:]) + BLEND_PX]).astype(int)
    for left, top, right, bottom in reach:
        whole = np.s_[max(top, 0) : bottom, max(left, 0) : right]
        lit[whole] = change[whole] - np.median(change[whole], axis=(0, 1))
        share[max(top + half, 0) : bottom - half, max(left + half, 0) : right - half] = 1
    blended = image + cv2.blur(share, (2 * half + 1, 2 * half + 1))[..., None] * lit
    return np.asarray(blended.round().clip(0, 255), np.uint8)
