"""A training run as the terminal shows it: live with rich, or as plain lines where there is no terminal.

``epoch_line`` is also written to ``training.log``; ``run_summary`` is printed at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from vqc.config import TrainConfig
from vqc.epoch import EpochReport
from vqc.hardware.monitor import CpuClock, machine_text, read_machine
from vqc.reporting.terminal import duration, sparkline
from vqc.shell import as_typed
from vqc.training.run import best_of

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from vqc.training.run import Run

REFRESHES_PER_S = 4
READ_EVERY_S = 1.0


class TrainDisplay:
    """Shows one run from ``with`` on.

    Args:
        name: of the run.
        reports: of the epochs that were finished before.
        gpu: UUID of the GPU whose figures are shown; None shows those of the CPU.
        stream: the terminal or file to write to.
        live: redraw one display instead of writing lines; by default where ``stream`` is a terminal.
        stopping: whether the user asked to stop after the running epoch.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        config: TrainConfig,
        *,
        reports: Sequence[EpochReport],
        gpu: str | None,
        stream: TextIO,
        live: bool | None = None,
        stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._config, self._stream, self._clock = name, config, stream, clock
        self._reports, self._before = list(reports), len(reports)
        self._live = stream.isatty() if live is None else live
        self._machine = _Machine(gpu, clock)
        self._steps: tuple[int, int] | None = None
        self._epoch_end_s = clock()
        self._stack = ExitStack()
        self._console: Console | None = None
        self._stopping = stopping

    def __enter__(self) -> TrainDisplay:
        if self._live:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream, force_terminal=True, highlight=False, markup=False, emoji=False)
            self._console = console
            self._stack.enter_context(
                Live(
                    get_renderable=lambda: self._screen(console),
                    console=console,
                    refresh_per_second=REFRESHES_PER_S,
                    transient=True,
                )
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def on_step(self, step: int, steps: int) -> None:
        """``step`` of ``steps`` optimiser steps of the run are done."""
        self._steps = step, steps

    def on_epoch(self, report: EpochReport) -> None:
        """An epoch is finished and saved."""
        self._reports.append(report)
        self._epoch_end_s = self._clock()
        if not self._live:
            left_s = self.left_s()
            rest = f", about {duration(left_s)} left" if left_s else ""
            self.say(epoch_line(self._reports, self._config) + rest)

    def say(self, text: str) -> None:
        """Write a line that stays, above the display where it is live."""
        if self._console is not None:
            self._console.print(text)
        else:
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def left_s(self) -> float | None:
        """Seconds to the end at the median pace of the epochs since this display started; None before the first."""
        own = self._reports[self._before :]
        if not own:
            return None
        pace_s = median(report.epoch_s for report in own)
        since_s = self._clock() - self._epoch_end_s
        return max(0.0, pace_s * (self._config.num_epochs - len(self._reports)) - since_s)

    def _screen(self, console: Console) -> RenderableType:
        from rich.console import Group
        from rich.padding import Padding

        options = console.options
        return Padding(Group(*self.lines(ascii_only=options.ascii_only or options.legacy_windows)), (1, 0, 0, 1))

    def lines(self, *, ascii_only: bool) -> list[RenderableType]:
        """The live display."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        config, done = self._config, len(self._reports)
        what = f"{config.model}, {config.image_size[0]}x{config.image_size[1]} px, batches of {config.batch_size}"
        epoch = f"epoch {min(done + 1, config.num_epochs)} of {config.num_epochs}"
        head = Text.assemble((self._name, "bold"), f"  {epoch}  ", (what, "dim"), overflow="ellipsis", no_wrap=True)
        bar = Table.grid(expand=True, padding=(0, 2, 0, 0))
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        bar.add_row(ProgressBar(total=1, completed=self._share()), self._clock_text())
        lines: list[RenderableType] = [head, bar, Text(""), self._curves(ascii_only), Text("")]
        lines.append(Text(self._machine.text(), style="dim"))
        if self._stopping():
            lines.append(Text("Stopping after this epoch; Ctrl-C again ends at once.", style="yellow"))
        return lines

    def _share(self) -> float:
        """Part of the run's steps that is done, 0..1."""
        by_epochs = len(self._reports) / self._config.num_epochs
        return by_epochs if self._steps is None else max(by_epochs, self._steps[0] / self._steps[1])

    def _clock_text(self) -> str:
        left_s = self.left_s()
        if left_s is None:
            return "time left: known after the first epoch"
        return f"about {duration(left_s)} left, until {time.strftime('%H:%M', time.localtime(time.time() + left_s))}"

    def _curves(self, ascii_only: bool) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2, 0, 0))
        losses = [report.losses["total"] for report in self._reports]
        scores = [report.scores.ap50 for report in self._reports]
        known = [score for score in scores if score is not None]
        best = best_of(self._reports)
        if not losses or best is None:
            grid.add_row(Text("no epoch is finished yet", style="dim"))
            return grid
        grid.add_row(
            "loss",
            Text(sparkline(losses, top=max(losses), ascii_only=ascii_only), style="cyan"),
            f"{losses[-1]:.3f}",
        )
        if known:
            figures = f"{_figure(scores[-1])}, best {_figure(best.scores.ap50)} after epoch {best.epoch}"
            grid.add_row("AP50", Text(sparkline(known, top=max(known), ascii_only=ascii_only), style="green"), figures)
        return grid


