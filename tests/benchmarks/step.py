"""How fast ``fit()`` steps beside a plain torchvision loop, detector by detector: a table in Markdown.

    python tests/benchmarks/step.py [--threads 1] [--blocks 5] [--models NAME ...]

Both sides train the same torchvision detector from the same weights, on the same images of the same size in the same
batches, in float32 with AdamW. What is timed is the step: both get batches that lie ready in memory (of ``fit()`` the
time it waits for batches is taken off; the other side's are made before the clock starts). The plain loop is what the
documentation shows: a list of float images and a list of targets, torchvision's own transform, forward, zero_grad,
backward, step; it neither clips the gradient nor looks whether the loss is finite, as ``fit()`` does. It runs in a
process of its own, so that nothing that ``fit()`` sets reaches it.

An epoch of ``fit()`` and as many plain steps alternate, so that a drift of the machine hits both; the table has the
medians of the blocks, and the median of the blocks' ratios. The first block of each side is not counted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torchvision.models import get_model

from vqc.config import TrainConfig
from vqc.data.dataset import load_data
from vqc.data.loader import Batch, FittedImages, training_batches
from vqc.data.synthetic import write_sample
from vqc.models.build import build_detector
from vqc.models.lite import STRIDES, light_detector
from vqc.training.loop import fit

Plain = tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A detector at a size that two cores train in seconds."""

    model: str
    image_size: int
    batch_size: int
    steps: int


CASES = (
    Case(model="fcos_tiny", image_size=128, batch_size=8, steps=6),
    Case(model="fcos_lite0", image_size=320, batch_size=4, steps=4),
    Case(model="ssdlite320_mobilenet_v3_large", image_size=320, batch_size=4, steps=4),
    Case(model="fasterrcnn_mobilenet_v3_large_320_fpn", image_size=320, batch_size=2, steps=2),
    Case(model="fasterrcnn_mobilenet_v3_large_fpn", image_size=320, batch_size=2, steps=2),
    Case(model="retinanet_resnet50_fpn", image_size=128, batch_size=2, steps=2),
    Case(model="retinanet_resnet50_fpn_v2", image_size=128, batch_size=2, steps=2),
    Case(model="fcos_resnet50_fpn", image_size=128, batch_size=2, steps=2),
    Case(model="fasterrcnn_resnet50_fpn", image_size=128, batch_size=2, steps=2),
    Case(model="fasterrcnn_resnet50_fpn_v2", image_size=128, batch_size=2, steps=2),
)


def configured(case: Case, *, blocks: int) -> TrainConfig:
    """Float32 and no augmentation: the pixels of both sides are equal."""
    return TrainConfig.model_validate(
        {
            "model": case.model,
            "weights": "none",
            "image_size": case.image_size,
            "batch_size": case.batch_size,
            "num_epochs": blocks,
            "augmentation": {"horizontal_flip": 0.0, "vertical_flip": 0.0, "brightness": 0.0, "contrast": 0.0},
            "gpu_optimization": {"mixed_precision": "float32"},
        }
    )


def plain_model(config: TrainConfig, num_classes: int) -> Any:
    """Torchvision's own detector with the weights that ``fit()`` begins with, told the size of its images."""
    if config.model in STRIDES:
        model: Any = light_detector(config, num_classes + 1, load_backbone=False)
        model.transform.min_size, model.transform.max_size = (config.image_size[0],), config.image_size[1]
    else:
        size = (
            {}
            if config.model.startswith("ssd")
            else {"min_size": config.image_size[0], "max_size": config.image_size[1]}
        )
        model = get_model(config.model, weights=None, weights_backbone=None, num_classes=num_classes + 1, **size)
    model.load_state_dict(build_detector(config, num_classes=num_classes).state_dict())
    return model.train()


def plain_batches(images: FittedImages, config: TrainConfig) -> list[Plain]:
    """The first epoch of ``fit()`` as torchvision wants it: float images in 0..1, [3, H, W]."""
    return [as_plain(batch) for batch in training_batches(images, config, epoch=1)]


def as_plain(batch: Batch) -> Plain:
    return [image.contiguous().float() / 255 for image in batch.images], [dict(target) for target in batch.targets]


def plain_step_s(model: Any, optimizer: torch.optim.Optimizer, batches: Sequence[Plain]) -> float:
    """Seconds of a step of the loop that the documentation shows."""
    started_s = time.perf_counter()
    for images, targets in batches:
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - started_s) / len(batches)


def run_plain(case: Case, data: Path, cache: Path, blocks: int, threads: int, out: Connection) -> None:
    """The other process: a block of plain steps at each request; answers with the seconds of a step."""
    torch.set_num_threads(threads)
    config, known = configured(case, blocks=blocks), load_data(data)
    model = plain_model(config, len(known.categories))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    batches = plain_batches(FittedImages(known, "train", size=config.image_size, cache=cache), config)
    while out.recv():
        out.send(plain_step_s(model, optimizer, batches))


def measured(case: Case, data: Path, cache: Path, *, blocks: int) -> Iterator[tuple[float, float]]:
    """Seconds of a step, of the plain loop and of ``fit()``, block by block."""
    config = configured(case, blocks=blocks)
    mine, theirs = multiprocessing.Pipe()
    arguments = (case, data, cache, blocks, torch.get_num_threads(), theirs)
    plain = multiprocessing.get_context("spawn").Process(target=run_plain, args=arguments)
    plain.start()
    for epoch in fit(config, load_data(data), cache=cache):
        own_s = (epoch.report.train_s - epoch.report.data_s) / case.steps
        mine.send(True)
        yield mine.recv(), own_s
    mine.send(False)
    plain.join()


def row(case: Case, folder: Path, *, blocks: int) -> str:
    images = {"train": case.steps * case.batch_size, "val": 2, "test": 1}
    data = write_sample(folder / case.model, images=images)
    _, *pairs = measured(case, data, folder / "cache", blocks=blocks + 1)
    plain_ms, own_ms = (1000 * statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(plain_s / own_s for plain_s, own_s in pairs)
    size = f"{case.image_size} px, {case.batch_size}"
    return f"| {case.model} | {size} | {plain_ms:.1f} | {own_ms:.1f} | {ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch; a trial without a GPU gets one")
    parser.add_argument("--blocks", type=int, default=5, help="pairs of blocks that are counted")
    parser.add_argument("--models", nargs="+", choices=[case.model for case in CASES], help="only these")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        "| detector | size, batch | plain loop, ms a step | fit(), ms a step | times as fast |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if args.models is None or case.model in args.models:
                print(row(case, Path(folder), blocks=args.blocks), flush=True)


if __name__ == "__main__":
    main()
