"""A simulated GPU: while it is entered, any detector runs out of memory where the test says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Set
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook


def out_of_memory() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Card:
    """Use it as a context.

    Args:
        images: that fit into a training step.
        failures: point -> which of its occurrences run out although there is room; the points are ``forward``,
            ``backward``, ``evaluation`` and ``optimiser``.

    Attributes:
        steps: the sizes of the training forward passes, in order.
        gradients: at each optimiser step, as one vector.
        failed: how often each point ran out; under ``one image`` those that could not be made smaller.
    """

    def __init__(self, *, images: float = math.inf, failures: Mapping[str, Set[int]] | None = None) -> None:
        self._images, self._failures = images, failures or {}
        self.steps: list[int] = []
        self.gradients: list[torch.Tensor] = []
        self.failed: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()

    def __enter__(self) -> Card:
        with ExitStack() as stack:
            stack.callback(register_module_forward_pre_hook(self._before_forward).remove)
            stack.callback(register_module_forward_hook(self._after_forward).remove)
            stack.callback(register_optimizer_step_pre_hook(self._before_step).remove)
            self._undo = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _before_forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not hasattr(module, "transform"):  # a part of a detector
            return
        images = len(inputs[0])
        if module.training:
            self.steps.append(images)
        self._meet("forward" if module.training else "evaluation", images)
        if module.training and images > self._images:
            raise out_of_memory()

    def _after_forward(self, module: nn.Module, inputs: tuple[Any, ...], terms: Any) -> None:
        if hasattr(module, "transform") and module.training:
            images = len(inputs[0])
            next(iter(terms.values())).register_hook(lambda _: self._meet("backward", images))

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self._meet("optimiser", 1)  # it is not computed in parts, so nothing smaller can be tried
        gradients = [
            p.grad.reshape(-1) for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        self.gradients.append(torch.cat(gradients))

    def _meet(self, point: str, images: int) -> None:
        occurrence, self._seen[point] = self._seen[point], self._seen[point] + 1
        if occurrence in self._failures.get(point, ()):
            self.failed[point] += 1
            self.failed["one image"] += images == 1
            raise out_of_memory()
