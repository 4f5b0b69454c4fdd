"""What an epoch of a configuration costs: the pixels that it gives to the detector, which its seconds grow with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

TRAINING_PASSES = 3.0  # a view that is trained on against one of val: the backward pass is as long as two forward


def views_of_epoch(data: Mapping[str, Any], tile_px: int) -> tuple[int, int]:
    """Views of an epoch of training and of val, with tiles of this side or the nearest that were counted.

    Args:
        data: of the journal's first line. Those of searches before there were tiles count photographs alone.
    """
    counted: Mapping[str, tuple[int, int]] = data.get("views", {})
    images = data.get("images", {})
    whole = images.get("train", 1), images.get("val", 1)
    if not tile_px or not counted:
        return whole
    nearest = min(counted, key=lambda side: abs(math.log(int(side) / tile_px)) if int(side) else math.inf)
    trained, evaluated = counted[nearest]
    return trained, evaluated


def epoch_px(data: Mapping[str, Any], *, image_size: tuple[int, int], tile_px: int) -> float:
    """Pixels of an epoch, those of training three times; comparable between configurations of one search."""
    trained, evaluated = views_of_epoch(data, tile_px)
    return math.prod(image_size) * (TRAINING_PASSES * trained + evaluated)
