"""What a search costs besides training: 30 trials of 8 epochs that train nothing, journal, MLflow and display included.

    python tests/benchmarks/overhead.py [--peer PATH/TO/stock_search.py --data DIR]
    python tests/benchmarks/overhead.py --real [--data DIR]

With ``--peer`` the plain way (Ray's own searcher, scheduler and MLflow callback on their defaults, run with its
``--no-train``) is measured in the same call on the same machine. Times are around the search itself; starting Ray,
which both do alike, is left out.

With ``--real`` a search of ten trials that do train is run as a user runs it, and what the whole command took beyond
training and evaluation is counted, from the first import to the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tune.execution.controller import Controller
from tune.execution.log_redirect import library_noise_to, quiet_environment
from tune.execution.resources import resources_of, this_machine
from tune.execution.session import new_session
from tune.execution.worker import Assignment
from tune.history.journal import read_table
from tune.paths import journal_of
from tune.reporting.live_display import Progress
from tune.reporting.mlflow_sync import Mirror
from vqc.data.dataset import Data
from vqc.data.synthetic import write_sample
from vqc.epoch import EpochReport, Scores
from vqc.tracking.mlflow_client import default_uri

TRIALS, EPOCHS = 30, 8
REAL_TRIALS = 10


def no_training(assignment: Assignment, data: Data) -> Iterator[EpochReport]:
    """Epochs that cost nothing and grow by a little, the peer's made-up curve."""
    for epoch in range(1, assignment.config.num_epochs + 1):
        value = 0.5 - abs(assignment.config.learning_rate - 1e-3) + 0.01 * epoch
        scores = Scores(ap=value, ap50=value, ap75=value, ar=value, class_ap={})
        yield EpochReport(
            epoch=epoch, step=epoch, learning_rate=0.0, losses={"total": 0.0}, grad_norm=0.0, scores=scores,
            data_s=0.0, train_s=0.0, eval_s=0.0, images_per_s=0.0, peak_ram_gb=0.0,
        )  # fmt: skip


def ours(results: Path) -> float:
    """Seconds of one search."""
    quiet_environment()
    from tune.execution import ray_backend

    data = write_sample(results / "data", images={"train": 4, "val": 4, "test": 4})
    flags = {"budget.trials": TRIALS, "train.num_epochs": EPOCHS}
    machine = this_machine()
    session = new_session(
        name="overhead", results=results, data_folder=data, config=None, flags=flags, command="", gpus=machine.gpus
    )
    session.folder.mkdir(parents=True)
    path = journal_of(session.folder)
    with library_noise_to(session.folder / "search.log"), (results / "terminal.txt").open("w") as terminal:
        journal = session.open_journal()
        mirror = Mirror(path, default_uri(results), artifacts=results / "mlartifacts")
        progress = Progress(path, stream=terminal)
        mirror.start()  # in the order of tune/search.py
        ray_backend.connect(None)
        controller = Controller(journal, session.table, folder=session.folder)
        started_s = time.monotonic()
        progress.start()
        ray_backend.run(
            controller,
            session.data,
            resources=resources_of(session.settings, machine),
            folder=session.folder,
            cache=results / "cache",
            reports=no_training,
        )
        took_s = time.monotonic() - started_s
        controller.close()
        ray_backend.disconnect()
        progress.stop()
        mirror.stop(60)
    return took_s


def peers(script: Path, data: Path, out: Path, environment: dict[str, str]) -> float:
    """Seconds that the peer says its search took."""
    words = [sys.executable, str(script), "--data", str(data), "--trials", str(TRIALS), "--epochs", str(EPOCHS)]
    words += ["--no-train", "--out", str(out)]
    said = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return float(json.loads(said.stdout.strip().splitlines()[-1])["wall_s"])


def real(results: Path, data: Path | None) -> None:
    """Run the command and print where its seconds went."""
    words = [sys.executable, "-m", "tune.search", "--trials", str(REAL_TRIALS), "--name", "real"]
    words += ["--results", str(results), *(["--data", str(data)] if data else [])]
    started_s, started_ms = time.monotonic(), time.time_ns() // 1_000_000
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    took_s = time.monotonic() - started_s
    table = read_table(journal_of(results / "real"))
    reports = [report for trial in table.trials.values() for report in trial.reports]
    work_s = sum(report.train_s + report.eval_s for report in reports)
    first_ms = min(trial.started_ms or 0 for trial in table.trials.values())
    rows = {
        "whole command": took_s,
        f"training and evaluation, {len(reports)} epochs": work_s,
        "everything else": took_s - work_s,
        "  of it until the first trial began": (first_ms - started_ms) / 1000,
        "  of it after the last event": took_s - (table.last_ms - started_ms) / 1000,
    }
    for name, seconds in rows.items():
        print(f"{name:42} {seconds:7.1f} s {100 * seconds / took_s:6.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--real", action="store_true", help="ten trials that train")
    asked = parser.parse_args()
    if asked.real:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            real(Path(folder), asked.data)
        return
    environment = dict(os.environ)  # as it was: ours makes Ray quiet, the peer's is on its defaults
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        rows = [("vqc-tune", ours(Path(folder)))]
        if asked.peer:
            rows.append(("peer", peers(asked.peer, asked.data, Path(folder) / "peer", environment)))
    print(f"{'':10} {'search':>8} {'per trial':>10}")
    for name, took_s in rows:
        print(f"{name:10} {took_s:6.1f} s {took_s / TRIALS:8.2f} s")


if __name__ == "__main__":
    main()
