"""What the terminal prints before and after a search."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import events, where_repeats_disagree
from tests.tables import ended_search, with_a_shortened_trial
from tune.history.events import SearchEnded, SearchStarted, TrialProposed
from tune.history.journal import table_of
from tune.history.table import Table
from tune.policy.replication import best_trial
from tune.reporting.console import plan, show, summary
from tune.reporting.eta import EpochCost, Estimate
from tune.settings import Budget, SearchSettings

LINKS = {
    "mlflow": f"mlflow ui --backend-store-uri sqlite:///{'long/' * 30}mlflow.db",
    "dashboard": "http://127.0.0.1:8265",
}


def shown(renderable: object, encoding: str = "utf-8") -> str:
    """What a terminal with this code page gets."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n", write_through=True)
    show(renderable, stream)  # type: ignore[arg-type]
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(encoding)


def summary_of(table: Table) -> str:
    """Its words, however they are broken into lines."""
    return " ".join(shown(summary(table, Path("results") / "demo")).split())


def search_settings(**budget: float) -> SearchSettings:
    first = events()[0]
    assert isinstance(first, SearchStarted)
    return SearchSettings.model_validate({**first.settings, "budget": budget or first.budget})


@pytest.mark.parametrize("make", [
    lambda: plan(search_settings(), {"images": {"train": 128, "val": 48}}, LINKS),
    lambda: summary(table_of(events(trials=9)), Path("results") / "demo"),
], ids=["plan", "summary"])  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "cp437"])
def test_plan_and_summary_fit_eighty_plain_columns(make: Callable[[], object], encoding: str) -> None:
    text = shown(make(), encoding)
    assert "\x1b" not in text
    assert "?" not in text
    assert [line for line in text.splitlines() if len(line) > 80 and "sqlite" not in line] == []


def test_the_plan_says_where_to_watch_and_how_to_get_in() -> None:
    text = shown(plan(search_settings(), {"images": {"train": 128}}, LINKS))
    assert LINKS["mlflow"] in text.splitlines()[-4]
    assert "ray get-auth-token" in text
    assert "trials pause at epoch" in text
    assert "128 images" in text


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"trials": 30}, "30 trials of up to 6 epochs, 1 at a time"),
        ({"hours": 8.0}, "8 h of trials of up to 6 epochs"),
        ({"trials": 30, "hours": 8.0}, "30 trials of up to 6 epochs, 1 at a time, for at most 8 h"),
    ],
)
def test_the_plan_says_what_the_budget_is(budget: dict[str, float], said: str) -> None:
    assert said in shown(plan(search_settings(**budget), {}, {}))


@pytest.mark.parametrize(
    ("budget", "expected", "said"),
    [
        ({"trials": 30}, None, "at most 15.0 GB an hour, and 0.17 GB for each epoch that is a trial's best"),
        ({"hours": 8.0}, None, "at most 120.0 GB in 8 h 00 min, and"),
        ({"trials": 30}, Estimate(mean_s=7200.0, low_s=1.0, high_s=9e9), "at most 30.0 GB in 2 h 00 min, and"),
    ],
)
def test_the_plan_says_what_checkpoints_take(budget: dict[str, float], expected: Estimate | None, said: str) -> None:
    settings = search_settings(**budget).model_copy(update={"checkpoint_every_s": 120.0})
    made = plan(settings, {}, {}, expected=expected, checkpoints=(500_000_000, 166_000_000))
    assert said in " ".join(shown(made).split())


def test_the_plan_says_what_is_not_tried_and_what_a_full_training_is() -> None:
    text = " ".join(shown(plan(search_settings(), {"images": {"train": 100}}, {})).split())
    assert "a full training 78 steps with the default's batches of 8" in text
    assert "not tried other values of model, weights, frozen_stages" in text
    assert "num_epochs, weight_decay" in text


def test_after_a_dry_run_the_plan_says_how_long_a_full_training_takes() -> None:
    settings = search_settings()
    side = max(settings.train.image_size)
    costs = [EpochCost(image_size=side + 32, epoch_s=900.0), EpochCost(image_size=side, epoch_s=120.0)]
    expected = Estimate(mean_s=60, low_s=30, high_s=90)
    text = " ".join(shown(plan(settings, {"images": {"train": 100}}, {}, costs=costs, expected=expected)).split())
    assert "78 steps with the default's batches of 8, about 12 min" in text
    costs[1] = EpochCost(image_size=side, epoch_s=None)
    assert ", about 12 min" not in shown(plan(settings, {"images": {"train": 100}}, {}, costs=costs, expected=expected))


