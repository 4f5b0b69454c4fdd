"""What a trial costs besides training when a search has 30, 300, 1,000 or 3,000 of them, side by side.

    python tests/benchmarks/scale.py [--trials 30 300 1000 3000]

Each size is a search of its own process: the controller with its journal on the disk and made-up epochs, then the
mirror into a new MLflow database, the report, and a redraw of the terminal. "Last" is the mean over the last tenth of
the trials: where the cost of one grows with their number, it shows there.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.builders import epoch_report
from tests.tables import search_settings, search_started
from tune.execution.controller import Controller
from tune.execution.outcomes import Measured
from tune.history.journal import Journal, now_ms
from tune.history.table import Table, Trial
from tune.paths import journal_of
from tune.reporting.html_report import write_report
from tune.reporting.live_display import snapshot
from tune.reporting.mlflow_sync import Mirror
from vqc.hardware.memory import peak_ram_gb
from vqc.tracking.mlflow_client import default_uri

ROWS = {
    "proposal, mean": "proposal_ms",
    "proposal, last": "last_proposal_ms",
    "journal and verdicts": "journal_ms",
    "MLflow": "mirror_ms",
    "report": "report_ms",
    "one redraw of the terminal": "redraw_ms",
    "peak memory, MB in all": "memory_mb",
}


def value(trial: Trial, epoch: int) -> float:
    """A made-up learning curve with its best rate at 2e-3 and larger images a little better."""
    rate, size = float(trial.params["learning_rate"]), float(trial.params["image_size"])
    top = 0.9 * math.exp(-(math.log10(rate / 2e-3) ** 2)) + size / 4000
    return top * (1 - math.exp(-epoch / 4))


def search(trials: int, folder: Path) -> dict[str, float]:
    """Milliseconds per trial of each part, and peak memory."""
    settings = search_settings(trials=trials)
    path = journal_of(folder)
    journal, table = Journal(path), Table()
    first = search_started(settings, at_ms=now_ms())
    journal.append(first)
    table.apply(first)
    controller = Controller(journal, table, folder=folder)
    proposals_s: list[float] = []
    others_s = 0.0
    while True:
        began_s = time.perf_counter()
        task = controller.next_task()
        proposals_s.append(time.perf_counter() - began_s)
        if task is None:
            break
        began_s = time.perf_counter()
        controller.started(task.trial.number, worker="none")
        epoch, goes_on = task.after_epoch, True
        while goes_on:
            epoch += 1
            report = epoch_report(epoch, ap50=value(task.trial, epoch))
            goes_on = controller.record(task.trial.number, Measured(report=report)) == "continue"
        others_s += time.perf_counter() - began_s
    controller.close()
    journal.close()
    last = proposals_s[-max(1, len(proposals_s) // 10) :]
    return {
        "proposal_ms": 1e3 * sum(proposals_s) / trials,
        "last_proposal_ms": 1e3 * sum(last) / len(last),
        "journal_ms": 1e3 * others_s / trials,
        "mirror_ms": timed_ms(lambda: mirror(path, folder)) / trials,
        "report_ms": timed_ms(lambda: write_report(path, folder)) / trials,
        "redraw_ms": timed_ms(lambda: snapshot(table, now_ms())),
        "memory_mb": 1024 * peak_ram_gb(),
    }


def mirror(path: Path, folder: Path) -> None:
    Mirror(path, default_uri(folder), artifacts=folder / "mlartifacts").catch_up(cut_short=False)


def timed_ms(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[30, 300, 1000, 3000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            print(json.dumps(search(asked.one, Path(folder))))
        return
    found = []
    for trials in asked.trials:
        words = [sys.executable, "-m", "tests.benchmarks.scale", "--one", str(trials)]
        said = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(said.stdout.strip().splitlines()[-1]))
    print(f"{'ms per trial, at trials:':28}" + "".join(f"{trials:>10,}" for trials in asked.trials))
    for label, key in ROWS.items():
        print(f"{label:28}" + "".join(f"{one[key]:>10.1f}" for one in found))


if __name__ == "__main__":
    main()
