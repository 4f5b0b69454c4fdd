"""Every test here is of the marker ``faults``; what they find is kept as a table in this folder's README.md.

``pytest -m faults`` runs all of them and renews the table's rows; the normal run takes the quick ones, writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest

from tests.faults.night import Night

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
HEAD = "| fault | injected | lost | going again after, s | seen on |"
LINE = re.compile(r"^\| (?P<fault>[^|]+?) \|.*\|$")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault: how often it was injected, how much was lost (epochs, trials, points, figures), and seconds until the
    search was going again (the longest), None where nothing had stopped.
    """

    fault: str
    injected: int
    lost: int
    again_s: float | None = None

    def __add__(self, other: Row) -> Row:
        """Both together, where several tests inject the same fault."""
        again_s = max((one for one in (self.again_s, other.again_s) if one is not None), default=None)
        injected, lost = self.injected + other.injected, self.lost + other.lost
        return Row(fault=self.fault, injected=injected, lost=lost, again_s=again_s)

    def __str__(self) -> str:
        again = "-" if self.again_s is None else f"{self.again_s:.1f}"
        return f"| {self.fault} | {self.injected} | {self.lost} | {again} | {date.today().isoformat()} |"


_rows = pytest.StashKey[list[Row]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_rows] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.faults)


def pytest_sessionfinish(session: pytest.Session) -> None:
    rows = session.config.stash[_rows]
    if rows and "faults" in session.config.option.markexpr.split():
        README.write_text(renewed(README.read_text(encoding="utf-8"), rows), encoding="utf-8")


def renewed(text: str, rows: list[Row]) -> str:
    """The page with these rows in its table, those of one fault as one; rows of faults that were not injected this
    time stay as they were.
    """
    before, head, table = text.partition(HEAD)
    rule, *old = table.strip().splitlines()
    kept = {match["fault"]: line for line in old if (match := LINE.match(line))}
    kept |= {row.fault: str(row) for row in merged(rows)}
    return "\n".join([before + head, rule, *(kept[fault] for fault in sorted(kept))]) + "\n"


def merged(rows: list[Row]) -> list[Row]:
    """One row for each fault."""
    found: dict[str, Row] = {}
    for row in rows:
        found[row.fault] = found[row.fault] + row if row.fault in found else row
    return list(found.values())


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[Row], None]:
    """Takes the row of a fault for the table."""
    return request.config.stash[_rows].append


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Callable[..., Night]]:
    """Makes searches in the test's folder, with ``Night``'s arguments; ends what is left of them."""
    made: list[Night] = []

    def make(**arguments: object) -> Night:
        made.append(Night(folder=tmp_path, **arguments))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()
