"""Why this box: heat over a photograph that shows what speaks for one detection, and how far to trust it.

Called by ``vqc explain``. Symbols: N images in a batch, [H, W] the detector's fixed size, m detections on an image. All
pictures here are already fitted: uint8 [H, W, 3] RGB; boxes are xyxy in their pixels; heat is float32 [H, W] in 0..1.

Two methods, after

- Grad-CAM (Selvaraju et al., ICCV 2017) on the maps of the feature pyramid, by the library pytorch-grad-cam. Averaging
  the gradient over a whole map, as the paper does for one class an image, lights up every defect of the class; here
  each cell keeps its own gradient (HiResCAM, Draelos and Carin 2020; for detectors ODAM, Zhao and Chan, ICLR 2023).
- D-RISE (Petsiuk et al., CVPR 2021): the photograph is masked at random many times; what is kept in the masks under
  which the detection survives, speaks for it. It asks nothing of the detector but its detections. We depart from the
  paper in three points: detectors here return one class and its score and no vector of probabilities, so the
  similarity of classes is 1 or 0; what is masked is blurred instead of black, for a black edge looks like a scratch;
  and the heat is a covariance (see ``drise``).

How far to trust a map is measured by deletion and insertion (Petsiuk et al., BMVC 2018): see ``faithfulness``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqc.seeding import stream_seed

__all__ = ["Faithfulness", "Found", "Target", "blurred", "drise", "exported_finder", "faithfulness", "grad_cam",
           "similarity", "torch_finder"]  # fmt: skip

Pixels = NDArray[np.uint8]
Heat = NDArray[np.float32]

GRID = 16  # cells of a mask along each side, as in D-RISE
KEPT = 0.5  # chance of a cell to be kept, as in D-RISE
BATCH = 16
STEPS = 16  # of deletion and of insertion, each an equal share of the area
CONTROLS = 4  # displaced copies that a map must beat
BLUR = 1 / 8  # standard deviation of what replaces removed pixels, as a share of the longer side


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Detections on one fitted image: boxes float32 [m, 4], scores float32 [m] in 0..1, labels int64 [m] in 1..C."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """The detection to explain; ``box`` float32 [4], ``label`` in 1..C."""

    box: NDArray[np.float32]
    label: int


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """What becomes of the detection when pixels go or come in the order of a map, hottest first.

    Attributes:
        deletion: mean share of its score that is left while pixels are removed, in 0..1; low is good.
        insertion: the same while they come back into a blurred image; high is good.
        beaten: copies of the map moved elsewhere whose insertion less deletion is lower than its own.
        controls: such copies.
        blank: share of the score that the wholly blurred image has; near 1 nothing can be told.
    """

    deletion: float
    insertion: float
    beaten: int
    controls: int
    blank: float

    @property
    def trusted(self) -> bool:
        """Whether the map shows more of what matters than the same heat in any other place tried."""
        return self.beaten == self.controls


Finder = Callable[[NDArray[np.uint8]], list[Found]]  # uint8 [N, H, W, 3] -> N


def torch_finder(model: nn.Module) -> Finder:
    """A model as a function of a batch of fitted images, in float32, on the device where it is."""
    device = next(model.parameters()).device

    def find(images: Pixels) -> list[Found]:
        with torch.inference_mode():
            outputs = model.eval()(_batch(images).to(device))
        plain = [{name: tensor.cpu().numpy() for name, tensor in output.items()} for output in outputs]
        return [_found(one["boxes"], one["scores"], one["labels"]) for one in plain]

    return find


def exported_finder(raw: Callable[[Pixels], tuple[Any, Any, Any]]) -> Finder:
    """``OnnxDetector.raw``, which takes one fitted image, as a function of a batch."""

    def find(images: Pixels) -> list[Found]:
        return [_found(*raw(image)) for image in images]

    return find


def _found(boxes: NDArray[np.float32], scores: NDArray[np.float32], labels: NDArray[np.int64]) -> Found:
    own = labels > 0  # torchvision's FCOS and RetinaNet score a class "background" too
    return Found(boxes=boxes[own], scores=scores[own], labels=labels[own])


def similarity(target: Target, found: Found) -> float:
    """How much of the target is still found, 0..1: the largest overlap times score of its label.

    D-RISE's similarity (eq. 2), with classes that agree or do not.
    """
    own = found.labels == target.label
    if not own.any():
        return 0.0
    return float((_overlaps(target.box, found.boxes[own]) * found.scores[own]).max())


def grad_cam(model: nn.Module, image: Pixels, target: Target) -> Heat | None:
    """Heat of a detection on the map of the feature pyramid that it was read from.

    Args:
        model: any detector of this project; it is left in evaluation mode and otherwise as it was.

    Returns:
        None where the model finds nothing of the target's label that overlaps it, so that nothing can be told.
    """
    from pytorch_grad_cam import HiResCAM

    picture = _batch(image[None]).to(next(model.parameters()).device)
    score = _ScoreOf(target)
    with _tapped(model.eval()) as pyramid:
        (output,) = model(picture)
        chosen = score(output)
        if not chosen.requires_grad:
            return None
        level = pyramid.speaking_level(chosen)
        with HiResCAM(model=model, target_layers=[level]) as cam:
            heat = cam(picture, targets=[score])[0]
        model.zero_grad(set_to_none=True)
    return _stretched(heat)


class _ScoreOf:
    """The score of the detection that is the target, as a differentiable number."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def __call__(self, output: dict[str, Tensor]) -> Tensor:
        overlaps = _overlaps(self.target.box, output["boxes"].detach().cpu().numpy())
        overlaps[output["labels"].cpu().numpy() != self.target.label] = 0.0
        if not overlaps.any():
            return torch.zeros(())
        return output["scores"][int(overlaps.argmax())]