def test_the_plan_says_how_large_the_defects_are_and_how_many_tiles_there_are() -> None:
    sizes = [
        {"where": None, "count": 9, "sides_px": [6, 12, 23]},
        {"where": {"size": [64, 64], "tile_px": 32, "stride_px": 8}, "count": 9, "sides_px": [12, 24, 46]},
        {"where": {"size": [64, 64], "tile_px": 0, "stride_px": 8}, "count": 9, "sides_px": [1, 2, 4]},
    ]
    views = {"0": [10, 4], "32": [70, 160]}
    summary = {"images": {"train": 10, "val": 4}, "views": views, "defect_sizes": sizes}
    text = " ".join(shown(plan(search_settings(), summary, {})).split())
    assert "defects shorter sides (10, 50, 90 %): 6.0, 12.0, 23.0 px in the photographs" in text
    assert "12.0, 24.0, 46.0 px at 64 x 64 px, tiles of 32 px 1.0" in text
    assert "1.0, 2.0, 4.0 px at 64 x 64 px: too small" in text
    assert "tiles a photograph gives 40 of 32 px" in text


@pytest.mark.parametrize(
    ("budget", "room", "said"),
    [
        ({"trials": 30, "hours": 8.0}, 22, "in 8 h about 22 trials; others are not tried"),
        ({"trials": 30, "hours": 8.0}, 30, "in 8 h all trials"),
        ({"hours": 8.0}, 40, "in 8 h about 40 trials"),
        ({"trials": 30}, None, "if the dearest does"),
    ],
)
def test_the_plan_says_what_the_hours_have_room_for(budget: dict[str, float], room: int | None, said: str) -> None:
    expected = Estimate(mean_s=3600, low_s=1800, high_s=7200, trials=room)
    text = shown(
        plan(search_settings(**budget), {}, {}, costs=[EpochCost(image_size=64, epoch_s=1)], expected=expected)
    )
    assert said in " ".join(text.split())


def test_before_anything_is_measured_the_plan_has_the_hours() -> None:
    assert "at most 8 h" in shown(plan(search_settings(trials=30, hours=8.0), {}, {}))


def test_the_summary_names_the_best_the_gain_and_the_next_command() -> None:
    default_late = [
        event.model_copy(update={"origin": "default" if event.trial == 4 else "sampler"})
        if isinstance(event, TrialProposed)
        else event
        for event in events(trials=9)
    ]
    table = table_of(default_late)
    text = summary_of(table)
    assert f"(trial {table.leaders()[0].number})" in text
    assert "above the default's" in text
    assert "python tune/export_best.py demo" in text
    assert "--resume" not in text


def test_the_summary_of_nothing_promotes_nothing() -> None:
    text = summary_of(table_of(events()[:1]))
    assert "No trial has a score yet" in text
    assert "export_best" not in text
    assert "--resume" in text


def test_after_repeats_the_summary_names_the_highest_mean_first() -> None:
    table = table_of(where_repeats_disagree())
    best, first = best_trial(table), table.leaders()[0]
    assert best is not None
    text = summary_of(table)
    assert f"Best: AP50 {best.best('ap50')[0]:.3f} (trial {best.number})" in text
    assert text.index(f" {best.number} {best.best('ap50')[0]:.3f}") < text.index(f" {first.number} ")


def test_a_best_value_at_an_edge_of_the_space_is_said() -> None:
    table = table_of(events(trials=1))  # image_size 128 is inside, batch_size 8 is the highest of 4, 8
    assert "at an edge batch_size 8 is the highest of 4, 8: add 16 to space.batch_size.choices" in summary_of(table)


@pytest.mark.parametrize(("reason", "resumes"), [("trials", False), ("hours", True), ("interrupted", True)])
def test_the_command_to_resume_is_shown_while_trials_are_left(reason: str, resumes: bool) -> None:
    """Also where the hours ended within the last trial."""
    first, *rest = events(trials=4)
    end = rest.pop()
    assert isinstance(first, SearchStarted)
    assert isinstance(end, SearchEnded)
    first = first.model_copy(update={"budget": Budget(trials=4, hours=0.1)})
    table = table_of([first, *rest, end.model_copy(update={"reason": reason})])
    assert ("resume: python tune/search.py --name demo --resume" in summary_of(table)) == resumes


def test_where_the_hours_cut_off_the_best_trial_it_is_said() -> None:
    text = summary_of(ended_search("hours", state="interrupted"))
    assert "cut off trial 2, the best, had 2 of 4 epochs when the hours ended" in text
    assert "--resume --hours 1" in text
    assert "cut off" not in summary_of(ended_search("hours", state="completed"))


def test_shortened_trials_are_said() -> None:
    assert "shortened of 4 epochs the hours left trial 2 only 2" in summary_of(with_a_shortened_trial())
