"""Images per second and core that the input pipeline prepares, beside another one: a table in Markdown.

    python tests/benchmarks/input.py --data DIR [--peer FILE] [--sizes 320 512 640]

The peer is a Python file with ``make_dataset(root, split, size, train)``; without it only ours is measured. Both sides
prepare whole epochs of the train split in batches of 8 on one core, in turns, from images to what their detectors
take, with flips and brightness; the median of the rounds counts. The peer decodes, resizes and converts to
float at each access; ours has decoded and resized once (the time that took is the last column).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from vqc.config import TrainConfig
from vqc.data.dataset import Data, load_data
from vqc.data.loader import FittedImages, training_batches

BATCH_SIZE = 8
ROUND_S = 2.0

Epoch = Callable[[int], Iterable[object]]  # number of the epoch -> its batches


def images_per_s(epoch: Epoch, *, images: int) -> float:
    """Over whole epochs, until at least ``ROUND_S`` have passed."""
    started_s, number = time.perf_counter(), 0
    while (elapsed_s := time.perf_counter() - started_s) < ROUND_S:
        number += 1
        for _ in epoch(number):
            pass
    return number * images / elapsed_s


def ours(images: FittedImages, size: int) -> Epoch:
    config = TrainConfig(image_size=size, batch_size=BATCH_SIZE, num_workers=0)
    return lambda number: training_batches(images, config, epoch=number)


def peers(path: Path, data: Data, size: int) -> Epoch:
    spec = importlib.util.spec_from_file_location("peer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dataset, _ = module.make_dataset(str(data.root), "train", size, True)
    loader = torch.utils.data.DataLoader(dataset, BATCH_SIZE, shuffle=True, collate_fn=tuple)
    return lambda _: loader


def line(data: Data, size: int, cache: Path, *, peer: Path | None, rounds: int) -> str:
    started_s = time.perf_counter()
    images = FittedImages(data, "train", size=(size, size), cache=cache)
    filled_s = time.perf_counter() - started_s
    decoded = FittedImages(data, "train", size=(size, size), cache=None)
    sides = {"cached": ours(images, size), "decoded": ours(decoded, size)}
    if peer is not None:
        sides["peer"] = peers(peer, data, size)
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, epoch in sides.items():
            found[name].append(images_per_s(epoch, images=len(images)))
    rate = {name: statistics.median(values) for name, values in found.items()}
    beside = f"{rate['peer']:.0f} | {rate['cached'] / rate['peer']:.1f}" if peer is not None else "not measured |"
    return f"| {size} | {rate['cached']:.0f} | {rate['decoded']:.0f} | {beside} | {filled_s:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 512, 640])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    data = load_data(args.data)
    print(f"{len(data.train.images)} images, {data.train.boxes} boxes; images per second on one core\n")
    print("| px | ours | ours without cache | peer | ours / peer | cache filled in, s |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            print(line(data, size, Path(folder), peer=args.peer, rounds=args.rounds), flush=True)


if __name__ == "__main__":
    main()
