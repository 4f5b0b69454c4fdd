"""``vqc train --profile``: a torch.profiler trace of a few steps, and the epochs' figures for TensorBoard.

Called by ``vqc train``. Both go into one folder: ``tensorboard --logdir`` it for the curves, and open the trace in
Perfetto or at ``chrome://tracing``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vqc.epoch import EpochReport
from vqc.files import write_atomically
from vqc.tracking.metric_names import epoch_figures

__all__ = ["profiled", "scalars"]

IDLE_STEPS = 2  # the first ones measure the choice of kernels and the filling of caches
TRACED_STEPS = 3  # a step of a large detector is a hundred thousand events
OPERATORS_SHOWN = 30


@contextmanager
def profiled(folder: Path) -> Iterator[Callable[[], None]]:
    """Within it the yielded function, called after each step, drives the profiler.

    Writes ``trace.json.gz`` and ``operators.txt`` once enough steps were seen; nothing where there are fewer than four.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would write into the display, of GPUs that are not there
    import torch
    from torch.profiler import ProfilerActivity, profile, schedule

    cuda = torch.cuda.is_available()
    order = "self_cuda_time_total" if cuda else "self_cpu_time_total"

    def save(profiler: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(folder / "trace.json.gz"))
        table = profiler.key_averages().table(sort_by=order, row_limit=OPERATORS_SHOWN)
        write_atomically(folder / "operators.txt", table.encode())

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    plan = schedule(wait=IDLE_STEPS - 1, warmup=1, active=TRACED_STEPS, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=save, acc_events=True) as profiler:
        yield profiler.step


@contextmanager
def scalars(folder: Path) -> Iterator[Callable[[EpochReport], None]]:
    """Within it the yielded function writes an epoch's figures for TensorBoard, under the names that MLflow shows."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(log_dir=str(folder))

    def write(report: EpochReport) -> None:
        at_s = None if report.measured_ms is None else report.measured_ms / 1000
        for name, value in epoch_figures(report).items():
            writer.add_scalar(name, value, report.epoch, walltime=at_s)
        writer.flush()

    try:
        yield write
    finally:
        writer.close()
