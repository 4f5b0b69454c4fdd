"""How often the drift alarm is false, and how many parts a change of the light needs: tables in Markdown.

    python tests/benchmarks/drift.py [--data DIR] [--blocks N]

False alarms: made-up statistics, one reference for each block, because the promise is a mean over references. Changes
of light: the photographs of DIR (the sample where none is given), half of them as reference, the others drawn at random
as the line's, all times a factor.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vqc.data.dataset import load_data, read_image
from vqc.data.synthetic import write_sample
from vqc.inference.bundle import ReferenceStats, appearance, distribution
from vqc.serving.drift import LOOKS, STATISTICS, DriftMonitor, Part

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]

DRAWS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(120, 8, n),
    "long tail": lambda rng, n: rng.lognormal(3, 1, n),
    "rounded to ten values": lambda rng, n: rng.integers(0, 10, n).astype(float),
}
VAL_IMAGES = (24, 48, 150, 500)


def reference_of(rows: NDArray[np.float64]) -> ReferenceStats:
    """The statistics of rows [n, 6], in the order of ``STATISTICS``."""
    figures = {name: distribution(column) for name, column in zip(STATISTICS, rows.T, strict=True)}
    return ReferenceStats(images=len(rows), **figures)


def parts_to_alarm(reference: ReferenceStats, rows: NDArray[np.float64]) -> int | None:
    """After how many of the parts the alarm is raised; None: not at all."""
    monitor = DriftMonitor(reference)
    raised = (monitor.add(Part(**dict(zip(STATISTICS, row, strict=True)))) for row in rows.tolist())
    return next((number for number, alarm in enumerate(raised, start=1) if alarm), None)


def false_alarms(draw: Draw, images: int, *, blocks: int, rng: np.random.Generator) -> float:
    """The share of blocks with an alarm where nothing has changed."""
    found = 0
    for _ in range(blocks):
        rows = np.stack([draw(rng, images + LOOKS[-1]) for _ in STATISTICS], axis=1)
        found += parts_to_alarm(reference_of(rows[:images]), rows[images:]) is not None
    return found / blocks


def measured(data: Path, factor: float) -> NDArray[np.float64]:
    """The statistics [n, 6] of the photographs in another light; the score, which raises no alarm, is 0."""
    rows = []
    for split in load_data(data).splits:
        for record in split.images:
            pixels = np.clip(np.rint(read_image(record) * factor), 0, 255).astype(np.uint8)
            rows.append((*appearance(pixels), pixels.shape[1], pixels.shape[0], 0.0))
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--blocks", type=int, default=2000, metavar="N")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    print("| " + " | ".join(["blocks with a false alarm", *(f"{n} val images" for n in VAL_IMAGES)]) + " |")
    print("|---" * (1 + len(VAL_IMAGES)) + "|")
    for name, draw in DRAWS.items():
        shares = [false_alarms(draw, images, blocks=args.blocks, rng=rng) for images in VAL_IMAGES]
        print(f"| {name} | " + " | ".join(f"{share:.2%}" for share in shares) + " |")
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or write_sample(Path(folder) / "sample", images={"train": 200, "val": 50, "test": 50})
        same = measured(data, 1.0)
        print(f"\n{len(same)} photographs, brightness {same[:, 0].mean():.1f} ± {same[:, 0].std():.1f}")
        print("\n| light | parts to the alarm, median | 90 % | none in two blocks |\n|---|---|---|---|")
        for factor in (1.0, 0.98, 0.95, 0.9, 0.8, 1.1):
            changed, needed = measured(data, factor), []
            for _ in range(args.blocks // 10):
                order = rng.permutation(len(same))
                half = len(order) // 2
                line = changed[rng.choice(order[half:], 2 * LOOKS[-1])]
                needed.append(parts_to_alarm(reference_of(same[order[:half]]), line) or np.inf)
            median, most = np.quantile(needed, (0.5, 0.9), method="higher")
            print(f"| x {factor} | {median:.0f} | {most:.0f} | {np.isinf(needed).mean():.1%} |")


if __name__ == "__main__":
    main()