class _Pyramid(nn.Module):
    """A backbone whose maps each pass through a module of their own, so that the library can hook them one by one."""

    def __init__(self, backbone: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.taps = nn.ModuleDict({f"map-{name}": nn.Identity() for name in names})
        self.maps: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.backbone(x)
        self.maps = {name: self.taps[f"map-{name}"](values) for name, values in maps.items()}
        return OrderedDict(self.maps)

    def speaking_level(self, score: Tensor) -> nn.Module:
        """The map that the score was read from: the only one, or the one with most of the gradient."""
        gradients = torch.autograd.grad(score, list(self.maps.values()), allow_unused=True)
        weights = [0.0 if gradient is None else float(gradient.abs().sum()) for gradient in gradients]
        return self.taps[f"map-{list(self.maps)[int(np.argmax(weights))]}"]


@contextmanager
def _tapped(model: Any) -> Iterator[_Pyramid]:
    backbone = model.backbone
    with torch.inference_mode():
        weights = next(model.parameters())
        names = list(backbone(torch.zeros(1, 3, 64, 64, device=weights.device)))
    model.backbone = pyramid = _Pyramid(backbone, names).eval()
    try:
        yield pyramid
    finally:
        model.backbone = backbone


def drise(
    find: Finder, image: Pixels, targets: Sequence[Target], *, masks: int, seed: int, batch: int = BATCH
) -> list[Heat | None]:
    """Heat of each target from the same ``masks`` random masks; None where none of them left anything of it.

    Args:
        seed: of the masks; equal seeds give equal heat.
        batch: images at a time.
    """
    height, width = image.shape[:2]
    rng = np.random.default_rng(stream_seed(seed, "masks"))
    background = blurred(image)
    weighted = np.zeros((len(targets), height, width))
    covered = np.zeros((height, width))
    total = np.zeros(len(targets))
    for start in range(0, masks, batch):
        some = _masks(rng, min(batch, masks - start), height=height, width=width)
        found = find(_blended(image, background, some))
        weights = np.array([[similarity(target, one) for one in found] for target in targets])
        weighted += np.tensordot(weights, some, axes=1)
        covered += some.sum(axis=0)
        total += weights.sum(axis=1)
    # The covariance of a pixel's mask with the weights instead of the paper's weighted sum: by chance some pixels are
    # kept more often than others, and a detector that does not care would paint those.
    heat = weighted - total[:, None, None] / masks * covered
    return [_stretched(one) if weight > 0 else None for one, weight in zip(heat, total, strict=True)]


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


def faithfulness(find: Finder, image: Pixels, target: Target, heat: Heat, *, seed: int) -> Faithfulness | None:
    """Deletion and insertion of a map, beside copies of it that were moved to other places of the image.

    The share of the score is ``similarity`` relative to that on the whole image, at most 1. A copy has the same heat in
    the same shape, so it removes as many pixels in as many pieces: what the map does better is due to its place.

    Returns:
        None where the detector does not find the target on the whole image.
    """
    (whole,) = find(image[None])
    full = similarity(target, whole)
    if full == 0:
        return None
    rng = np.random.default_rng(stream_seed(seed, "controls"))
    height, width = heat.shape
    moves = [(int(rng.integers(height // 4, 3 * height // 4)), int(rng.integers(width // 4, 3 * width // 4)))
             for _ in range(CONTROLS)]  # fmt: skip
    (deletion, insertion, blank), *copies = [
        _curves(find, image, target, np.roll(heat, move, axis=(0, 1)), full) for move in [(0, 0), *moves]
    ]
    beaten = sum(inserted - deleted < insertion - deletion for deleted, inserted, _ in copies)
    return Faithfulness(deletion=deletion, insertion=insertion, beaten=beaten, controls=CONTROLS, blank=blank)


def _curves(find: Finder, image: Pixels, target: Target, heat: Heat, full: float) -> tuple[float, float, float]:
    """Areas under the curves of deletion and insertion, and the share left on the wholly blurred image."""
    background = blurred(image)
    rank = np.empty(heat.size, np.int64)
    rank[np.argsort(-heat, axis=None, kind="stable")] = np.arange(heat.size)
    bounds = np.linspace(0, heat.size, STEPS + 1)
    first = (rank[None] < bounds[:, None]).reshape(-1, *heat.shape).astype(np.float32)  # [steps + 1, H, W]
    areas, blank = [], 0.0
    for kept in (1 - first, first):
        shares = []
        for start in range(0, len(kept), BATCH):
            found = find(_blended(image, background, kept[start : start + BATCH]))
            shares += [min(1.0, similarity(target, one) / full) for one in found]
        areas.append((sum(shares) - (shares[0] + shares[-1]) / 2) / STEPS)  # trapezia
        blank = shares[0]
    return areas[0], areas[1], blank


def blurred(image: Pixels) -> Pixels:
    """What stands for removed pixels: the image without anything as small as a defect."""
    import cv2

    return np.asarray(cv2.GaussianBlur(image, (0, 0), BLUR * max(image.shape[:2])))


def _blended(image: Pixels, background: Pixels, kept: Heat) -> Pixels:
    """[n, H, W, 3]: the image where a mask is 1, the background where it is 0."""
    share = kept[..., None]
    return np.asarray(share * image + (1 - share) * background).round().astype(np.uint8)


def _overlaps(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union of one box with [m, 4] others; 0 where both are empty."""
    one, others = box.astype(np.float64), boxes.astype(np.float64)
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    shared = np.maximum(sides, 0).prod(axis=1)
    union = (one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _stretched(heat: NDArray[np.floating[Any]]) -> Heat | None:
    """Heat below 0 cut off and the rest scaled to 0..1; None where nothing is above 0."""
    positive = np.maximum(heat, 0).astype(np.float32)
    top = float(positive.max())
    return positive / top if top > 0 else None


def _batch(images: Pixels) -> Tensor:
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
