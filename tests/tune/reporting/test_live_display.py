"""The terminal: what is shown, in which characters, and how well the time left is foretold."""

from __future__ import annotations

import io
import threading
from itertools import takewhile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import events, where_repeats_disagree, write_journal
from tune.history.events import TrialEnded, TrialProposed
from tune.history.journal import table_of
from tune.policy.replication import best_trial
from tune.reporting import live_display
from tune.reporting.live_display import Progress, snapshot
from vqc.reporting.terminal import SPARK_CELLS, sparkline


def terminal(encoding: str = "utf-8") -> io.TextIOWrapper:
    """A text stream that cannot show what its code page lacks."""
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n", write_through=True)


def text_of(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(stream.encoding)


@given(cut=st.integers(1, 40), wait_ms=st.integers(0, 10**7))
def test_any_beginning_of_a_journal_has_a_snapshot(cut: int, wait_ms: int) -> None:
    some = events(trials=6, epochs=6)[:cut]
    shot = snapshot(table_of(some), some[-1].at_ms + wait_ms)
    assert 0 <= shot.share <= 1
    assert sum(shot.counts.values()) == sum(isinstance(event, TrialProposed) for event in some)
    assert shot.left_s is None or shot.left_s >= 0
    assert live_display.status_line(shot).startswith(("trial ", "waiting for the first trial"))


def test_the_snapshot_knows_the_running_trial_the_best_and_the_gain() -> None:
    some = list(takewhile(lambda e: not (isinstance(e, TrialEnded) and e.trial == 5), events(trials=6)))
    shot = snapshot(table_of(some), some[-1].at_ms)
    assert shot.current is not None
    assert shot.current.number == 5
    assert shot.best is not None
    assert shot.gain == pytest.approx(shot.best.best("ap50")[0] - table_of(some).trials[1].best("ap50")[0])


@pytest.mark.parametrize(("ascii_only", "drawn"), [(False, "▁▄█"), (True, ".=#")])
def test_a_sparkline_spans_its_levels(ascii_only: bool, drawn: str) -> None:
    assert sparkline([0.0, 0.4, 0.9], top=0.9, ascii_only=ascii_only) == drawn


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=500))
def test_a_sparkline_always_fits(values: list[float]) -> None:
    line = sparkline(values, top=max(values), ascii_only=False)
    assert len(line) == min(len(values), SPARK_CELLS)


def test_after_repeats_the_best_is_that_of_the_highest_mean() -> None:
    table = table_of(where_repeats_disagree())
    shot = snapshot(table, table.last_ms)
    assert shot.best is best_trial(table)
    assert shot.best is not table.leaders()[0]
    assert f"best {shot.best.best('ap50')[0]:.3f} (trial {shot.best.number})" in live_display.status_line(shot)
    assert len(shot.leaders) == len({trial.number for trial in shot.leaders}) == 3


def run_through(tmp_path: Path, stream: io.TextIOWrapper, *, live: bool, name: str = "demo") -> str:
    """Follow a whole search that is written while it is shown."""
    first, *rest = events(trials=6, name=name)
    journal = write_journal(tmp_path / "journal.jsonl", [first])
    shown = Progress(journal, stream=stream, live=live, extras=lambda: {"GPU": "4.1 of 6.0 GB, 71 °C"})
    shown.start()
    write_journal(journal, rest)
    shown.stop()
    return text_of(stream)


def test_plain_lines_tell_each_end_once_and_hold_no_escape_codes(tmp_path: Path) -> None:
    first, *rest = events(trials=6)
    journal = write_journal(tmp_path / "journal.jsonl", [first])
    stream = terminal()
    shown = Progress(journal, stream=stream)
    for event in shown._follower.poll():
        shown._table.apply(event)
    write_journal(journal, rest)
    shown._done.set()
    shown._print_news()
    lines = text_of(stream).splitlines()
    assert [line.split(":")[0] for line in lines] == [f"trial {number} of 6" for number in range(1, 7)]
    assert "infeasible, one image of 160x160 does not fit" in lines[2]
    assert "\x1b" not in text_of(stream)


def test_why_a_search_waits_is_told_once_and_so_is_its_going_on(tmp_path: Path) -> None:
    stream, troubles = terminal(), iter(["", "The disk is full.", "The disk is full.", ""])
    shown = Progress(tmp_path / "none.jsonl", stream=stream, trouble=lambda: next(troubles))
    for _ in range(4):
        shown._print_news()
    assert text_of(stream).splitlines() == ["The disk is full.", "The search goes on."]


def test_the_live_display_says_why_a_search_waits(tmp_path: Path) -> None:
    stream = terminal()
    journal = write_journal(tmp_path / "journal.jsonl", events())
    shown = Progress(journal, stream=stream, live=True, trouble=lambda: "The disk is full.")
    shown.start()
    shown.stop()
    assert "The disk is full." in text_of(stream)


def test_what_was_there_before_is_not_told_again(tmp_path: Path) -> None:
    stream = terminal()
    shown = Progress(write_journal(tmp_path / "journal.jsonl", events(trials=4)), stream=stream)
    shown.start()
    shown.stop()
    assert text_of(stream) == ""


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "cp437", "ascii"])
def test_the_live_display_lives_with_every_code_page(tmp_path: Path, encoding: str) -> None:
    told = run_through(tmp_path, terminal(encoding), live=True, name="metal")
    assert "metal" in told
    assert "best so far" in told
    assert "ended (" not in told


def test_a_fault_of_the_display_stays_its_own(tmp_path: Path) -> None:
    def broken() -> dict[str, str]:
        raise RuntimeError("no driver")

    stream = terminal()
    shown = Progress(write_journal(tmp_path / "journal.jsonl", events()), stream=stream, live=True, extras=broken)
    shown.start()
    shown.stop()
    assert "RuntimeError: no driver); the search goes on" in text_of(stream)


def test_stopping_is_harmless_before_the_start_and_twice(tmp_path: Path) -> None:
    shown = Progress(tmp_path / "none.jsonl", stream=terminal())
    shown.stop()
    shown.start()
    shown.stop()
    shown.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_a_closed_stream_is_no_matter(tmp_path: Path) -> None:
    stream = terminal()
    shown = Progress(write_journal(tmp_path / "journal.jsonl", events()), stream=stream, live=True)
    stream.close()
    shown.start()
    shown.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]
