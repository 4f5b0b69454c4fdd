"""The order of an epoch's images; rare categories may be seen more often (repeat factor sampling).

Gupta et al. 2019 (LVIS): a category that is on a share f of the images gets the factor max(1, sqrt(t / f)), and an
image the largest factor of its categories. There the epoch grows by it. Here common images make room, so that an epoch
keeps its steps and its time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def repeat_factors(labels: Sequence[NDArray[np.int64]], *, threshold: float) -> NDArray[np.float64]:
    """How often each image is wanted beside an image of common categories, [n], at least 1.

    Args:
        labels: of each image's boxes; none for a good part, whose factor is 1.
        threshold: t, the share of images below which a category is rare, 0..1.
    """
    present = [np.unique(one) for one in labels]
    counts = np.bincount(np.concatenate(present))
    factors = np.maximum(1, np.sqrt(threshold * len(labels) / np.maximum(counts, 1)))
    return np.array([factors[categories].max(initial=1) for categories in present])


def epoch_order(factors: NDArray[np.float64], random: np.random.Generator) -> list[int]:
    """As many indices as there are factors, in random order; equal factors give each index once.

    Index i comes n * factors[i] / sum(factors) times, rounded up or down at random (systematic resampling).
    """
    order = random.permutation(len(factors))
    ends = np.cumsum(factors) * (len(factors) / factors.sum())
    drawn = np.searchsorted(ends, np.arange(len(factors)) + random.random(), side="right")
    return [
        int(index) for index in np.minimum(drawn, len(factors) - 1)[order]
    ]  # a sum of rounded shares may fall short
