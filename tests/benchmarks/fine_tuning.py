"""One training beside a plain torchvision fine-tuning of the same detector for twice the seconds; a table in Markdown.

    python tests/benchmarks/fine_tuning.py --data ../shared/data/deeppcb-mini --seconds 600 --out fine.jsonl

Both begin with the same detector and weights, on one thread. The plain side is what torchvision's references do for
detectors: SGD with momentum 0.9 and weight decay 5e-4, a linear warm-up over the first epoch, the rate divided by ten
after 16 and 22 of 26 epochs, horizontal flips, batch norm trained, and its detection tutorial's rate, 0.005. Ours is
the CPU's recipe, on whole photographs at the same size, and on tiles. Figures are of test, by the same scorer, after
the last epoch. CPU seconds of training; no side's include an evaluation of all of val. Each finished row is a line in
``--out``; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR, MultiStepLR, SequentialLR

from tests.benchmarks.step import as_plain, plain_model
from tests.benchmarks.tiles import configured, trained
from vqc.config import TrainConfig
from vqc.data.dataset import Data, load_data
from vqc.data.loader import FittedImages, training_batches
from vqc.evaluation.coco_metrics import coco_scores
from vqc.evaluation.evaluate import detections_on
from vqc.files import LineFile, whole_lines
from vqc.inference.torch_backend import torch_predictor
from vqc.models.build import build_detector
from vqc.models.checkpoint import ModelInfo
from vqc.models.registry import ARCHITECTURES

MODEL = "fcos_lite0"
DROPS = (16 / 26, 22 / 26)  # shares of the epochs after which torchvision's references divide the rate by ten
PLAIN = {"horizontal_flip": 0.5, "vertical_flip": 0.0, "brightness": 0.0, "contrast": 0.0}
COLUMNS = ("row", "AP50", "AP", "epochs", "CPU s")


def plain(data: Data, seconds: float, cache: Path, *, size_px: int, rate: float) -> tuple[nn.Module, ModelInfo, float]:
    """The plain side's detector, ready for our scorer, and the CPU seconds that it took."""
    probe = plain_epochs(data, cache, size_px=size_px, rate=rate, epochs=100)
    next(probe)
    started_s = time.process_time()
    next(probe)
    epochs = max(1, round(seconds / (time.process_time() - started_s)))
    started_s = time.process_time()
    for model, config in plain_epochs(data, cache, size_px=size_px, rate=rate, epochs=epochs):
        trained_model, known = model, config
    spent_s = time.process_time() - started_s
    detector = build_detector(known, num_classes=len(data.categories), load_backbone=False)
    detector.load_state_dict(trained_model.state_dict())
    categories = tuple((category.id, category.name) for category in data.categories)
    info = ModelInfo(config=known, categories=categories, fingerprint=data.fingerprint, epoch=epochs)
    return detector.eval(), info, spent_s


def plain_epochs(data: Data, cache: Path, *, size_px: int, rate: float, epochs: int) -> Any:
    """Yields the detector and its settings after each epoch."""
    basis = configured(MODEL, size_px, tile_px=0, epochs=epochs)
    config = TrainConfig.model_validate({**basis.model_dump(), "augmentation": PLAIN})
    model = plain_model(config, len(data.categories))
    model.score_thresh = ARCHITECTURES[MODEL].score_threshold
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    images = FittedImages(data, "train", size=config.image_size, cache=cache)
    steps = config.steps_per_epoch(len(images))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    drops = MultiStepLR(optimizer, [round(share * epochs * steps) - steps for share in DROPS])
    warm_up = LinearLR(optimizer, start_factor=1e-3, total_iters=steps)
    schedule = SequentialLR(optimizer, [warm_up, drops], milestones=[steps])
    for epoch in range(1, epochs + 1):
        model.train()
        for batch in training_batches(images, config, epoch=epoch):
            loss = sum(model(*as_plain(batch)).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        yield model, config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines: read, and appended to")
    parser.add_argument("--seconds", type=float, default=600.0, help="CPU seconds of the plain side; ours has half")
    parser.add_argument("--size", type=int, default=448, help="px of the whole photograph")
    parser.add_argument("--tile", type=int, default=320, help="px of a tile, at its own scale")
    parser.add_argument("--rate", type=float, default=0.005, help="of the plain side")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data, cache = load_data(args.data), args.out.with_suffix(".cache")
    assert data.test is not None
    half = partial(trained, data, args.seconds / 2, cache, model=MODEL)
    rows: dict[str, Callable[[], tuple[nn.Module, ModelInfo, float]]] = {
        f"plain, {args.size} px, rate {args.rate:g}": partial(
            plain, data, args.seconds, cache, size_px=args.size, rate=args.rate
        ),
        f"ours, {args.size} px": partial(half, size_px=args.size, tile_px=0),
        f"ours, tiles of {args.tile} px": partial(half, size_px=args.tile, tile_px=args.tile),
    }
    with LineFile(args.out) as file:
        done = [json.loads(line) for line in whole_lines(args.out)]
        for name, make in rows.items():
            if all(row["row"] != name for row in done):
                model, info, cpu_s = make()
                scores = coco_scores(data.test, detections_on(torch_predictor(model, info), data, "test"))
                done.append({"row": name, "AP50": scores.ap50, "AP": scores.ap, "epochs": info.epoch, "CPU s": cpu_s})
                file.append(json.dumps(done[-1]))
    print(f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS), sep="\n")
    for row in done:
        print(f"| {row['row']} | {row['AP50']:.3f} | {row['AP']:.3f} | {row['epochs']} | {row['CPU s']:.0f} |")


if __name__ == "__main__":
    main()
