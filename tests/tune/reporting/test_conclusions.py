"""What is concluded from a search's results: which trial is the best, and where the space is too narrow."""

from __future__ import annotations

import pytest

from tests.builders import events, where_repeats_disagree
from tests.tables import add_trial, ended_search, search_settings, search_started, with_a_shortened_trial
from tune.history.events import SearchEnded, SearchResumed, TrialShortened
from tune.history.journal import table_of
from tune.history.table import Table
from tune.policy.replication import best_trial
from tune.policy.schedule import may_run
from tune.reporting.conclusions import cut_off, edges, is_finished, ranking, resume_command, shortened
from tune.settings import Budget


def table_with(space: dict[str, object], **best: float | int | str) -> Table:
    """A search of ``space`` whose only trial has these values."""
    settings = search_settings(space={name: space[name] for name in best})
    table = Table()
    table.apply(search_started(settings))
    add_trial(table, settings, values=[0.5], params=dict(best))
    return table


SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "weight_decay": {"low": 0.0, "high": 0.2},
    "num_epochs": {"low": 10.0, "high": 50.0, "integer": True},
    "batch_size": {"choices": [2, 4, 8, 16]},
    "image_size": {"choices": [96, 128, 160], "unit": "px"},
    "model": {"choices": ["fcos_tiny", "retinanet_resnet50_fpn"]},
    "ema_decay": {"choices": [0, 0.9]},
    "tile_px": {"choices": [0, 320]},
}


@pytest.mark.parametrize(
    ("name", "value", "change"),
    [
        ("batch_size", 2, "batch_size 2 is the lowest of 2, 4, 8, 16: add 1 to space.batch_size.choices"),
        ("batch_size", 16, "add 32 to space.batch_size.choices"),
        ("image_size", 160, "image_size 160 is the highest of 96, 128, 160 px: add 192 to space.image_size.choices"),
        ("image_size", 96, "add 64 to space.image_size.choices"),
        ("learning_rate", 9.5e-3, "at the high end of 1e-4 to 0.01 (log): set space.learning_rate.high to 0.032"),
        ("learning_rate", 1.1e-4, "set space.learning_rate.low to 3.2e-5"),
        ("num_epochs", 50, "num_epochs 50 is at the high end of 10 to 50: set space.num_epochs.high to 60"),
        ("weight_decay", 0.2, "set space.weight_decay.high to 0.25"),
    ],
)  # fmt: skip
def test_a_best_value_at_an_edge_says_how_to_widen_the_space(name: str, value: float, change: str) -> None:
    (said,) = edges(table_with(SPACE, **{name: value}))
    assert said.endswith(change)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 4),
        ("learning_rate", 1e-3),
        ("weight_decay", 0.1),
        ("model", "fcos_tiny"),
        ("tile_px", 0),
        ("tile_px", 320),
        ("ema_decay", 0),
        ("ema_decay", 0.9),
    ],
)
def test_a_best_value_inside_or_without_an_order_or_with_nothing_beyond_says_nothing(
    name: str, value: float | str
) -> None:
    assert edges(table_with(SPACE, **{name: value})) == []


def test_an_edge_that_cannot_be_passed_says_nothing() -> None:
    assert edges(table_with({"batch_size": {"choices": [1, 2, 4]}}, batch_size=1)) == []
    assert edges(table_with(SPACE, weight_decay=0.0)) == []


def test_a_best_default_outside_of_the_space_belongs_into_it() -> None:
    (said,) = edges(table_with(SPACE, image_size=512))
    assert said.endswith("add 512 to space.image_size.choices")


def test_without_a_score_there_is_no_edge_and_no_ranking() -> None:
    table = table_of(events()[:1])
    assert edges(table) == ranking(table) == []


def test_the_ranking_begins_with_the_best_trial_and_goes_on_by_value() -> None:
    table = table_of(where_repeats_disagree())
    ranked = ranking(table)
    assert ranked[0] is best_trial(table)
    values = [trial.best("ap50")[0] for trial in ranked[1:]]
    assert values == sorted(values, reverse=True)
    assert {trial.number for trial in ranked} == {trial.number for trial in table.leaders()}


@pytest.mark.parametrize(("reason", "finished"), [("trials", True), ("hours", False), ("interrupted", False)])
def test_only_a_search_whose_trials_are_all_tried_is_finished(reason: str, finished: bool) -> None:
    end = events()[-1]
    assert isinstance(end, SearchEnded)
    table = table_of([*events()[:-1], end.model_copy(update={"reason": reason})])
    assert is_finished(table) == finished
    assert not is_finished(table_of(events()[:-1]))


@pytest.mark.parametrize(
    ("table", "said", "hours"),
    [
        (ended_search("hours", state="interrupted", hours=2), True, " --hours 2"),
        (ended_search("hours", state="paused", hours=0.1), True, " --hours 1"),  # 33 minutes are three fifths of it
        (ended_search("hours", state="completed", hours=0.1), False, " --hours 0.1"),
        (ended_search("interrupted", state="interrupted"), False, ""),
        (ended_search("trials", state="paused"), False, ""),
    ],
)
def test_where_the_hours_cut_off_the_best_trial_it_is_said_and_as_many_hours_are_asked_for(
    table: Table, said: bool, hours: str
) -> None:
    sentence = "trial 2, the best, had 2 of 4 epochs when the hours ended: the rest needs about 22 min"
    assert cut_off(table) == (sentence if said else "")
    assert resume_command(table).endswith(f"--resume{hours}")


def test_the_hours_are_those_of_the_start_not_what_an_interruption_left() -> None:
    table = ended_search("hours", state="completed", hours=8)
    table.apply(SearchResumed(at_ms=0, awake_s=0.0, command="", budget=Budget(trials=30, hours=0.002)))
    table.ended = SearchEnded(at_ms=0, awake_s=1800.0, reason="hours")
    assert resume_command(table).endswith("--resume --hours 8")


@pytest.mark.parametrize("confirm", [0, 1, 2])
def test_the_hours_asked_for_finish_the_best_trial_beside_what_is_kept_for_repeats(confirm: int) -> None:
    table = ended_search("hours", state="interrupted", hours=0.1)
    hours = float(resume_command(table).rpartition(" ")[2])
    settings = search_settings(epochs=4, confirm=confirm, hours=hours)
    table.apply(SearchResumed(at_ms=0, awake_s=1800.0, command="", budget=settings.budget))
    best = table.trials[2]
    while best.epochs < 4:
        spent_s = 660.0 * (best.epochs - 2)
        assert may_run(table, settings, best, left_s=3600 * hours - spent_s)
        best.reports.append(best.reports[-1].model_copy(update={"epoch": best.epochs + 1}))


def test_without_a_score_nothing_was_cut_off() -> None:
    end = events()[-1]
    assert isinstance(end, SearchEnded)
    table = table_of([events()[0], end.model_copy(update={"reason": "hours"})])
    assert cut_off(table) == ""
    assert "--hours" not in resume_command(table)


def test_every_shortened_trial_is_told_with_its_epochs() -> None:
    table = with_a_shortened_trial()
    assert shortened(table) == "of 4 epochs the hours left trial 2 only 2"
    table.apply(TrialShortened(at_ms=0, awake_s=0.0, trial=1, num_epochs=3))
    assert shortened(table) == "of 4 epochs the hours left trial 1 only 3, trial 2 only 2"
    assert shortened(ended_search("hours", state="completed")) == ""
