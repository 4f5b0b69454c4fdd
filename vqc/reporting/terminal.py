"""Durations and sparklines, written the same way in every terminal display."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.table import Table

    from vqc.data.defect_size import DefectSizes

T = TypeVar("T")

SPARK_CELLS = 30


def plain_table(*titles: str, left: Sequence[int] = (0,)) -> Table:
    """An empty table with a line below its titles; columns that are not named in ``left`` are aligned to the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for position, title in enumerate(titles):
        table.add_column(title, justify="left" if position in left else "right")
    return table


def image_counts(title: str, splits: Sequence[str], rows: Iterable[tuple[str, Sequence[int]]]) -> Table:
    """A column for each split and a row for each count, so that any number of categories fits the terminal's width."""
    from rich.markup import escape

    table = plain_table(escape(title), *splits)
    for name, counts in rows:
        table.add_row(escape(name), *(f"{count:,}" for count in counts))
    return table


def size_grid(sizes: Sequence[DefectSizes]) -> Table:
    """A row for the photographs and each detector's input, a column for each quantile of the defects' sides."""
    from vqc.data.defect_size import QUANTILES

    table = plain_table("shorter sides of defects", *(f"{share:.0%}" for share in QUANTILES), "", left=(0, 4))
    for one in sizes:
        table.add_row(one.place, *(f"{px:.1f} px" for px in one.sides_px), "too small" if one.enlargement > 1 else "")
    return table


def duration(seconds: float) -> str:
    """Seconds in readable units: 41 s, 12 min, 3 h 05 min, 120 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds >= 360_000:
        return f"{seconds / 3600:,.0f} h"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def track(items: Sequence[T]) -> Iterable[T]:
    """The items; on a terminal, standard error shows meanwhile how many are done and the time left."""
    from rich.console import Console
    from rich.progress import track as rich_track

    return rich_track(items, "", console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A function of what is done and of all that is to be done; on a terminal, standard error shows it meanwhile."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def sparkline(values: Sequence[float], *, top: float, ascii_only: bool) -> str:
    """One character per value, or per mean of several where more than fit; ``top`` has full height."""
    levels = "._-=+*#" if ascii_only else "▁▂▃▄▅▆▇█"
    width = min(len(values), SPARK_CELLS)
    cells = [values[i * len(values) // width : (i + 1) * len(values) // width] for i in range(width)]
    means = [sum(cell) / len(cell) for cell in cells]
    return "".join(levels[min(len(levels) - 1, int(mean / top * len(levels))) if top > 0 else 0] for mean in means)
