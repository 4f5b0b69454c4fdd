"""Two searches at once: of the same name the second is refused, of different names both work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Row
from tests.faults.mirrored import differences
from tests.faults.night import PATIENCE_S, ROOT, SETTINGS, Night, outcome, repeated_epochs
from tests.images import write_data
from tune.execution.session import Session, new_session, resumed_session
from tune.history.journal import read_table
from tune.paths import journal_of
from vqc.errors import SearchError
from vqc.results import cache_folder

SHORT = {"budget": {"trials": 3}}


def has_epoch(night: Night) -> bool:
    return any(trial.epochs for trial in night.table.trials.values())


def refused(night: Night, *flags: str) -> str:
    """What a second search of the same name says, once it has been refused."""
    words = ["--name", night.name, "--results", str(night.results), *flags]
    second = subprocess.run(
        [sys.executable, "tune/search.py", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert second.returncode == 2
    assert second.stdout == ""
    return second.stderr.replace("uv run ", "")  # where the tests run under uv


def prepared(folder: Path, *, again: bool) -> Session:
    """A session of one and the same search, as a process prepares it before it waits for the lock."""
    if again:
        return resumed_session(name="night", results=folder, flags={}, command="")
    config = folder / "night.json"
    config.write_text(json.dumps({**SETTINGS, **SHORT}), encoding="utf-8")
    return new_session(
        name="night", results=folder, data_folder=folder / "data", config=config, flags={}, command="", gpus=False
    )


@pytest.mark.parametrize("again", [False, True], ids=["both start", "both resume"])
def test_what_was_read_before_another_process_wrote_is_not_continued(tmp_path: Path, again: bool) -> None:
    write_data(tmp_path / "data")
    if again:
        prepared(tmp_path, again=False).open_journal().close()
    first, second = prepared(tmp_path, again=again), prepared(tmp_path, again=again)
    first.open_journal().close()
    before = journal_of(first.folder).read_bytes()
    with pytest.raises(SearchError, match="another process continued this search in the meantime"):
        second.open_journal()
    assert journal_of(first.folder).read_bytes() == before
    prepared(tmp_path, again=True).open_journal().close()


@pytest.mark.parametrize("written", [b"", b'{"at_ms":1'])
def test_a_search_that_was_killed_over_its_first_line_can_be_started_again(tmp_path: Path, written: bytes) -> None:
    write_data(tmp_path / "data")
    journal = journal_of(tmp_path / "night")
    journal.parent.mkdir()
    journal.write_bytes(written)
    prepared(tmp_path, again=False).open_journal().close()
    assert read_table(journal).header.name == "night"


@pytest.mark.slow
def test_the_second_of_a_name_is_refused_until_the_first_is_gone(
    night: Callable[..., Night], record: Callable[[Row], None]
) -> None:
    first = night(settings=SHORT, images=40)
    first.begin()
    first.wait_for(lambda _: has_epoch(first))
    new = refused(first, "--data", str(first.folder / "data"), "--config", str(first.config))
    resumed = refused(first, "--resume")
    assert new.splitlines() == [
        f"{first.results / first.name}: a search of this name exists",
        f"  next: python tune/search.py --name {first.name} --resume",
    ]
    assert resumed.splitlines() == [
        f"{first.results / first.name}: another process is running this search",
        "  next: python tune/search.py --name OTHER",
    ]
    first.kill("driver")
    first.ended()
    known = sum(trial.epochs for trial in first.table.trials.values())
    first.resume()
    again_s = first.wait_for(lambda table: sum(trial.epochs for trial in table.trials.values()) > known)
    assert first.ended() == 0, first.said[-2000:]
    lost = repeated_epochs(first.journal) + sum(trial.state == "failed" for trial in first.table.trials.values())
    record(Row(fault="a second search of the same name", injected=2, lost=lost, again_s=again_s))
    assert lost == 0


@pytest.mark.slow
def test_searches_of_different_names_share_the_machine_and_the_cache(
    night: Callable[..., Night], record: Callable[[Row], None]
) -> None:
    pair = [night(settings=SHORT, images=40, name=name) for name in ("one", "two")]
    for one in pair:
        one.begin()
    for one in pair:
        assert one.ended() == 0, one.said[-2000:]
    tables = [outcome(one.table) for one in pair]
    differing = [number for number in tables[0] | tables[1] if tables[0].get(number) != tables[1].get(number)]
    wrong = [line for one in pair for line in differences(one.results / "mlflow.db", one.journal)]
    record(Row(fault="two searches at once", injected=1, lost=len(differing) + len(wrong)))
    assert differing == []
    assert wrong == []
    kept = sorted(path.name.rpartition("-")[2] for path in cache_folder(pair[0].results).rglob("*.npy"))
    assert kept == ["train.npy", "val.npy"]
    assert [line for one in pair for line in one.left_behind()] == []
