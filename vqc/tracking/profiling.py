"""``vqc train --profile``: a torch.profiler trace (for Perfetto), and the epochs' figures for TensorBoard."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from vqc.epoch import EpochReport
from vqc.files import write_atomically
from vqc.tracking.metric_names import epoch_figures

IDLE_STEPS = 2  # the first ones measure the choice of kernels and the filling of caches
TRACED_STEPS = 3  # a step of a large detector is a hundred thousand events
OPERATORS_SHOWN = 30


class Profiler:
    """Profiles one run from ``with`` on.

    Writes ``trace.json.gz`` and ``operators.txt`` once enough steps were done, and nothing where there are fewer than
    four; each epoch's figures go to TensorBoard, under the names that MLflow shows. Without a folder it does nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._trace: Any = None
        self._writer: Any = None

    def __enter__(self) -> Profiler:
        if self._folder is None:
            return self
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would write into the display, of GPUs that are not there
        import torch
        from torch.profiler import ProfilerActivity, profile, schedule
        from torch.utils.tensorboard import SummaryWriter

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        plan = schedule(wait=IDLE_STEPS - 1, warmup=1, active=TRACED_STEPS, repeat=1)
        self._trace = self._stack.enter_context(
            profile(activities=activities, schedule=plan, on_trace_ready=self._save, acc_events=True)
        )
        self._writer = SummaryWriter(log_dir=str(self._folder))
        self._stack.callback(self._writer.close)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def on_step(self) -> None:
        if self._trace is not None:
            self._trace.step()

    def on_epoch(self, report: EpochReport) -> None:
        if self._writer is None:
            return
        at_s = None if report.measured_ms is None else report.measured_ms / 1000
        for name, value in epoch_figures(report).items():
            self._writer.add_scalar(name, value, report.epoch, walltime=at_s)
        self._writer.flush()

    def _save(self, profiler: Any) -> None:
        import torch

        assert self._folder is not None
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=OPERATORS_SHOWN)
        write_atomically(self._folder / "operators.txt", table.encode())
        profiler.export_chrome_trace(str(self._folder / "trace.json.gz"))
