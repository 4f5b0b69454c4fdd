"""Seconds of an epoch at each image size and tile, measured on a few batches before a search begins (``--dry-run``).

Trains the default configuration by the loop that trains everything (``vqc.training.loop.fit``), on so few images that
it takes seconds, and takes nothing from it but the time.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch

from tune.reporting.eta import EpochCost
from tune.settings import SearchSettings, with_params
from tune.tile_choices import view_counts
from vqc.data.dataset import Data, Split
from vqc.errors import InfeasibleError
from vqc.hardware.memory import cap_vram
from vqc.training.loop import fit

BATCHES = 3
EPOCHS = 4  # the first one warms up and is not counted


def epoch_costs(
    settings: SearchSettings, data: Data, *, on_size: Callable[[int], object] = lambda size: None
) -> Iterator[EpochCost]:
    """Measure each size of the search on this machine, on whole photographs; ``on_size`` is called before each."""
    if torch.cuda.is_available():
        cap_vram(settings.vram_gb, share=1.0, device=torch.device("cuda", 0))
    count = BATCHES * settings.train.batch_size
    train, val = _few(data.train, count), _few(data.val, count)
    few = dataclasses.replace(data, train=train, val=val)
    views = view_counts(settings, data)
    for size in settings.image_sizes():
        on_size(size)
        sized = with_params(settings.train, {"image_size": size}) if "image_size" in settings.space else settings.train
        config = sized.model_copy(update={"num_epochs": EPOCHS, "tile_px": 0})  # a tile takes what a photograph takes
        try:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                reports = [epoch.report for epoch in fit(config, few, cache=Path(folder))][1:]
        except InfeasibleError:
            yield from (EpochCost(image_size=size, tile_px=int(side)) for side in views)
            continue
        train_s, eval_s = (median(getattr(report, part) for report in reports) for part in ("train_s", "eval_s"))
        for side, (trained, evaluated) in views.items():
            epoch_s = train_s * trained / len(train.images) + eval_s * evaluated / len(val.images)
            yield EpochCost(image_size=size, tile_px=int(side), epoch_s=epoch_s)


def _few(split: Split, count: int) -> Split:
    """So many images of the split, evenly spread over it, because neighbours are alike."""
    step = max(1, len(split.images) // count)
    return dataclasses.replace(split, images=split.images[::step][:count])
