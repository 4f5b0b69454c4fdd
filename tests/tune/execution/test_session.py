"""A session of a search: what flags and files make of it, and what a resumption may change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.images import write_data
from tune.execution.gpu_sharing import MOST_TOGETHER
from tune.execution.session import Session, new_session, resumed_session
from tune.history.events import SearchEnded
from tune.history.journal import Journal, read_table
from tune.paths import journal_of
from tune.settings import Budget
from vqc.errors import ConfigError, SearchError

SETTINGS = {
    "train": {"model": "fcos_tiny", "weights": "none", "image_size": 64, "num_epochs": 2},
    "space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
}
VERSION_1 = Path(__file__).parents[1] / "history" / "journals" / "version_1.jsonl"


def new(place: Path, *, gpus: bool = False, **flags: Any) -> Session:
    """A new search called 's' in this folder; flags by their last part."""
    if not (place / "data").exists():
        write_data(place / "data")
        (place / "search.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    return new_session(
        name="s",
        results=place / "results",
        data_folder=place / "data",
        config=place / "search.json",
        flags=with_paths(flags),
        command="python tune/search.py",
        gpus=gpus,
    )


def with_paths(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {f"budget.{key}" if key in ("trials", "hours") else key: value for key, value in flags.items()}


def run_for(session: Session, awake_s: float) -> None:
    """The session begins, and is interrupted after so many seconds."""
    journal: Journal = session.open_journal()
    ended_s = session.table.awake_s + awake_s
    journal.append(SearchEnded(at_ms=session.first_event.at_ms, awake_s=ended_s, reason="interrupted"))
    journal.close()


def resume(place: Path, **flags: Any) -> Session:
    return resumed_session(name="s", results=place / "results", flags=with_paths(flags), command="again")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, Budget(trials=30)),
        ({"trials": 5}, Budget(trials=5)),
        ({"hours": 6.0}, Budget(hours=6.0)),
        ({"hours": 6.0, "trials": 5}, Budget(trials=5, hours=6.0)),
    ],
    ids=str,
)
def test_trials_and_hours_are_one_budget(tmp_path: Path, flags: dict[str, Any], expected: Budget) -> None:
    session = new(tmp_path, **flags)
    assert session.first_event.budget == session.settings.budget == expected


def test_a_flag_that_cannot_be_is_spelled_as_it_was_typed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--hours: got -1.0"):
        new(tmp_path, hours=-1.0)


@pytest.mark.parametrize(
    ("began", "ran_s", "flags", "expected"),
    [
        ({"trials": 5}, 60.0, {}, Budget(trials=5)),
        ({"trials": 5}, 60.0, {"trials": 9}, Budget(trials=9)),
        ({"trials": 5}, 60.0, {"hours": 2.0}, Budget(trials=5, hours=2.0)),
        ({"hours": 6.0}, 7200.0, {}, Budget(hours=4.0)),
        ({"hours": 6.0}, 7200.0, {"hours": 6.0}, Budget(hours=6.0)),
        ({"hours": 6.0}, 7200.0, {"trials": 9}, Budget(trials=9, hours=4.0)),
        ({"hours": 1.0}, 3601.0, {"trials": 9}, Budget(trials=9)),
        ({"hours": 1.0}, 3601.0, {"hours": 0.5}, Budget(hours=0.5)),
    ],
    ids=str,
)
def test_a_resumption_goes_on_with_what_the_budget_leaves(
    tmp_path: Path, began: dict[str, Any], ran_s: float, flags: dict[str, Any], expected: Budget
) -> None:
    run_for(new(tmp_path, **began), ran_s)
    session = resume(tmp_path, **flags)
    assert session.first_event.budget == session.settings.budget == expected


def test_a_third_session_has_what_the_second_left(tmp_path: Path) -> None:
    run_for(new(tmp_path, hours=6.0), 3600.0)
    run_for(resume(tmp_path), 3600.0)
    assert resume(tmp_path).settings.budget == Budget(hours=4.0)


def test_hours_that_are_used_up_need_new_ones(tmp_path: Path) -> None:
    run_for(new(tmp_path, hours=1.0), 3601.0)
    with pytest.raises(SearchError, match="its 1 h are used up") as caught:
        resume(tmp_path)
    assert "--name s --resume --hours 2" in str(caught.value)


@pytest.mark.parametrize("flags", [{"trials": 0}, {"hours": -1.0}, {"concurrent": 0}], ids=str)
def test_a_resumption_cannot_ask_for_nothing(tmp_path: Path, flags: dict[str, Any]) -> None:
    run_for(new(tmp_path), 1.0)
    with pytest.raises(ConfigError, match=f"--{next(iter(flags))}: got {next(iter(flags.values()))}"):
        resume(tmp_path, **flags)


@pytest.mark.parametrize(
    ("flag", "value"),
    [("seed", 3), ("train.num_epochs", 9), ("train.model", "fcos_tiny"), ("data", None), ("warm_start", None)],
)
def test_what_cannot_change_in_a_search_that_has_begun_is_refused(tmp_path: Path, flag: str, value: Any) -> None:
    run_for(new(tmp_path), 1.0)
    with pytest.raises(SearchError, match="cannot change in a search that has begun") as caught:
        resume(tmp_path, **{flag: value})
    assert "--resume" in str(caught.value)


def test_what_may_change_is_written_and_holds_from_then_on(tmp_path: Path) -> None:
    run_for(new(tmp_path), 1.0)
    session = resume(tmp_path, concurrent=3, vram_gb=4.0)
    assert (session.settings.concurrent, session.settings.vram_gb) == (3, 4.0)
    run_for(session, 1.0)
    assert read_table(journal_of(tmp_path / "results" / "s")).settings.concurrent == 3
    assert resume(tmp_path).settings.concurrent == 3


def test_a_search_of_version_1_is_not_resumed(tmp_path: Path) -> None:
    journal = journal_of(tmp_path / "results" / "s")
    journal.parent.mkdir(parents=True)
    shutil.copyfile(VERSION_1, journal)
    with pytest.raises(SearchError, match="version 1 of this program") as caught:
        resume(tmp_path)
    assert "--warm-start s" in str(caught.value)


@pytest.mark.parametrize(("gpus", "together"), [(True, MOST_TOGETHER), (False, 1)])
def test_shares_of_a_gpu_are_for_those_who_have_one(tmp_path: Path, gpus: bool, together: int) -> None:
    assert new(tmp_path, gpus=gpus, gpus_per_trial="auto").settings.concurrent == together


@pytest.mark.parametrize(
    ("gpus", "flags", "sizes", "budget", "epochs"),
    [
        (True, {}, (320, 416, 512, 640), Budget(trials=30, hours=8.0), 100),
        (True, {"train.num_epochs": 3, "budget.trials": 5}, (320, 416, 512, 640), Budget(trials=5), 3),
        (False, {}, (224, 320, 448), Budget(trials=30), 10),
    ],
)
def test_the_settings_are_those_for_the_machines(
    tmp_path: Path, gpus: bool, flags: dict[str, int], sizes: tuple[int, ...], budget: Budget, epochs: int
) -> None:
    data = write_data(tmp_path / "data")
    session = new_session(
        name="s", results=tmp_path, data_folder=data, config=None, flags={"train.model": "fcos_tiny", **flags},
        command="", gpus=gpus,
    )  # fmt: skip
    assert session.settings.space["image_size"].choices == sizes
    assert (session.settings.budget, session.settings.train.num_epochs) == (budget, epochs)
    assert ("the CPU settings are used" in " ".join(session.remarks)) is not gpus
    assert "tile_px" not in session.settings.space
    assert "Tiles are not tried" in " ".join(session.remarks)


def test_a_search_says_how_large_the_defects_are_and_counts_what_an_epoch_sees(tmp_path: Path) -> None:
    session = new(tmp_path)
    summary = session.data_summary
    assert summary["root"] == "data"
    assert summary["views"] == {"0": (6, 3)}
    photographs, at_input = summary["defect_sizes"]
    assert photographs["where"] is None
    assert at_input["where"] == {"size": [64, 64], "tile_px": 0, "stride_px": 8}
    run_for(session, 1.0)
    again = resume(tmp_path).data_summary
    assert (again["defect_sizes"], again["root"]) == (summary["defect_sizes"], "data")


def test_a_full_training_on_tiles_is_counted_in_tiles(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", size=(256, 192))
    settings = {**SETTINGS, "train": {**SETTINGS["train"], "tile_px": 64, "batch_size": 1}, "full_training_steps": 1000}
    (tmp_path / "search.json").write_text(json.dumps(settings), encoding="utf-8")
    session = new_session(name="s", results=tmp_path, data_folder=data, config=tmp_path / "search.json", flags={},
                          command="", gpus=False)  # fmt: skip
    views, _ = session.data_summary["views"]["64"]
    assert views > 6
    assert session.settings.train.num_epochs == round(1000 / views)


@pytest.mark.parametrize(
    ("rates", "points", "said"),
    [
        ([], 0, "No portfolio for fcos_tiny yet"),
        ([1e-4], 0, "Earlier searches found nothing better than the default"),
        ([1e-4, 2e-3], 1, "Starts with what did well for fcos_tiny in earlier searches, your searches (1)."),
    ],
)
def test_what_earlier_searches_found_comes_first_and_it_is_said_if_that_is_nothing(
    tmp_path: Path, rates: list[float], points: int, said: str
) -> None:
    if rates:
        members = [{"learning_rate": rate} for rate in rates]
        record = {"detectors": {"fcos_tiny": {"members": members, "tasks": ["a task"]}}}
        (tmp_path / "results").mkdir()
        (tmp_path / "results/portfolio.json").write_text(json.dumps(record), encoding="utf-8")
    session = new(tmp_path)
    assert len(session.settings.initial_points) == points
    assert said in " ".join(session.remarks)
