"""How many trials share the GPU: what fits, and only as long as it is faster.

Asked by ``tune.execution.ray_backend`` for each trial under ``--gpus-per-trial auto``; reads the journal's table alone.
An image size runs alone first; then, where the memory that its epochs took leaves room for two (three) whole batches
side by side, two (three) are tried, and kept only if together they train more images per second.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from tune.history.table import Table
from vqc.config import TrainConfig
from vqc.hardware.gpu import CONTEXT_GB

MOST_TOGETHER = 3
GAIN = 0.1  # by which the sum must be faster; less does not pay for the later proposals knowing less
ROUNDING = 1e-6
STEADY = 0.2  # an epoch counts for k at a time if on average within this of k - 1 others ran beside it


class Packer:
    """Gives each trial its share of a GPU, and knows what is left.

    Args:
        table: of the search, kept up to date by its owner.
        budget_gb: memory of one GPU for all trials on it.
        gpus: that trials may run on.
    """

    def __init__(self, table: Table, *, budget_gb: float, gpus: float = 1.0) -> None:
        self._table, self._budget_gb, self._gpus = table, budget_gb, gpus
        self._shares: dict[str, float] = {}

    @property
    def has_room(self) -> bool:
        """Whether one more trial could start now; one that is proposed and must wait knows less than it could."""
        return sum(self._shares.values()) + 1 / MOST_TOGETHER <= self._gpus + ROUNDING

    def take(self, key: str, config: TrainConfig) -> float:
        """The share for a trial; held under the key until it is given back."""
        together = trials_together(config, self._table, budget_gb=self._budget_gb)
        self._shares[key] = 1 / together
        return 1 / together

    def give_back(self, key: str) -> None:
        """The trial under this key has left the GPU."""
        self._shares.pop(key, None)


def trials_together(config: TrainConfig, table: Table, *, budget_gb: float) -> int:
    """How many trials like this one should run at a time on a GPU; ``budget_gb`` is for all of them together."""
    measured = speedups(table, config.image_size)
    if 1 not in measured:
        return 1
    best, needed_gb = 1, _needed_gb(config, table)
    for together in range(2, MOST_TOGETHER + 1):
        if needed_gb is None or needed_gb + CONTEXT_GB > budget_gb / together:
            break
        if together not in measured:
            return together
        if measured[together] < measured[best] * (1 + GAIN):
            break
        best = together
    return best


def speedups(table: Table, image_size: tuple[int, int]) -> dict[int, float]:
    """Trials at a time -> images per second of them all, as a multiple of one alone; 1 is there once one ran alone."""
    rates: defaultdict[int, list[float]] = defaultdict(list)
    for together, epoch in _concurrency(list(_epochs(table))):
        if epoch.image_size == image_size:
            rates[together].append(epoch.images_per_s)
    if 1 not in rates:
        return {}
    alone = median(rates[1])
    return {together: together * median(some) / alone for together, some in sorted(rates.items())}


def _needed_gb(config: TrainConfig, table: Table) -> float | None:
    """GPU memory in GiB that suffices for a trial with whole batches; None where no trial like it was measured.

    A peak is a fixed part and a part for each image computed at once. So it suffices for a smaller batch as it is, and
    for a larger one in proportion to the images.
    """
    sufficient_gb = [
        max(
            (report.peak_vram_gb or 0.0) * max(1.0, config.batch_size / (report.micro_batch or trial.config.batch_size))
            for report in trial.reports
        )
        for trial in table.trials.values()
        if _memory_kind(trial.config) == _memory_kind(config)
        and any(report.peak_vram_gb is not None for report in trial.reports)
    ]
    return min(sufficient_gb, default=None)


def _memory_kind(config: TrainConfig) -> tuple[object, ...]:
    """All that decides the memory of a step besides the batch size."""
    return config.model, config.weights, config.image_size, config.gpu_optimization


@dataclass(frozen=True, kw_only=True)
class _Epoch:
    from_s: float
    to_s: float
    image_size: tuple[int, int]
    images_per_s: float  # evaluation's time included: it takes its part of the GPU too


def _epochs(table: Table) -> Iterator[_Epoch]:
    for trial in table.trials.values():
        for report in trial.reports:
            if report.measured_ms is None or report.epoch_s <= 0:
                continue
            to_s = report.measured_ms / 1000
            yield _Epoch(
                from_s=to_s - report.epoch_s,
                to_s=to_s,
                image_size=trial.config.image_size,
                images_per_s=report.images_per_s * report.train_s / report.epoch_s,
            )


def _concurrency(epochs: list[_Epoch]) -> Iterator[tuple[int, _Epoch]]:
    """Each epoch with the number of trials that ran while it did, itself included; without those where it changed."""
    epochs.sort(key=lambda epoch: epoch.from_s)
    begins = [epoch.from_s for epoch in epochs]
    longest_s = max((epoch.to_s - epoch.from_s for epoch in epochs), default=0.0)
    for epoch in epochs:
        first = bisect.bisect_left(begins, epoch.from_s - longest_s)
        near = epochs[first : bisect.bisect_right(begins, epoch.to_s)]
        shared_s = sum(
            max(0.0, min(epoch.to_s, other.to_s) - max(epoch.from_s, other.from_s))
            for other in near
            if other is not epoch
        )
        others = shared_s / (epoch.to_s - epoch.from_s)
        if abs(others - round(others)) <= STEADY:
            yield 1 + round(others), epoch
