"""What the runs in MLflow should hold, from made-up journals; without MLflow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import START_MS, at, epoch_report, events, where_repeats_disagree, with_repeats
from tune.history.events import (
    AttemptFailed,
    EpochMeasured,
    Event,
    SearchEnded,
    SearchResumed,
    TrialEnded,
    TrialProposed,
    TrialShortened,
    TrialStarted,
)
from tune.history.journal import table_of
from tune.history.table import Table
from tune.policy.replication import best_trial
from tune.reporting import mlflow_runs
from tune.reporting.mlflow_runs import PARENT, Translator, Update
from tune.settings import Budget
from vqc.tracking.mlflow_client import Point


def merged(some: list[Event]) -> dict[int, Update]:
    """Run -> all updates of it as one."""
    translator, runs = Translator(), {}
    for event in some:
        for update in translator.updates(event):
            if update.run in runs:
                runs[update.run].merge(update)
            else:
                runs[update.run] = update
    return runs


def until(kind: type[Event], some: list[Event]) -> list[Event]:
    """Events up to and with the first of a kind."""
    return some[: next(i for i, event in enumerate(some) if isinstance(event, kind)) + 1]


def points(update: Update, name: str) -> list[Point]:
    return [point for point in update.points if point.name == name]


def test_one_parent_and_a_run_for_each_trial() -> None:
    runs = merged(events(trials=6))
    assert sorted(runs) == [PARENT, 1, 2, 3, 4, 5, 6]
    assert [runs[key].name for key in (PARENT, 1, 6)] == ["demo", "demo/001", "demo/006"]


@pytest.mark.parametrize(
    ("trial", "state", "status"),
    [(1, "completed", "FINISHED"), (2, "failed", "FAILED"), (3, "infeasible", "FAILED"), (4, "stopped", "FINISHED")],
)
def test_a_trial_ends_in_its_state(trial: int, state: str, status: str) -> None:
    some = events(trials=6)
    run = merged(some)[trial]
    (ended,) = [event for event in some if isinstance(event, TrialEnded) and event.trial == trial]
    assert (run.status, run.ended_ms) == (status, ended.at_ms)
    assert (run.tags["vqc.state"], run.tags["vqc.reason"]) == (state, ended.reason)


def test_an_epoch_is_a_point_at_its_step_and_time() -> None:
    some = events()
    epochs = [event for event in some if isinstance(event, EpochMeasured) and event.trial == 1]
    expected = [Point("val/ap50", event.report.scores.ap50 or 0.0, event.report.epoch, event.at_ms) for event in epochs]
    assert points(merged(some)[1], "val/ap50") == expected


def test_what_was_not_measured_is_no_point() -> None:
    names = {point.name for point in merged(events())[1].points}
    assert "class_ap/scratch" in names
    assert "class_ap/dent" not in names
    assert "system/peak_ram_gb" in names
    assert "system/peak_vram_gb" not in names


def test_params_are_the_configuration() -> None:
    run = merged(events())[2]
    assert run.params["image_size"] == "160"
    assert run.params["augmentation.horizontal_flip"] == "0.5"
    assert run.params["gpu_optimization.cudnn_benchmark"] == "true"
    (proposed,) = [event for event in events() if isinstance(event, TrialProposed) and event.trial == 2]
    assert float(run.params["learning_rate"]) == proposed.params["learning_rate"]  # to the last digit


def test_parent_shows_the_best_value_over_time() -> None:
    curve = points(merged(events(trials=12))[PARENT], "best_ap50")
    assert [p.value for p in curve] == sorted(p.value for p in curve)
    assert [p.step for p in curve] == sorted(p.step for p in curve)
    table = Translator().table
    for event in events(trials=12):
        table.apply(event)
    leader = table.leaders()[0]
    assert curve[-1].value == leader.best("ap50")[0]
    assert merged(events(trials=12))[PARENT].tags["vqc.best_trial"] == str(leader.number)


def test_after_repeats_the_best_trial_is_that_of_the_highest_mean() -> None:
    some = where_repeats_disagree()
    table = table_of(some)
    best = best_trial(table)
    assert best is not None
    assert best.number != table.leaders()[0].number
    parent = merged(some)[PARENT]
    assert parent.tags["vqc.best_trial"] == str(best.number)
    assert f"best: trial {best.number}, " in parent.tags["mlflow.note.content"]
    assert points(parent, "best_ap50")[-1].value == best.best("ap50")[0]


@pytest.mark.parametrize("leading_last", [False, True])
@pytest.mark.parametrize("cut", [0, 3])
def test_the_best_is_best_trial_after_every_event(cut: int, leading_last: bool) -> None:
    """Also where a resumption measures the leader's last epochs again and finds less."""
    some = where_repeats_disagree(leading_last=leading_last)
    leader = table_of(some[:-1]).leaders()[0]
    last = max(i for i, e in enumerate(some) if isinstance(e, EpochMeasured) and e.trial == leader.number)
    kept = leader.epochs - cut
    again = [
        TrialStarted(**at(some[last].at_ms), trial=leader.number, after_epoch=kept, worker="1@host"),
        EpochMeasured(**at(some[last].at_ms), trial=leader.number, report=epoch_report(kept + 1, ap50=0.01)),
    ]
    translator, table = Translator(), Table()
    best = ""
    for event in [*some[: last + 1], *again, *some[last + 1 :]]:
        table.apply(event)
        for update in translator.updates(event):
            best = update.tags.get("vqc.best_trial", best)
        expected = best_trial(table)
        assert best == ("" if expected is None else str(expected.number)), event


