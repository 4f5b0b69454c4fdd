"""Call D: a search that shares the GPU, is killed once, and meets configurations that do not fit. Needs Ray."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.gpu_bench import LIGHT, Bench, Case, Row, Scale

ROOT = Path(__file__).resolve().parent.parent.parent
KILL_AFTER_EPOCHS = 3
PATIENCE_S = 300.0


def cases(scale: Scale) -> dict[str, Case]:
    return {"search": search}


def search(bench: Bench) -> Iterator[Row]:
    if importlib.util.find_spec("ray") is None:
        yield {"table": "search", "outcome": "not run: Ray is not installed"}
        return
    from tune.history.journal import read_table

    results, config = bench.folder / "results", bench.folder / "search.json"
    sizes, batches = ([64, 96], [2, 4]) if bench.rehearsal else ([320, 640, 1280], [4, 16])
    model, trials = ("fcos_tiny", 3) if bench.rehearsal else (LIGHT, 6)
    config.write_text(json.dumps({
        "train": {"model": model, "weights": "none", "num_epochs": 2 if bench.rehearsal else 4},
        "space": {"image_size": {"choices": sizes}, "batch_size": {"choices": batches}},
        "gpus_per_trial": "auto", "vram_gb": 1.5, "confirm": 0, "rungs": [], "budget": {"trials": trials},
    }), encoding="utf-8")  # fmt: skip
    command = [sys.executable, "tune/search.py", "--name", "gpu", "--results", str(results)]
    begun = subprocess.Popen(
        [*command, "--config", str(config), "--data", str(bench.folder / "data")], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    journal, until_s = results / "gpu" / "journal.jsonl", time.monotonic() + PATIENCE_S
    while begun.poll() is None and time.monotonic() < until_s:
        if journal.exists() and journal.read_bytes().count(b'"event":"epoch"') >= KILL_AFTER_EPOCHS:
            begun.kill()
        time.sleep(0.2)
    resumed = subprocess.run([*command, "--resume"], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    states = [trial.state for trial in read_table(journal).trials.values()]
    yield {
        "table": "search",
        "killed": begun.returncode == -9,
        "trials": len(states),
        "lost": sum(state not in ("completed", "stopped", "infeasible") for state in states),
        "infeasible": states.count("infeasible"),
        "outcome": f"exit status {resumed.returncode}",
    }
