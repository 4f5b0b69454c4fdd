"""Saliency: heat over a photograph that shows which pixels a detection depends on, and how far to trust it.

Used by ``vqc explain``. Symbols: N images in a batch, [H, W] the detector's fixed size, m detections on an image. All
pictures here are already fitted: uint8 [H, W, 3] RGB; boxes are xyxy in their pixels; heat is float32 [H, W] in 0..1.

D-RISE (Petsiuk et al., CVPR 2021): the photograph is masked at random many times; pixels that were kept whenever the
detection was still found are hot. It needs nothing of the detector but its detections. We depart from the paper in
three points: detectors here return one class and its score and no vector of probabilities, so the similarity of classes
is 1 or 0; what is masked is blurred instead of black, because a black edge looks like a scratch; and the heat is a
covariance. How far to trust a map is measured by deletion and insertion (Petsiuk et al., BMVC 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqc.boxes import iou
from vqc.inference.detections import Detections
from vqc.inference.predictor import Backend
from vqc.seeding import stream_seed

Pixels = NDArray[np.uint8]
Heat = NDArray[np.float32]

GRID = 16  # cells of a mask along each side, as in D-RISE
KEPT = 0.5  # chance of a cell to be kept, as in D-RISE
BATCH = 16
STEPS = 16  # of deletion and of insertion, each an equal share of the area
CONTROLS = 19  # displaced copies that a map must beat: a map of no use does so in 1 case of 20
BLUR = 1 / 8  # standard deviation of what replaces removed pixels, as a share of the longer side


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """What becomes of the detection when pixels are removed or restored in the order of a map, hottest first."""

    deletion: float  # mean share of its score that is left while pixels are removed, in 0..1; low is good
    insertion: float  # the same while they are restored in a blurred image; high is good
    beaten: int  # displaced copies of the map whose insertion minus deletion is lower than its own
    controls: int  # such copies
    blank: float  # share of the score that the wholly blurred image has; near 1 the figures say nothing

    @property
    def p_value(self) -> float:
        """Chance that a map whose place has nothing to do with the detection beats as many copies or more."""
        return (1 + self.controls - self.beaten) / (1 + self.controls)

    @property
    def trusted(self) -> bool:
        """Whether the map does better than every displaced copy: a p-value of 1/20 with 19 copies."""
        return self.beaten == self.controls


def similarity(targets: Detections, found: Detections) -> NDArray[np.float64]:
    """How much of each of m targets is still found, [m] in 0..1: the largest overlap times score of its label.

    D-RISE's similarity (eq. 2), with classes that agree or do not.
    """
    alike = iou(targets.boxes, found.boxes) * found.scores * (targets.labels[:, None] == found.labels)
    return np.asarray(alike.max(axis=1, initial=0.0))


def drise(
    detect: Backend, image: Pixels, targets: Detections, *, masks: int, seed: int, batch: int = BATCH
) -> list[Heat | None]:
    """Heat of each target from the same ``masks`` random masks; None where none of them left anything of it.

    Equal seeds give equal heat, whatever the ``batch`` of images at a time.
    """
    height, width = image.shape[:2]
    rng = np.random.default_rng(stream_seed(seed, "masks"))
    background = blurred(image)
    weighted = np.zeros((len(targets), height, width))
    covered = np.zeros((height, width))
    total = np.zeros(len(targets))
    for start in range(0, masks, batch):
        some = _masks(rng, min(batch, masks - start), height=height, width=width)
        found = detect(_blended(image, background, some))
        weights = np.stack([similarity(targets, one) for one in found], axis=1)
        weighted += np.tensordot(weights, some, axes=1)
        covered += some.sum(axis=0)
        total += weights.sum(axis=1)
    # The covariance of a pixel's mask with the weights instead of the paper's weighted sum: by chance some pixels are
    # kept more often than others, and a detector that does not care would paint those.
    heat = weighted - total[:, None, None] / masks * covered
    return [stretched(one) if weight > 0 else None for one, weight in zip(heat, total, strict=True)]


def _masks(rng: np.random.Generator, count: int, *, height: int, width: int) -> Heat:
    """Soft random masks [count, H, W] in 0..1: a coarse random grid, enlarged and shifted (RISE, section 3.2)."""
    import cv2

    cell_h, cell_w = -(-height // GRID), -(-width // GRID)
    masks = np.empty((count, height, width), np.float32)
    for mask in masks:
        coarse = (rng.random((GRID + 1, GRID + 1)) < KEPT).astype(np.float32)
        smooth = cv2.resize(coarse, ((GRID + 1) * cell_w, (GRID + 1) * cell_h), interpolation=cv2.INTER_LINEAR)
        top, left = int(rng.integers(cell_h)), int(rng.integers(cell_w))
        mask[:] = smooth[top : top + height, left : left + width]
    return masks


def faithfulness(
    detect: Backend, image: Pixels, target: Detections, heat: Heat, *, inner: tuple[int, int], seed: int
) -> Faithfulness | None:
    """Deletion and insertion of a map, beside copies of it that are displaced over the photograph.

    The share of the score is ``similarity`` relative to that on the whole image, at most 1. A copy has the same heat in
    the same shape, so it removes as many pixels in as many pieces: what the map does better is due to its place. The
    displacements are uniform over the photograph, which is closed to a ring in both directions: a map in a random place
    is then one of 20 alike, and beats its 19 copies with a chance of 1/20 (a permutation test; ties count against it).
    About 600 images are given to the detector.

    Args:
        inner: height and width of the photograph inside the fitted image; the padding stays where it is.

    Returns:
        None where the detector does not find the target on the whole image.
    """
    background = blurred(image)
    full, left = (float(similarity(target, found)[0]) for found in detect(np.stack([image, background])))
    if full == 0:
        return None
    blank = min(1.0, left / full)
    rng = np.random.default_rng(stream_seed(seed, "controls"))
    rows, columns = inner
    shifts = 1 + rng.choice(max(1, rows * columns - 1), CONTROLS)  # 0 would be the map itself
    sums = []
    for shift in (0, *shifts.tolist()):
        moved = heat.copy()
        moved[:rows, :columns] = np.roll(heat[:rows, :columns], divmod(shift, columns), axis=(0, 1))
        blends = _removed(image, background, moved)
        found = [one for at in range(0, len(blends), BATCH) for one in detect(blends[at : at + BATCH])]
        shares = np.minimum(1.0, [similarity(target, one)[0] / full for one in found])
        sums.append(shares.reshape(2, -1).sum(axis=1))
    # Trapezia: one end is the whole image, the other the blurred one.
    deletion, insertion = ((1 + blank) / 2 + np.array(sums).T) / STEPS
    gains = insertion - deletion
    return Faithfulness(
        deletion=float(deletion[0]),
        insertion=float(insertion[0]),
        beaten=int((gains[1:] < gains[0]).sum()),
        controls=CONTROLS,
        blank=blank,
    )


def _removed(image: Pixels, background: Pixels, heat: Heat) -> Pixels:
    """[2 * (STEPS - 1), H, W, 3]: with 1, 2, ... shares of the pixels removed, and with as many restored."""
    rank = np.empty(heat.size, np.int64)
    rank[np.argsort(-heat, axis=None, kind="stable")] = np.arange(heat.size)
    bounds = np.linspace(0, heat.size, STEPS + 1)[1:-1]
    hottest = (rank[None] < bounds[:, None]).reshape(-1, *heat.shape).astype(np.float32)
    return _blended(image, background, np.concatenate([1 - hottest, hottest]))


def blurred(image: Pixels) -> Pixels:
    """What stands for removed pixels: the image without anything as small as a defect."""
    import cv2

    return np.asarray(cv2.GaussianBlur(image, (0, 0), BLUR * max(image.shape[:2])))


def _blended(image: Pixels, background: Pixels, kept: Heat) -> Pixels:
    """[n, H, W, 3]: the image where a mask is 1, the background where it is 0."""
    share = kept[..., None]
    return np.asarray(share * image + (1 - share) * background).round().astype(np.uint8)


def stretched(heat: NDArray[Any]) -> Heat | None:
    """Heat below 0 cut off and the rest scaled to 0..1; None where nothing is above 0."""
    positive = np.maximum(heat, 0).astype(np.float32)
    top = float(positive.max())
    return positive / top if top > 0 else None
