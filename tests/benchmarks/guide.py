"""What each of the guide's optimisations costs or gains on this machine: a table in Markdown.

    python tests/benchmarks/guide.py [--config configs/train_config.json] [--data DIR]

Each row trains two epochs in a process of its own (a cache would spoil the next figure) and shows the second:
the first one chooses kernels and fills caches. Rows that only a GPU can fill are left open where there is none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqc.config import GpuOptimization, TrainConfig, load_record, parse_record
from vqc.data.synthetic import write_sample
from vqc.epoch import EpochReport

ROOT = Path(__file__).resolve().parent.parent.parent
PLAIN = {
    "mixed_precision": "float32",
    "cudnn_benchmark": False,
    "matmul_precision": "highest",
    "gradient_accumulation_steps": 1,
}


@dataclass(frozen=True)
class Row:
    """One choice; ``halved``: the batch is cut in two, so that a step sees as many images as in the other rows."""

    label: str
    choice: Mapping[str, Any]
    gpu: bool = True
    halved: bool = False


ROWS = (
    Row("none of them: float32, one batch a step", {}, gpu=False),
    Row("mixed precision, bfloat16", {"mixed_precision": "bfloat16"}, gpu=False),
    Row("mixed precision, float16", {"mixed_precision": "float16"}),
    Row("two half batches a step", {"gradient_accumulation_steps": 2}, gpu=False, halved=True),
    Row("cuDNN benchmark", {"cudnn_benchmark": True}),
    Row("matmul precision high", {"matmul_precision": "high"}),
    Row("max_split_size_mb 512", {"max_split_size_mb": 512}),
    Row("expandable segments", {"expandable_segments": True}),
    Row("cache cleared after each batch", {"empty_cache_after_batch": True}),
    Row("this project's defaults", GpuOptimization().model_dump(), gpu=False),
)


def configured(base: TrainConfig, row: Row) -> TrainConfig:
    """The base configuration with one choice made and two epochs."""
    values = base.model_dump() | {"num_epochs": 2, "weights": "none", "gpu_optimization": {**PLAIN, **row.choice}}
    if row.halved:
        values["batch_size"] = max(1, base.batch_size // 2)
    return parse_record(TrainConfig, values, source=row.label)


def measured(config: TrainConfig, data: Path, cache: Path) -> EpochReport:
    """The second epoch of a run in a process of its own."""
    command = [sys.executable, __file__, "--one", config.model_dump_json(), "--data", str(data), "--cache", str(cache)]
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return EpochReport.model_validate_json(done.stdout)


def one(config: TrainConfig, data: Path, cache: Path) -> None:
    from vqc.data.dataset import load_data
    from vqc.training.loop import fit

    *_, last = fit(config, load_data(data), cache=cache)
    sys.stdout.write(last.report.model_dump_json())


def line(row: Row, report: EpochReport | None, plain: EpochReport | None) -> str:
    if report is None or plain is None:
        return f"| {row.label} | needs a GPU | | |"
    gpu = "" if report.peak_vram_gb is None else f"{report.peak_vram_gb:.2f}"
    return f"| {row.label} | {report.images_per_s:.1f} | {report.images_per_s / plain.images_per_s:.2f} | {gpu} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        one(parse_record(TrainConfig, args.one, source="--one"), args.data, args.cache)
        return
    from vqc.hardware.gpu import gpu_count

    gpu = bool(gpu_count())
    path = args.config or ROOT / "configs" / ("train_config.json" if gpu else "train_config_cpu.json")
    base = load_record(TrainConfig, path)
    print(f"{base.model}, {base.image_size[0]}x{base.image_size[1]} px, batches of {base.batch_size}\n")
    print("| choice | images/s | times the first row | peak GPU memory, GB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or write_sample(Path(folder) / "data")
        plain: EpochReport | None = None
        for row in ROWS:
            report = measured(configured(base, row), data, Path(folder) / "cache") if gpu or not row.gpu else None
            plain = plain or report
            print(line(row, report, plain), flush=True)


if __name__ == "__main__":
    main()
