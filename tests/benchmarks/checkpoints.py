"""What a checkpoint costs a run: a row in Markdown.

    python tests/benchmarks/checkpoints.py [--model NAME]

A detector and AdamW's moments, untrained, are copied and written as by a worker. ``blocked`` is what training waits;
the file is written by another thread, and the longest pause is that of a third one, which wakes each millisecond.
Extra memory is the rise of the process's peak; training itself would use more.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import torch

from tests.benchmarks.gpu_bench import state_of
from tests.builders import epoch_report
from vqc.config import TrainConfig
from vqc.hardware.memory import peak_ram_gb
from vqc.training.state import checkpoint_bytes, snapshot_of


class Pauses(threading.Thread):
    """Notes the longest time that it was not run."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.longest_s = 0.0
        self.over = threading.Event()

    def run(self) -> None:
        before_s = time.perf_counter()
        while not self.over.wait(0.001):
            now_s = time.perf_counter()
            self.longest_s, before_s = max(self.longest_s, now_s - before_s), now_s


def row(config: TrainConfig) -> str:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state = state_of(config, num_classes=3, device=device)
    size_mb = checkpoint_bytes(config, num_classes=3)[0] / 1e6
    pauses, before_gb = Pauses(), peak_ram_gb()
    with tempfile.TemporaryDirectory() as folder:
        started_s = time.perf_counter()
        snapshot = snapshot_of(state, epoch_report(1, ap50=0.5))
        blocked_s = time.perf_counter() - started_s
        pauses.start()
        writer = threading.Thread(target=snapshot.write_state, args=(Path(folder) / "last",))
        writer.start()
        writer.join()
        total_s = time.perf_counter() - started_s
        pauses.over.set()
        pauses.join()
    extra_mb = (peak_ram_gb() - before_gb) * 2**30 / 1e6
    cells = [f"{size_mb:.0f}", f"{blocked_s:.3f}", f"{pauses.longest_s:.3f}", f"{total_s:.2f}", f"{extra_mb:.0f}"]
    return f"| {config.model} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fasterrcnn_resnet50_fpn")
    args = parser.parse_args()
    print("| detector | state, MB | blocked, s | longest pause, s | in all, s | extra memory, MB |")
    print("|---|---|---|---|---|---|")
    print(row(TrainConfig(model=args.model, weights="none")))


if __name__ == "__main__":
    main()
