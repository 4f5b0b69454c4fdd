"""The gradient of a batch's loss, computed in as many parts as memory needs.

Where a detector averages its loss over a count c (a term is a sum divided by max(1, c)), a batch in parts p has

    L = sum_p L_p * max(1, c_p) / max(1, sum_p c_p)

where c is, by detector (read in torchvision 0.29):

- RetinaNet: images. Each image's terms are averaged over the images of the batch; the sum above is exact.
- Faster R-CNN: sampled anchors and proposals, as many for every image that fills its quota; images serve as the count,
  exact where all images fill it. What is sampled differs from the whole batch's draw, as any two draws do.
- FCOS, SSD: foreground cells of the batch; counted while the loss is computed, exact.

Batch norm that trains (see ``vqc.models.build``) sees each part's statistics instead of the batch's, as it does on
several GPUs ("ghost batch norm", Hoffer et al. 2017, section 4). Frozen batch norm and group norm see no difference.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vqc.data.loader import Batch
from vqc.errors import NonFiniteLossError
from vqc.hardware.memory import MicroBatch, Rollback
from vqc.hardware.precision import Precision
from vqc.models.build import loss_count
from vqc.models.checkpoint import LoopState

__all__ = ["add_gradient", "clip_gradient"]

Gradients = list[tuple[nn.Parameter, Tensor]]


@dataclass(kw_only=True)
class _Sums:
    """Over the parts of a batch: each term times its count, and the counts."""

    terms: dict[str, Tensor]
    count: Tensor | float


def add_gradient(
    state: LoopState, batch: Batch, *, share: float, precision: Precision, micro: MicroBatch, rollback: Rollback
) -> dict[str, Tensor]:
    """Add ``share`` times the (scaled) gradient of the batch's loss to the parameters' gradients.

    Runs the same batch again in smaller parts where memory runs out; the gradient is added once, whole.

    Returns:
        The batch's loss terms and their ``total``, scalars on the device, detached.

    Raises:
        InfeasibleError: one image alone does not fit.
        NonFiniteLossError: a loss is NaN or infinite.
    """
    before = _taken(state.trainable)
    rollback.save()
    tries = itertools.count()

    def attempt(size: int) -> dict[str, Tensor]:
        for parameter in state.trainable:
            parameter.grad = None
        if next(tries):
            rollback.restore()
        return _in_parts(state, batch.parts(size), share=share, precision=precision)

    terms = micro.fitted(attempt, images=len(batch.indices), what="a training step")
    for parameter, gradient in before:
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    return terms


def clip_gradient(parameters: Sequence[nn.Parameter], most: float) -> Tensor:
    """Scale the gradient down to the norm ``most`` where it is longer; returns its norm before, on its device."""
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if norm.device.type != "cpu" or not norm <= most:  # a GPU would have to be waited for, and multiplies by 1 instead
        nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm


def _taken(parameters: Sequence[nn.Parameter]) -> Gradients:
    """The gradients of the batches before, of the same step; none unless gradients are accumulated."""
    return [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]


def _in_parts(state: LoopState, parts: Sequence[Batch], *, share: float, precision: Precision) -> dict[str, Tensor]:
    sums, reference = _Sums(terms={}, count=0.0), 1.0
    for part in parts:
        there = part.to(precision.device)
        with precision.autocast():
            terms = state.model(there.images, there.targets)
            total = torch.stack(list(terms.values())).sum()
        # The CPU waits for the GPU here, once a part: a loss that is not finite must not reach the weights.
        if not math.isfinite(total.item()):
            raise NonFiniteLossError(
                step=state.step + 1,
                losses={name: term.item() for name, term in terms.items()},
                learning_rate=state.optimizer.param_groups[0]["lr"],
                scale=state.scaler.get_scale(),
            )
        if len(parts) == 1:
            state.scaler.scale(total * share).backward()  # type: ignore[no-untyped-call]
            return {name: term.detach() for name, term in {**terms, "total": total}.items()}
        count = float(loss_count(state.model))  # waits too, as any detector's loss does when it counts
        weight = max(1.0, count)
        if not sums.terms:
            reference = weight * len(parts)  # near the batch's count, so that what float16 holds is near the true size
        state.scaler.scale(total * (share * weight / reference)).backward()  # type: ignore[no-untyped-call]
        sums.count += count
        for name, term in {**terms, "total": total}.items():
            sums.terms[name] = sums.terms.get(name, 0.0) + term.detach() * weight
    whole = max(1.0, float(sums.count))
    for parameter in state.trainable:
        if parameter.grad is not None:
            parameter.grad.mul_(reference / whole)
    return {name: term / whole for name, term in sums.terms.items()}
