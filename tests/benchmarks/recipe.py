"""What each part of the training recipe is worth: one part at a time is changed, the rest stays; a table in Markdown.

    python tests/benchmarks/recipe.py --data ../shared/data/deeppcb-mini --out recipe.jsonl
    ... [--seeds 3] [--epochs 7] [--size 320] [--tile 320] [--parts base ema ...]

The settings are those of a CPU, but for the size, the tiles and the epochs, on one thread; the figures are those of val
after the last epoch, and AP50 after half of them, which is what trials are ranked by. All runs have equally many
epochs, so nearly equal seconds, which the table shows: CPU seconds, because the machine may be shared. A difference is
to the base of the same seed, and so is steadier than the figures themselves. Each finished run is a line in ``--out``;
the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from vqc.config import TrainConfig, read_json, shipped_settings
from vqc.data.dataset import Data, load_data
from vqc.files import LineFile, whole_lines
from vqc.models.pretrained import resolve_weights
from vqc.training.loop import fit

PARTS: dict[str, dict[str, Any]] = {
    "base": {},
    "no flips": {"augmentation": {"horizontal_flip": 0.0, "vertical_flip": 0.0}},
    "no light": {"augmentation": {"brightness": 0.0, "contrast": 0.0}},
    "quarter turns": {"augmentation": {"quarter_turn": 0.5}},
    "scale jitter": {"augmentation": {"scale_jitter": 0.5}},
    "copy-paste": {"augmentation": {"copy_paste": 0.5}},
    "rare repeated": {"repeat_threshold": 0.5},
    "ema": {"ema_decay": 0.99},
    "longer ema": {"ema_decay": 0.999},
    "backbone at full rate": {"backbone_rate": 1.0},
    "no stage frozen": {"frozen_stages": 0},
}
FIGURES = ("ap50", "half", "ap", "cpu_s")
COMPARED = ("ap50", "half")

Run = dict[str, Any]  # part, seed, FIGURES


def configured(part: str, *, seed: int, epochs: int, size_px: int, tile_px: int) -> TrainConfig:
    """The CPU's training settings with one part changed."""
    basis = read_json(shipped_settings("train_config_cpu.json"))
    values = {**basis, "seed": seed, "num_epochs": epochs, "image_size": size_px, "tile_px": tile_px, **PARTS[part]}
    return resolve_weights(TrainConfig.model_validate(values))[0]


def trained(config: TrainConfig, data: Data, cache: Path) -> dict[str, float]:
    """Scores on val of the last epoch and of the one halfway, and the CPU seconds of the whole run."""
    started_s = time.process_time()
    scores = [epoch.report.scores for epoch in fit(config, data, cache=cache)]
    seconds = time.process_time() - started_s
    half = scores[math.ceil(len(scores) / 2) - 1].value("ap50")
    return {"ap50": scores[-1].value("ap50"), "half": half, "ap": scores[-1].value("ap"), "cpu_s": seconds}


def with_error(values: Iterable[float], digits: int = 3) -> str:
    """Mean and its standard error; the mean alone of a single value."""
    known = list(values)
    error = f" ± {statistics.stdev(known) / math.sqrt(len(known)):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{error}"


def table(runs: Sequence[Run], parts: Sequence[str]) -> str:
    by_part = {part: {run["seed"]: run for run in runs if run["part"] == part} for part in parts}
    base = by_part.get("base", {})
    titles = ["part changed", "seeds", "AP50", "less the base's", "after half", "less the base's", "AP", "CPU s"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for part, by_seed in by_part.items():
        cells = []
        for name in FIGURES:
            cells.append(with_error((run[name] for run in by_seed.values()), 0 if name == "cpu_s" else 3))
            if name in COMPARED:
                gains = [run[name] - base[seed][name] for seed, run in by_seed.items() if seed in base]
                cells.append(with_error(gains) if gains and part != "base" else "")
        lines.append(f"| {part} | {len(by_seed)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines: read, and appended to")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--size", type=int, default=320, help="px")
    parser.add_argument("--tile", type=int, default=0, help="px; 0: whole photographs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    data, setting = load_data(args.data), [args.data.name, args.epochs, args.size, args.tile]
    with LineFile(args.out) as file:
        runs = [run for line in whole_lines(args.out) if (run := json.loads(line))["setting"] == setting]
        done = {(run["part"], run["seed"]) for run in runs}
        for seed, part in ((seed, part) for seed in range(args.seeds) for part in args.parts):
            if (part, seed) not in done:
                config = configured(part, seed=seed, epochs=args.epochs, size_px=args.size, tile_px=args.tile)
                figures = trained(config, data, args.out.with_suffix(".cache"))
                runs.append({"setting": setting, "part": part, "seed": seed, **figures})
                file.append(json.dumps(runs[-1]))
    print(table(runs, [part for part in PARTS if any(run["part"] == part for run in runs)]))


if __name__ == "__main__":
    main()
