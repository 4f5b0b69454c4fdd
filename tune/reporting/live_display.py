"""The journal as the terminal shows it while a search runs.

Everything shown is drawn from one pure function of the table, ``snapshot``: redrawn in a terminal, else as plain lines.
No error here stops a search, and nothing is written to ``sys.stdout``, which is a log file while a search runs.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tune.history import queries
from tune.history.events import State, TrialEnded
from tune.history.journal import Follower, now_ms
from tune.history.table import Table, Trial
from tune.policy.replication import best_trial
from tune.reporting.conclusions import ranking
from tune.reporting.console import console_of, leaderboard, lenient
from tune.reporting.eta import time_left_s
from vqc.reporting.terminal import duration, sparkline

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

LIVE_POLL_S = 0.25
LONGEST_POLL_S = 5.0
MOST_BUSY = 0.05  # of a core: after thousands of trials a redraw takes longer, so there are fewer
PLAIN_POLL_S = 1.0
PLAIN_LINE_EVERY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What is shown at one instant; ``None`` where it is not known yet."""

    name: str
    metric: str
    trials_asked: int | None  # None: as many as the hours allow
    current: Trial | None  # the trial that runs, or that was proposed last
    leaders: tuple[Trial, ...]  # the best trial and, by value, up to two others
    gain: float | None
    counts: Mapping[State, int]
    elapsed_s: float
    left_s: float | None
    extras: Mapping[str, str]  # label -> text: GPU, MLflow
    trouble: str = ""  # why the search waits

    @property
    def best(self) -> Trial | None:
        return self.leaders[0] if self.leaders else None

    @property
    def share(self) -> float:
        """Part of the expected time that has passed, 0..1."""
        whole_s = self.elapsed_s + (self.left_s or 0.0)
        return 0.0 if self.left_s is None or not whole_s else self.elapsed_s / whole_s


def snapshot(table: Table, at_ms: int, *, extras: Mapping[str, str] | None = None, trouble: str = "") -> Snapshot:
    """What to show of the table at the instant ``at_ms``; pure."""
    running = [trial for trial in table.trials.values() if trial.state in ("running", "proposed")]
    since_last_s = 0.0 if table.ended else max(0.0, (at_ms - table.last_ms) / 1000)
    leaders = tuple(ranking(table)[:3])
    return Snapshot(
        name=table.header.name,
        metric=table.metric,
        trials_asked=table.budget.trials,
        current=next(reversed(running or list(table.trials.values())), None),
        leaders=leaders,
        gain=queries.gain(table, leaders[0] if leaders else None),
        counts=queries.state_counts(table),
        elapsed_s=table.awake_s + since_last_s,
        left_s=time_left_s(table, at_ms),
        extras=dict(extras or {}),
        trouble=trouble,
    )


