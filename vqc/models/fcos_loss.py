"""FCOS's loss for a whole batch at once.

After Tian et al., "FCOS: A simple and strong anchor-free object detector" (2020), section 3, with the choices of
torchvision's ``FCOS.compute_loss`` and ``FCOSHead.compute_loss``; a test compares values and gradients with theirs.
Those go image by image and wait for a GPU at every mask; here the batch is matched at once, and boxes are computed
for the foreground alone.

Called by ``vqc.models.build``. Symbols: N images, A cells over all levels, C classes with the background, M boxes on
the fullest image, F foreground cells. A cell is known by its square "anchor" around the cell's centre, as wide as the
level's stride.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.ops import generalized_box_iou_loss

__all__ = ["fcos_loss", "match_cells"]

LARGEST_AREA_PX2 = 1e8  # torchvision's: of several boxes the one is taken whose area is most below it
FOCAL_ALPHA = 0.25  # of cells with an object; gamma is 2, as a square
STRIDES_PER_LEVEL = (4, 8)  # a level is for boxes whose farthest side is so many strides away


def fcos_loss(
    outputs: Mapping[str, Tensor],
    targets: Sequence[Mapping[str, Tensor]],
    *,
    anchors: Tensor,
    cells_per_level: Sequence[int],
    radius: float,
) -> tuple[dict[str, Tensor], Tensor]:
    """The loss terms, each a sum divided by max(1, F), and F.

    Args:
        outputs: of the head: ``cls_logits`` [N, A, C], ``bbox_regression`` [N, A, 4] in strides from the cell's centre
            to the left, upper, right and lower side, ``bbox_ctrness`` [N, A, 1], a logit.
        targets: per image ``boxes`` [n, 4] xyxy pixels and ``labels`` int64 [n].
        anchors: [A, 4] xyxy pixels.
        radius: of a box's middle, in strides; only cells in it are foreground.

    Returns:
        Scalars ``classification``, ``bbox_regression`` and ``bbox_ctrness``; F, an int64 scalar on their device.
    """
    boxes, labels = _padded([one["boxes"] for one in targets]), _padded([one["labels"] for one in targets])
    matches = match_cells(boxes, anchors, cells_per_level=cells_per_level, radius=radius)
    image, cell = (matches >= 0).nonzero(as_tuple=True)  # a GPU is waited for here: F is a shape from now on
    match = matches[image, cell]
    of_cell, box = anchors[cell], boxes[image, match].to(anchors.dtype)

    truth = torch.zeros_like(outputs["cls_logits"], dtype=torch.bool)
    truth[image, cell, labels[image, match]] = True
    coder = BoxLinearCoder(normalize_by_size=True)
    predicted = coder.decode(outputs["bbox_regression"][image, cell], of_cell)
    count = torch.full((), len(cell), device=matches.device)
    terms = {
        "classification": _focal(outputs["cls_logits"].to(anchors.dtype), truth).sum(),
        "bbox_regression": generalized_box_iou_loss(predicted, box, reduction="sum"),
        "bbox_ctrness": binary_cross_entropy_with_logits(
            outputs["bbox_ctrness"][image, cell, 0], _centreness(coder.encode(of_cell, box)), reduction="sum"
        ),
    }
    return {name: term / max(1, len(cell)) for name, term in terms.items()}, count


def match_cells(boxes: Tensor, anchors: Tensor, *, cells_per_level: Sequence[int], radius: float) -> Tensor:
    """Which box each cell is to find: its position among the image's boxes, -1 for background; int64 [N, A].

    A cell is foreground where its centre lies inside a box and within ``radius`` strides of the box's middle, and its
    level is made for that size of box; of several boxes the smallest.

    Args:
        boxes: [N, M, 4] xyxy pixels, M at least 1; what is filled up with zeros matches nothing.
        anchors: [A, 4] xyxy pixels.
    """
    centre = (anchors[:, :2] + anchors[:, 2:]).T[:, None, None] / 2  # [2, 1, 1, A]
    stride = anchors[:, 2] - anchors[:, 0]
    sides = boxes.permute(2, 0, 1)[..., None]
    low, high = sides[:2], sides[2:]  # [2, N, M, 1] each
    near = (centre - (low + high) / 2).abs().amax(0) < radius * stride  # [N, M, A]
    after, before = centre - low, high - centre
    inside = torch.minimum(after, before).amin(0) > 0
    farthest = torch.maximum(after, before).amax(0)
    least, most = (factor * stride for factor in STRIDES_PER_LEVEL)
    least[: cells_per_level[0]] = 0
    most[-cells_per_level[-1] :] = torch.inf
    fits = (farthest > least) & (farthest < most)
    area_px2 = (high - low).prod(0)  # [N, M, 1]
    below = torch.where(near & inside & fits, LARGEST_AREA_PX2 - area_px2, 0)
    best, match = below.max(dim=1)
    return match.where(best > 0, -1)


def _focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Loss of each logit [N, A, C], after Lin et al., "Focal loss for dense object detection" (2017), equation 5.

    With z the logit where the truth is no and its negative where it is yes, 1 - p_t is sigmoid(z) and -log(p_t) is
    softplus(z): half the steps of the equation as it stands, and nothing that could overflow.
    """
    wrong = torch.where(truth, -logits, logits)
    weight = torch.where(truth, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    return weight * wrong.sigmoid().square() * softplus(wrong)


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """[N, M, ...], filled up with zeros; M is 1 where there is nothing at all."""
    return pad_sequence([*rows, rows[0].new_zeros(1, *rows[0].shape[1:])], batch_first=True)[:-1]


def _centreness(sides: Tensor) -> Tensor:
    """Equation 3 of the paper, [F] in 0..1, of the distances [F, 4] from cells to the four sides of their boxes."""
    opposite = sides.view(-1, 2, 2)  # left and upper, right and lower
    return (opposite.amin(1) / opposite.amax(1)).prod(-1).sqrt()
