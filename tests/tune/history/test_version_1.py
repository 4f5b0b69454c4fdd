"""Journals that version 1 of the program wrote, at commit 9239487: read, shown, and not written to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.builders import START_MS
from tune.history.events import Event
from tune.history.journal import Follower, read_table
from tune.policy.replication import best_trial
from tune.reporting.html_report import page, trials_csv
from tune.reporting.mlflow_runs import Translator
from tune.settings import Budget
from vqc.errors import SearchError

FOLDER = Path(__file__).parent / "journals"
JOURNALS = ("version_1.jsonl", "version_1_resumed.jsonl")


def seconds_between(lines: list[dict[str, object]]) -> float:
    return (int(str(lines[-1]["at_ms"])) - int(str(lines[0]["at_ms"]))) / 1000


def lines_of(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", JOURNALS)
def test_all_that_it_says_is_read(name: str) -> None:
    table = read_table(FOLDER / name)
    lines = lines_of(name)
    ended = {line["trial"]: line["state"] for line in lines if line["event"] == "trial_ended"}
    assert {number: trial.state for number, trial in table.trials.items()} == ended
    epochs = [line for line in lines if line["event"] == "epoch"]
    assert sum(trial.epochs for trial in table.trials.values()) == len(epochs)
    assert [trial.origin for trial in table.trials.values() if trial.repeats] == ["repeat"] * (
        len(ended) - len(table.searched)
    )
    assert table.budget == Budget(trials=len(table.searched))
    assert table.settings.metric == "ap50"
    best = best_trial(table)
    assert best is not None
    assert best.best("ap50")[0] > 0.49


def test_its_seconds_are_the_wall_clock_of_a_search_that_never_paused() -> None:
    table = read_table(FOLDER / JOURNALS[0])
    assert table.awake_s == pytest.approx(seconds_between(lines_of(JOURNALS[0])))


def test_pauses_between_its_sessions_do_not_count() -> None:
    lines = lines_of(JOURNALS[1])
    at = next(k for k, line in enumerate(lines) if line["event"] == "search_resumed")
    table = read_table(FOLDER / JOURNALS[1])
    assert table.sessions == 2
    assert table.awake_s == pytest.approx(seconds_between(lines[:at]) + seconds_between(lines[at:]))


@pytest.mark.parametrize("name", JOURNALS)
def test_it_is_shown_as_any_other(name: str) -> None:
    table = read_table(FOLDER / name)
    assert "AP50" in page(table)
    assert trials_csv(table).count("\n") == 1 + len(table.trials)
    translator = Translator()
    updates = [update for event in Follower(FOLDER / name).poll() for update in translator.updates(event)]
    assert {update.run for update in updates} == {0, *table.trials}


def events_of(*lines: dict[str, object], folder: Path) -> list[Event]:
    path = folder / "journal.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return list(Follower(path).poll())


def test_time_asleep_that_it_noted_does_not_count(tmp_path: Path) -> None:
    first = {**lines_of(JOURNALS[0])[0], "at_ms": START_MS}
    leapt = {"event": "clock_leapt", "at_ms": START_MS + 3_600_000, "lost_ms": 3_590_000}
    end = {"event": "search_ended", "at_ms": START_MS + 3_605_000, "reason": "hours"}
    assert [event.awake_s for event in events_of(first, leapt, end, folder=tmp_path)] == [0.0, 15.0]


@pytest.mark.parametrize(
    "broken", [{"event": "coffee"}, {"event": "trial_paused", "at_ms": 1}, {"event": "search_resumed"}]
)
def test_a_line_that_it_never_wrote_is_named(broken: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="line 2: not an event of this journal"):
        events_of(lines_of(JOURNALS[0])[0], broken, folder=tmp_path)
