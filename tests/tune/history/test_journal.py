"""The journal: what a crash leaves, what a follower sees, what the table says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import START_MS, at, epoch_report, events, write_journal
from tune.history.events import (
    EVENT,
    AttemptFailed,
    Ended,
    EpochMeasured,
    Event,
    SearchEnded,
    SearchResumed,
    TrialEnded,
    TrialPaused,
    TrialProposed,
    TrialShortened,
    TrialStarted,
    WorkerReplaced,
)
from tune.history.journal import Follower, Journal, read_table, table_of
from tune.history.table import Table
from tune.settings import Budget
from vqc.config import TrainConfig
from vqc.errors import SearchError

SOME = events(trials=4, epochs=3)
LINES = [event.model_dump_json().encode() + b"\n" for event in SOME]
WHOLE = b"".join(LINES)
CONFIG = TrainConfig()
STARTED = SOME[0]
FASTER = {"concurrent": 3}


def table(*some: Event) -> Table:
    return table_of([STARTED, *some], Path("journal.jsonl"))


def proposed(trial: int = 1) -> TrialProposed:
    return TrialProposed(**at(START_MS + 0), trial=trial, params={}, config=CONFIG, origin="default")


def started(trial: int = 1, after_epoch: int = 0) -> TrialStarted:
    return TrialStarted(**at(START_MS + 1), trial=trial, after_epoch=after_epoch, worker="1@here")


def measured(epoch: int, ap50: float = 0.5, trial: int = 1) -> EpochMeasured:
    return EpochMeasured(**at(START_MS + 2), trial=trial, report=epoch_report(epoch, ap50=ap50))


def ended(state: Ended = "completed", trial: int = 1) -> TrialEnded:
    return TrialEnded(**at(START_MS + 3), trial=trial, state=state, reason="because")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write_journal(tmp_path / "new" / "journal.jsonl", SOME)
    assert list(Follower(path).poll()) == SOME


def test_each_event_is_on_the_disk_when_append_returns(tmp_path: Path) -> None:
    book, follower = Journal(tmp_path / "journal.jsonl"), Follower(tmp_path / "journal.jsonl")
    seen = []
    for event in SOME:
        book.append(event)
        seen.append(list(follower.poll()))
    book.close()
    assert seen == [[event] for event in SOME]


def test_opening_again_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write_journal(path, SOME[:3])
    write_journal(path, SOME[3:])
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize("kept", range(1, len(LINES[-1])))
def test_a_line_torn_at_any_byte_is_taken_back_and_written_anew(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(LINES[0] + LINES[-1][:kept])
    assert list(Follower(path).poll()) == SOME[:1]
    write_journal(path, SOME[-1:])
    assert path.read_bytes() == LINES[0] + LINES[-1]


@pytest.mark.parametrize("torn", [b"", b"{", b"\0" * 4096, LINES[0][:-1]])
def test_a_first_line_that_was_never_finished_leaves_no_search(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(torn)
    with pytest.raises(SearchError, match="no search was begun here"):
        read_table(path)
    Journal(path).close()
    assert path.read_bytes() == b""


@given(cuts=st.lists(st.integers(0, len(WHOLE)), max_size=12).map(sorted))
def test_a_follower_sees_each_event_once_however_the_file_grows(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("grown") / "journal.jsonl"
    follower, seen, whole_lines = Follower(path), [], []
    for cut in [*cuts, len(WHOLE)]:
        path.write_bytes(WHOLE[:cut])
        seen += list(follower.poll())
        whole_lines.append((len(seen), WHOLE[:cut].count(b"\n")))
    shutil.rmtree(path.parent)
    assert seen == SOME
    assert [count for count, _ in whole_lines] == [lines for _, lines in whole_lines]


def test_a_poll_that_is_left_early_is_gone_on_with(tmp_path: Path) -> None:
    follower = Follower(write_journal(tmp_path / "journal.jsonl", SOME))
    first = next(follower.poll())
    assert [first, *follower.poll()] == SOME


def test_nothing_there_is_no_event(tmp_path: Path) -> None:
    assert list(Follower(tmp_path / "none.jsonl").poll()) == []


def test_a_folder_is_not_a_journal(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="cannot be read"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"not JSON",
        b"[]",
        b"{}",
        b'{"event": "coffee", "at_ms": 1}',
        b'{"event": "trial_paused", "at_ms": 1}',
        b'{"event": "trial_paused", "at_ms": 1, "trial": 1, "more": 2}',
        b"\xff\xfe",
        b"a\rb",
    ],
    ids=repr,
)
def test_a_wrong_line_is_named_by_its_number(tmp_path: Path, wrong: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(LINES[:2]) + wrong + b"\n" + LINES[2])
    with pytest.raises(SearchError, match=r"journal\.jsonl, line 3: not an event of this journal") as caught:
        read_table(path)
    assert "\n" not in caught.value.what


def test_line_ends_of_windows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(WHOLE.replace(b"\n", b"\r\n"))
    assert list(Follower(path).poll()) == SOME


@pytest.mark.parametrize(
    "event", [started(9), measured(1, trial=9), TrialPaused(**at(START_MS + 1), trial=9), ended(trial=9)]
)
def test_an_event_of_a_trial_that_was_never_proposed(event: Event) -> None:
    with pytest.raises(SearchError, match="names trial 9, which it never proposed"):
        table(event)


def test_every_kind_of_event_is_read_back(tmp_path: Path) -> None:
    rare: list[Event] = [
        SearchResumed(
            **at(START_MS + 1), command="again", budget=Budget(trials=40, hours=2.0), settings={"concurrent": 2}
        ),
        proposed(),
        TrialPaused(**at(START_MS + 2), trial=1),
        TrialShortened(**at(START_MS + 2), trial=1, num_epochs=2),
        WorkerReplaced(**at(START_MS + 3), worker="1@here", reason="kept 2 GB"),
        AttemptFailed(**at(START_MS + 3), trial=1, after_epoch=0, reason="boom"),
    ]
    path = write_journal(tmp_path / "journal.jsonl", [*SOME, *rare])
    assert list(Follower(path).poll()) == [*SOME, *rare]
    assert {event.event for event in [*SOME, *rare]} == {kind.model_fields["event"].default for kind in get_args(Event)}


PARAMS = st.dictionaries(
    st.text(max_size=5),
    st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
)


@given(PARAMS)
def test_searched_values_keep_their_kind(params: dict[str, float | int | str]) -> None:
    """8 stays a whole number and 8.0 does not become one: Optuna tells them apart."""
    event = TrialProposed(**at(START_MS + 1), trial=1, params=params, config=CONFIG, origin="sampler")
    back = EVENT.validate_json(event.model_dump_json())
    assert isinstance(back, TrialProposed)
    assert json.dumps(back.params) == json.dumps(params)


def test_a_resumed_trial_goes_on_behind_its_checkpoint() -> None:
    trial = table(proposed(), started(), measured(1), measured(2), measured(3), started(after_epoch=1)).trials[1]
    assert [report.epoch for report in trial.reports] == [1]


def test_a_resumed_trial_is_no_longer_ended() -> None:
    trial = table(proposed(), started(), measured(1), ended("interrupted"), started(after_epoch=1)).trials[1]
    assert (trial.state, trial.reason, trial.ended_s, trial.started_s) == ("running", "", None, 0.001)


def test_a_shortened_trial_has_fewer_epochs_and_keeps_all_else() -> None:
    before = table(proposed(), started(), measured(1), TrialPaused(**at(START_MS + 1), trial=1)).trials[1]
    trial = table(
        proposed(), started(), measured(1), TrialPaused(**at(START_MS + 1), trial=1),
        TrialShortened(**at(START_MS + 2), trial=1, num_epochs=2),
    ).trials[1]  # fmt: skip
    assert trial.config == before.config.model_copy(update={"num_epochs": 2})
    assert (trial.state, trial.epochs, trial.shortened, before.shortened) == ("paused", 1, True, False)


def test_an_epoch_told_twice_counts_once() -> None:
    assert table(proposed(), started(), measured(1, 0.3), measured(1, 0.9)).trials[1].values("ap50") == [0.3]


def test_a_resumed_search_is_not_ended_and_has_its_new_budget_and_settings() -> None:
    found = table(
        SearchEnded(at_ms=START_MS + 10_000, awake_s=10.0, reason="interrupted"),
        SearchResumed(
            at_ms=START_MS + 90_000, awake_s=10.0, command="again", budget=Budget(hours=1.0), settings=FASTER
        ),
        WorkerReplaced(at_ms=START_MS + 95_000, awake_s=15.0, worker="1", reason="died"),
    )
    assert (found.ended, found.sessions, found.awake_s) == (None, 2, 15.0)
    assert (found.budget.trials, found.budget.hours, found.left_s()) == (None, 1.0, 3595.0)
    assert (found.settings.concurrent, found.settings.budget) == (3, Budget(hours=1.0))
    again = found.resumed
    assert again is not None
    found.apply(again.model_copy(update={"settings": {"vram_gb": 4.0}}))
    assert (found.settings.concurrent, found.settings.vram_gb) == (3, 4.0)


def test_a_failed_attempt_is_kept_until_the_next_epoch() -> None:
    failed = AttemptFailed(**at(START_MS), trial=1, after_epoch=1, reason="boom")
    trial = table(proposed(), started(), measured(1), failed).trials[1]
    assert (trial.state, trial.reason, len(trial.failures_here())) == ("interrupted", "boom", 1)
    trial = table(proposed(), started(), measured(1), failed, started(after_epoch=1), measured(2)).trials[1]
    assert (trial.failures, trial.failures_here()) == ([failed], [])


def test_trials_that_fail_in_a_row_are_known_until_something_is_measured() -> None:
    some = [proposed(1), ended("failed", 1), proposed(2), ended("failed", 2)]
    assert [trial.number for trial in table(*some).failed_in_a_row] == [1, 2]
    assert table(*some, proposed(3), started(3), measured(1, trial=3)).failed_in_a_row == []


def test_the_best_epoch_is_the_first_that_reached_the_value() -> None:
    found = table(proposed(), started(), measured(1, 0.2), measured(2, 0.7), measured(3, 0.7))
    assert found.trials[1].best("ap50") == (0.7, 2)


def test_a_trial_without_an_epoch_has_no_best_and_does_not_lead() -> None:
    found = table(proposed(1), proposed(2), started(2), measured(1, 0.0, trial=2))
    assert found.trials[1].best("ap50") == (0.0, 0)
    assert [trial.number for trial in found.leaders()] == [2]


def test_equal_values_lead_in_the_order_of_proposal() -> None:
    some = [event for trial in (2, 1, 3) for event in (proposed(trial), started(trial), measured(1, 0.4, trial))]
    assert [trial.number for trial in table(*some).leaders()] == [1, 2, 3]


HAPPENINGS = st.lists(
    st.tuples(st.sampled_from(["start", "epoch", "pause", "shorten", "end"]), st.integers(1, 3), st.integers(0, 6)),
    max_size=40,
)
STATES: tuple[Ended, ...] = ("completed", "stopped", "infeasible", "failed", "interrupted")


def event_of(kind: str, trial: int, number: int) -> Event:
    return {
        "start": lambda: started(trial, after_epoch=number),
        "epoch": lambda: measured(number + 1, ap50=number / 10, trial=trial),
        "shorten": lambda: TrialShortened(**at(START_MS + 0), trial=trial, num_epochs=number + 1),
        "pause": lambda: TrialPaused(**at(START_MS + 0), trial=trial),
        "end": lambda: ended(STATES[number % 5], trial),
    }[kind]()


@given(HAPPENINGS)
def test_whatever_happens_the_table_holds_together(happenings: list[tuple[str, int, int]]) -> None:
    found = table(proposed(1), proposed(2), proposed(3), *(event_of(*one) for one in happenings))
    leaders = found.leaders()
    bests = [trial.best("ap50")[0] for trial in leaders]
    assert bests == sorted(bests, reverse=True)
    assert {trial.number for trial in leaders} == {n for n, trial in found.trials.items() if trial.epochs}
    for trial in found.trials.values():
        assert [report.epoch for report in trial.reports] == list(range(1, trial.epochs + 1))
        assert (trial.ended_s is not None) == (trial.state in STATES)
        assert len(trial.values("ap50")) == trial.epochs


def test_a_long_search_is_read_whole(tmp_path: Path) -> None:
    head = [STARTED.model_dump_json(), proposed().model_dump_json(), started().model_dump_json()]
    line = measured(1).model_dump_json()
    tail = [line.replace('"epoch":1,', f'"epoch":{epoch},', 1) for epoch in range(1, 20_001)]
    path = tmp_path / "journal.jsonl"
    path.write_text("\n".join([*head, *tail]) + "\n", encoding="utf-8")
    assert read_table(path).trials[1].epochs == 20_000


def test_a_table_without_a_header_says_so() -> None:
    with pytest.raises(SearchError, match="the journal has no first line"):
        _ = Table().metric
