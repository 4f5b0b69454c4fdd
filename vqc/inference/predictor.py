"""The one way from a picture to its detections, whatever runs the detector.

Prediction, evaluation, explanation, latency and the parity check all use a ``Predictor``, which
``vqc.inference.model_file`` makes of a file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from vqc.data.image_io import DecodedPicture, decode_to_fit
from vqc.data.tiles.views import TilePlan, View, decoded_for, view_pixels, views_of
from vqc.inference.calibration import Calibration
from vqc.inference.detections import Detections
from vqc.inference.merging import merge_with_views

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn


class Backend(Protocol):
    """A detector on images that are fitted already: uint8 [N, H, W, 3] RGB -> N detections in pixels of these."""

    @property
    def device(self) -> str:
        """Where it runs at present, such as "CPU, 2 threads" or the name of a GPU."""

    def __call__(self, images: NDArray[np.uint8]) -> list[Detections]: ...


VIEWS_AT_ONCE = 16  # tiles in memory beside the photograph


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """A detector and what a user of it must know."""

    detect_fitted: Backend  # raw scores
    architecture: str
    categories: tuple[tuple[int, str], ...]  # id and name in the training annotations, in the order of the labels 1..C
    image_size: tuple[int, int]  # height and width in pixels that images are fitted to
    fingerprint: str  # of the data it was trained on
    epoch: int  # finished epochs of its training
    weights_sha256: str  # in hex; equal in a file of weights and the ONNX file exported from them
    tiles: TilePlan | None = None  # how photographs are cut; None: not at all
    calibration: Calibration | None = None
    model: nn.Module | None = None  # for gradients; None for an ONNX file

    @property
    def decoded_for(self) -> tuple[int, int] | None:
        """As ``vqc.data.tiles.views.decoded_for``."""
        return decoded_for(self.image_size, self.tiles)

    def decode(self, picture: bytes | Image) -> DecodedPicture:
        """An upright photograph for ``detect``, with no more pixels than it needs; as of ``decode_to_fit``."""
        return decode_to_fit(picture, self.decoded_for, rotate=True)

    def detect(self, photograph: DecodedPicture, *, image_id: int = 0) -> Detections:
        """Detections in pixels of the photograph, which ``decode`` gives or which is whole; scores are calibrated where
        a calibration is known.
        """
        return self.detect_with_views(photograph, image_id=image_id)[0]

    def detect_with_views(self, photograph: DecodedPicture, *, image_id: int = 0) -> tuple[Detections, list[View]]:
        """As ``detect``, and the view on which each detection was found."""
        width, height = photograph.size
        views = views_of(width, height, self.image_size, self.tiles)
        found: list[Detections] = []
        for at in range(0, len(views), VIEWS_AT_ONCE):
            fitted = [view_pixels(photograph.pixels, view, self.image_size) for view in views[at : at + VIEWS_AT_ONCE]]
            found += self.detect_fitted(np.stack(fitted))
        pairs = list(zip(views, found, strict=True))
        merged, seen_on = merge_with_views(pairs, image_id=image_id, width=width, height=height)
        return self.calibrated(merged), seen_on

    def calibrated(self, raw: Detections) -> Detections:
        """The same detections with calibrated scores where a calibration is known."""
        return raw if self.calibration is None else self.calibration.calibrated(raw)

    def category(self, label: int) -> tuple[int, str]:
        """Id and name of a label in 1..C."""
        return self.categories[label - 1]


def spared_threads() -> int:
    """One thread less than there are cores, at least one.

    Two threads that share a core with something else wait for each other, fifty times longer than alone.
    """
    return max(1, (os.cpu_count() or 1) - 1)


def cpu_label(threads: int) -> str:
    """A CPU as reports name it: "CPU, 1 thread"."""
    return f"CPU, {threads} thread{'s' * (threads != 1)}"