class _Machine:
    """The machine's figures, read at most once a second however often they are shown."""

    def __init__(self, gpu: str | None, clock: Callable[[], float]) -> None:
        self._gpu, self._clock, self._cpu = gpu, clock, CpuClock()
        self._read_s, self._text = clock() - READ_EVERY_S, ""

    def text(self) -> str:
        if self._clock() - self._read_s >= READ_EVERY_S:
            self._read_s = self._clock()
            self._text = machine_text(read_machine(self._gpu), cpu_utilisation=self._cpu.utilisation())
        return self._text


def epoch_line(reports: Sequence[EpochReport], config: TrainConfig) -> str:
    """The last of the reports in one plain line, without what was not measured."""
    report, best = reports[-1], best_of(reports)
    scores, machine = report.scores, report.machine
    parts = [f"epoch {report.epoch} of {config.num_epochs}: loss {report.losses['total']:.3f}"]
    parts += [f"AP50 {_figure(scores.ap50)}", f"AP {_figure(scores.ap)}"]
    if best is not None and best.scores.ap50 is not None:
        parts.append("the best so far" if best is report else f"best AP50 {_figure(best.scores.ap50)}")
    parts.append(f"{duration(report.epoch_s)} ({report.images_per_s:.0f} images/s)")
    if report.peak_vram_gb is not None:
        parts.append(f"{report.peak_vram_gb:.1f} GB of GPU memory")
    if machine is not None and machine.gpu_utilisation is not None:
        parts.append(f"GPU {100 * machine.gpu_utilisation:.0f} %")
    if machine is not None and machine.gpu_temperature_c is not None:
        parts.append(f"{machine.gpu_temperature_c:.0f} °C")
    if report.peak_vram_gb is None and machine is not None and machine.cpu_utilisation is not None:
        parts.append(f"CPU {100 * machine.cpu_utilisation:.0f} %")
    return ", ".join(parts)


def run_summary(run: Run) -> str:
    """The best epoch of a run, its files, and the next command."""
    reports = run.reports()
    best, epochs = best_of(reports), run.config.num_epochs
    lines = [""]
    if best is None:
        lines.append("No epoch was finished.")
    else:
        scores = best.scores
        figures = {"AP50": scores.ap50, "AP": scores.ap, "AP75": scores.ap75, "AR": scores.ar}
        text = ", ".join(f"{label} {value:.3f}" for label, value in figures.items() if value is not None)
        lines += [
            f"Best on val: {text or 'unknown, val has no boxes'}, after epoch {best.epoch} of {epochs}",
            f"  time   {duration(sum(report.epoch_s for report in reports))}",
            f"  model  {run.best}",
            f"  log    {run.log_file}",
        ]
    if run.profile.is_dir():
        lines.append(f"  profile, in another terminal: {as_typed(f'tensorboard --logdir {run.profile}')}")
    if len(reports) < epochs:
        lines.append(f"continue with: {as_typed(run.resume_command)}")
    else:
        data = Path(run.info.data["root"])
        lines.append(f"next: {as_typed(f'vqc evaluate --model {run.best} --data {data}')}")
    return "\n".join(lines)


def _figure(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"