class Progress:
    """Shows a search from its journal, in a thread; its errors never reach the search.

    Args:
        journal: the journal's file; it need not exist yet.
        stream: the terminal or file to write to, as text.
        live: redraw one display instead of printing lines; by default where ``stream`` is a terminal.
        extras: label -> text to show beside the figures (GPU, MLflow); called at each refresh.
        trouble: a sentence while the search waits for something, else an empty string; called at each refresh.
    """

    def __init__(
        self,
        journal: Path,
        *,
        stream: TextIO,
        live: bool | None = None,
        extras: Callable[[], Mapping[str, str]] | None = None,
        trouble: Callable[[], str] = str,
    ) -> None:
        self._follower = Follower(journal)
        self._table = Table()
        self._stream = lenient(stream)
        self._live = stream.isatty() if live is None else live
        self._extras, self._trouble, self._printed_trouble = extras, trouble, ""
        self._last_line_s = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def start(self) -> None:
        """Begin to show; what the journal holds already is not printed again."""
        self._thread.start()

    def stop(self) -> None:
        """Show the rest and end the thread; allowed before ``start``, and more than once."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        try:
            (self._run_live if self._live else self._run_plain)()
        except Exception as error:  # noqa: BLE001 (a display must not end a night's work)
            with contextlib.suppress(OSError, ValueError):  # the stream itself may be what broke
                self._print(f"The progress display ended ({type(error).__name__}: {error}); the search goes on.")

    def _snapshot(self) -> Snapshot:
        return snapshot(self._table, now_ms(), extras=self._extras() if self._extras else None, trouble=self._trouble())

    def _run_live(self) -> None:
        from rich.live import Live

        with Live(console=console_of(self._stream, terminal=True), auto_refresh=False, transient=True,
                  redirect_stdout=False, redirect_stderr=False) as display:  # fmt: skip
            while True:
                last, began_s = (
                    self._done.is_set(),
                    time.thread_time(),
                )  # not waiting for the terminal
                for event in self._follower.poll():
                    self._table.apply(event)
                if self._table.started is not None:
                    display.update(_Screen(self._snapshot()), refresh=True)
                if last:
                    return
                busy_s = time.thread_time() - began_s
                self._done.wait(min(max(LIVE_POLL_S, busy_s / MOST_BUSY), LONGEST_POLL_S))

    def _run_plain(self) -> None:
        for event in self._follower.poll():
            self._table.apply(event)
        while True:
            last = self._done.is_set()
            self._print_news()
            if last:
                return
            self._done.wait(PLAIN_POLL_S)

    def _print_news(self) -> None:
        """A line for each trial that has ended, one every 10 s of epochs, and one when the search waits."""
        trouble = self._trouble()
        if trouble != self._printed_trouble:
            self._print(trouble or "The search goes on.")
            self._printed_trouble = trouble
        fresh = False
        for event in self._follower.poll():
            fresh = True
            self._table.apply(event)
            if isinstance(event, TrialEnded):
                self._print(trial_line(self._table, self._table.trials[event.trial], now_ms()))
        if fresh and time.monotonic() - self._last_line_s >= PLAIN_LINE_EVERY_S:
            self._print(status_line(self._snapshot()))

    def _print(self, line: str) -> None:
        self._last_line_s = time.monotonic()
        self._stream.write(f"{line}\n")
        self._stream.flush()


def trial_line(table: Table, trial: Trial, at_ms: int) -> str:
    """One plain line about a trial that has ended."""
    metric, best = table.metric, best_trial(table)
    value = queries.score(trial, metric)
    parts = [f"{_which(trial, table.budget.trials)}: {trial.state}"]
    if trial.epochs:
        parts[0] += f" after epoch {trial.epochs} of {trial.config.num_epochs}"
    if value is not None:
        parts.append(f"{queries.metric_name(metric)} {value:.3f}")
    if trial.reason and (value is None or trial.state == "failed"):
        parts.append(trial.reason)
    if best is not None:
        parts.append("the best so far" if best is trial else f"best {queries.best_text(best, metric)}")
    left_s = time_left_s(table, at_ms)
    return ", ".join([*parts, f"about {duration(left_s)} left"] if left_s else parts)


def status_line(shot: Snapshot) -> str:
    """One plain line about a search under way."""
    parts = [_where(shot)]
    if shot.best is not None:
        parts.append(f"best {queries.best_text(shot.best, shot.metric)}")
    if shot.left_s is not None:
        parts.append(f"about {duration(shot.left_s)} left")
    return ", ".join([*parts, *(f"{label} {text}" for label, text in shot.extras.items() if text)])


def _where(shot: Snapshot) -> str:
    if shot.current is None:
        return "waiting for the first trial"
    trial = shot.current
    epoch = min(trial.epochs + (trial.state == "running"), trial.config.num_epochs)
    return f"{_which(trial, shot.trials_asked)}, epoch {epoch} of {trial.config.num_epochs}"


def _which(trial: Trial, asked: int | None) -> str:
    if trial.repeats is not None:
        return f"trial {trial.number}, repeating trial {trial.repeats}"
    return f"trial {trial.number}" if asked is None else f"trial {trial.number} of {asked}"


@dataclass(frozen=True)
class _Screen:
    """The live display of a snapshot, at whatever width and in whatever characters the terminal has."""

    shot: Snapshot

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.console import Group
        from rich.padding import Padding

        yield Padding(Group(*self._lines(options.ascii_only or options.legacy_windows)), (1, 0, 0, 1))

    def _lines(self, ascii_only: bool) -> list[RenderableType]:
        from rich.progress_bar import ProgressBar
        from rich.table import Table as Grid
        from rich.text import Text

        shot = self.shot
        head = Text.assemble((shot.name, "bold"), "  ", _where(shot), overflow="ellipsis", no_wrap=True)
        bar = Grid.grid(expand=True, padding=(0, 2, 0, 0))
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        bar.add_row(ProgressBar(total=1, completed=shot.share), self._clock())
        lines: list[RenderableType] = [head, bar, Text(""), self._sparks(ascii_only)]
        if shot.leaders:
            lines += [Text(""), leaderboard(shot.leaders, shot.metric)]
        if shot.gain is not None and shot.gain > 0:
            lines.append(Text(f"{shot.gain:.3f} better than the default", style="green"))
        lines += [Text(""), Text(queries.states_text(shot.counts), style="dim")]
        lines += [Text(f"{label}  {text}", style="dim") for label, text in shot.extras.items() if text]
        if shot.trouble:
            lines += [Text(""), Text(shot.trouble, style="bold red")]
        return lines

    def _clock(self) -> str:
        if self.shot.left_s is None:
            return "time left: known after the first epoch"
        end = time.strftime("%H:%M", time.localtime(time.time() + self.shot.left_s))
        return f"about {duration(self.shot.left_s)} left, until {end}"

    def _sparks(self, ascii_only: bool) -> RenderableType:
        """The current trial's curve above the best one's, on the same scale."""
        from rich.table import Table as Grid

        shot = self.shot
        rows = [("this trial", shot.current, "cyan"), ("best so far", shot.best, "green")]
        top = max((max(trial.values(shot.metric), default=0.0) for _, trial, _ in rows if trial), default=0.0)
        grid = Grid.grid(padding=(0, 2, 0, 0))
        for label, trial, style in rows:
            if trial is None or not trial.epochs:
                grid.add_row(label, "", "no score yet")
                continue
            values = trial.values(shot.metric)
            value = max(values) if trial is shot.best else values[-1]
            text = f"{queries.metric_name(shot.metric)} {value:.3f}, trial {trial.number}"
            grid.add_row(label, f"[{style}]{sparkline(values, top=top, ascii_only=ascii_only)}[/]", text)
        return grid