def test_many_trials_are_not_ranked_again_at_each_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the work would grow with the square of their number."""
    asked: list[Table] = []
    monkeypatch.setattr(mlflow_runs, "best_trial", lambda table: asked.append(table) or best_trial(table))
    merged(with_repeats(events(trials=300), {1: [0.2, 0.3]}))
    assert len(asked) < 30  # of 613 epochs those of the repeats, and of trials that lead then


def test_parent_says_what_was_searched() -> None:
    parent = merged(events())[PARENT]
    assert parent.params["space.learning_rate"] == "1e-4 to 0.01 (log)"
    assert parent.params["space.image_size"] == "96, 128, 160 px"
    assert parent.params["train.num_epochs"] == "6"
    assert parent.tags["vqc.data_fingerprint"] == "abc123"
    assert "6 of 6" in parent.tags["mlflow.note.content"]


@pytest.mark.parametrize(
    ("reason", "status"),
    [("trials", "FINISHED"), ("hours", "FINISHED"), ("interrupted", "KILLED"), ("failed", "FAILED")],
)
def test_the_end_of_a_search_leaves_nothing_running(reason: str, status: str) -> None:
    some = [*until(TrialStarted, events()), SearchEnded.model_validate({**at(START_MS + 900), "reason": reason})]
    runs = merged(some)
    assert (runs[PARENT].status, runs[PARENT].ended_ms) == (status, START_MS + 900)
    assert (runs[1].status, runs[1].ended_ms, runs[1].tags["vqc.state"]) == ("KILLED", START_MS + 900, "interrupted")


def test_a_resumed_trial_runs_again_and_ends_properly() -> None:
    some = until(EpochMeasured, events())
    some += [
        TrialEnded(**at(START_MS + 5_000), trial=1, state="interrupted", reason="Ctrl-C"),
        SearchEnded(**at(START_MS + 5_001), reason="interrupted"),
    ]
    assert merged(some)[1].status == "KILLED"
    some += [
        SearchResumed(**at(START_MS + 9_000), command="again", budget=Budget(trials=6)),
        TrialStarted(**at(START_MS + 9_001), trial=1, after_epoch=1, worker="1@host"),
    ]
    assert (merged(some)[1].status, merged(some)[1].ended_ms) == ("RUNNING", None)
    assert merged(some)[PARENT].status == "RUNNING"
    some += [
        EpochMeasured(**at(START_MS + 9_500), trial=1, report=epoch_report(2, ap50=0.4)),
        TrialEnded(**at(START_MS + 9_900), trial=1, state="completed", reason="all epochs"),
    ]
    assert (merged(some)[1].status, merged(some)[1].ended_ms) == ("FINISHED", START_MS + 9_900)
    assert [point.step for point in points(merged(some)[1], "val/ap50")] == [1, 2]


def test_failed_attempts_are_counted_and_explained() -> None:
    some = until(EpochMeasured, events())
    some.append(AttemptFailed(**at(START_MS + 5_000), trial=1, after_epoch=1, reason="RuntimeError: boom"))
    runs = merged(some)
    assert runs[1].status == "RUNNING"  # it is tried again
    assert (runs[1].tags["vqc.failed_attempts"], runs[1].tags["vqc.last_failure"]) == ("1", "RuntimeError: boom")
    assert points(runs[PARENT], "failed_attempts")[-1].value == 1
    assert "1 failed attempt" in runs[PARENT].tags["mlflow.note.content"]


def test_a_trial_that_waits_for_its_next_attempt_ends_with_the_search() -> None:
    some = until(EpochMeasured, events())
    some.append(AttemptFailed(**at(START_MS + 5_000), trial=1, after_epoch=1, reason="RuntimeError: boom"))
    some.append(SearchEnded(**at(START_MS + 6_000), reason="interrupted"))
    assert (merged(some)[1].status, merged(some)[1].ended_ms) == ("KILLED", START_MS + 6_000)


def test_a_killed_search_ends_where_its_journal_ends() -> None:
    some = until(EpochMeasured, events())
    killed_ms = some[-1].at_ms
    runs = merged([*some, SearchResumed(**at(killed_ms + 60_000), command="again", budget=Budget(trials=6))])
    assert (runs[1].status, runs[1].ended_ms) == ("KILLED", killed_ms)
    assert runs[PARENT].status == "RUNNING"


def test_cut_short_ends_what_is_open() -> None:
    translator = Translator()
    for event in until(EpochMeasured, events()):
        translator.updates(event)
    assert [(update.run, update.status) for update in translator.cut_short()] == [(PARENT, "KILLED"), (1, "KILLED")]
    translator.updates(SearchEnded(**at(START_MS), reason="interrupted"))
    assert translator.cut_short() == []


@given(trials=st.integers(1, 9), share=st.floats(0, 1))
def test_cutting_the_journal_anywhere_changes_no_update(trials: int, share: float) -> None:
    some = events(trials=trials)
    cut = round(share * len(some))
    whole, part = Translator(), Translator()
    all_of_them = [whole.updates(event) for event in some]
    assert [part.updates(event) for event in some[:cut]] == all_of_them[:cut]
    assert all(update.line == line for line, updates in enumerate(all_of_them, start=1) for update in updates)


def test_a_shortened_trial_s_epochs_are_a_tag_because_a_parameter_cannot_change() -> None:
    some = until(EpochMeasured, events())
    run = merged([*some, TrialShortened(**at(START_MS + 5_000), trial=1, num_epochs=2)])[1]
    assert run.tags["vqc.num_epochs"] == "2"
    assert run.params == merged(some)[1].params
