"""The gradient of a batch's loss, computed in as many parts as memory needs.

Where a detector averages its loss over a count c (a term is a sum divided by max(1, c)), a batch in parts p has

    L = sum_p L_p * max(1, c_p) / max(1, sum_p c_p)

where c is, by detector (read in torchvision 0.29):

- RetinaNet: images. Each image's terms are averaged over the images of the batch; the sum above is exact.
- Faster R-CNN: sampled anchors and proposals, as many for every image that fills its quota; images serve as the count,
  exact where all images fill it. What is sampled differs from the whole batch's draw, as any two draws do.
- FCOS, SSD: foreground cells of the batch; counted while the loss is computed, exact.

Batch norm that trains, only in detectors without pretrained weights (``vqc.models.norms``), sees each part's statistics
instead of the batch's, as it does on several GPUs ("ghost batch norm", Hoffer et al. 2017, section 4). Frozen batch
norm and group norm see no difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vqc.data.loader import Batch
from vqc.errors import NonFiniteLossError
from vqc.hardware.memory import MicroBatch, Rollback
from vqc.hardware.precision import Precision
from vqc.models.build import loss_count
from vqc.training.state import LoopState


class GradientAccumulation:
    """Computes the gradients of a run's batches, whole or in parts; ``micro`` is how many images at once."""

    def __init__(self, state: LoopState, precision: Precision) -> None:
        self.micro = MicroBatch(size=state.info.config.batch_size)
        self._state, self._precision = state, precision
        self._rollback = Rollback(state.model, precision.device)

    def add(self, batch: Batch, *, share: float = 1.0) -> dict[str, Tensor]:
        """Add ``share`` times the (scaled) gradient of the batch's loss to the parameters' gradients.

        Runs the same batch again in smaller parts where memory runs out; the gradient is added once, whole.

        Returns:
            The batch's loss terms and their ``total``, scalars on the device, detached.

        Raises:
            InfeasibleError: one image alone does not fit.
            NonFiniteLossError: a loss is NaN or infinite.
        """
        parameters = self._state.trainable
        before = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
        self._rollback.save()

        def attempt(size: int) -> dict[str, Tensor]:
            for parameter in parameters:
                parameter.grad = None
            return self._in_parts(batch.parts(size), share)

        terms = self.micro.fitted(
            attempt, images=len(batch.indices), what="a training step", undo=self._rollback.restore
        )
        for parameter, gradient in before:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return terms

    def _in_parts(self, parts: Sequence[Batch], share: float) -> dict[str, Tensor]:
        state, sums, counted, reference = self._state, dict[str, Tensor](), 0.0, 1.0
        for part in parts:
            there = part.to(self._precision.device)
            with self._precision.autocast():
                terms = state.model(there.images, there.targets)
                terms["total"] = torch.stack(list(terms.values())).sum()
            # The CPU waits for the GPU here, once a part: a loss that is not finite must not reach the weights.
            if not math.isfinite(terms["total"].item()):
                raise self._not_finite(terms)
            if len(parts) == 1:
                state.scaler.scale(terms["total"] * share).backward()
                return {name: term.detach() for name, term in terms.items()}
            count = float(loss_count(state.model))  # waits too, as any detector's loss does when it counts
            weight = max(1.0, count)
            if not sums:
                reference = weight * len(parts)  # near the batch's count: float16 then holds gradients near their size
            state.scaler.scale(terms["total"] * (share * weight / reference)).backward()
            counted += count
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term.detach() * weight
        whole = max(1.0, counted)
        for parameter in state.trainable:
            if parameter.grad is not None:
                parameter.grad.mul_(reference / whole)
        return {name: term / whole for name, term in sums.items()}

    def _not_finite(self, terms: dict[str, Tensor]) -> NonFiniteLossError:
        return NonFiniteLossError(
            step=self._state.step + 1,
            losses={name: term.item() for name, term in terms.items() if name != "total"},
            learning_rate=self._state.optimizer.param_groups[0]["lr"],
            scale=self._state.scaler.get_scale(),
        )
