"""What is tried right after the default: moved into the space, from searches that can be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.builders import write_journal
from tests.images import write_data
from tests.tables import SPACE, add_trial, search_settings, search_started
from tune.execution.session import new_session
from tune.history.events import EpochMeasured, Event, TrialProposed
from tune.history.table import Table
from tune.paths import journal_of
from tune.policy.propose import propose
from tune.policy.warm_start import best_points, distinct_points
from tune.space import Params
from vqc.data.dataset import Data, load_data
from vqc.errors import SearchError

SETTINGS = search_settings(startup_trials=3)
POINT: Params = {"learning_rate": 1e-3, "batch_size": 4, "image_size": 96}


def test_the_default_and_repetitions_are_left_out_and_the_start_up_has_an_end() -> None:
    default: Params = {"learning_rate": SETTINGS.train.learning_rate, "batch_size": 8, "image_size": 128}
    points = [default, POINT, POINT, *({**POINT, "batch_size": size} for size in (2, 8, 16))]
    assert distinct_points(points, SETTINGS) == (POINT, {**POINT, "batch_size": 2})


@pytest.mark.parametrize(("factor", "kept"), [(1.0, 0), (1.003, 0), (1.5, 1)])
def test_a_point_that_nearly_equals_the_default_is_left_out(factor: float, kept: int) -> None:
    near: Params = {"learning_rate": SETTINGS.train.learning_rate * factor, "batch_size": 8, "image_size": 128}
    assert len(distinct_points([near], SETTINGS)) == kept


def test_a_point_at_the_edge_of_the_space_is_kept_where_the_default_lies_beyond_it() -> None:
    train = SETTINGS.train.model_copy(update={"learning_rate": 0.1})
    settings = SETTINGS.model_copy(update={"train": train})
    edge: Params = {"learning_rate": 1e-2, "batch_size": 8, "image_size": 128}
    assert distinct_points([edge, edge], settings) == (edge,)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("warm") / "data"
    write_data(folder)
    return load_data(folder)


def earlier(data: Data, **changes: Any) -> Table:
    """A search of three trials on the data, the second one the best."""
    settings = search_settings(**changes)
    table = Table()
    table.started = search_started(settings).model_copy(update={"name": "night", "data": data.summary()})
    for rate, value in ((2e-4, 0.1), (3e-3, 0.8), (9e-3, 0.4)):
        add_trial(table, settings, values=[value], params={**POINT, "learning_rate": rate})
    return table


def test_a_warm_start_takes_the_best_of_the_earlier_search_first(data: Data) -> None:
    points = best_points(earlier(data), SETTINGS, data)
    assert [point["learning_rate"] for point in points] == [3e-3, 9e-3]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"space": {"weight_decay": {"low": 1e-4, "high": 1e-2}}}, "it searched weight_decay, expected no field but"),
        ({"train": {"model": "fcos_resnet50_fpn", "image_size": 128}}, "detector differ: got fcos_resnet50_fpn"),
    ],
)
def test_a_search_that_cannot_be_compared_is_refused(data: Data, change: dict[str, Any], what: str) -> None:
    other = earlier(data)
    header = other.header.model_copy(update={"settings": {**other.header.settings, **change}})
    other.started = header
    with pytest.raises(SearchError, match=what):
        best_points(other, SETTINGS, data)


def test_what_the_earlier_search_did_not_search_is_what_it_was_trained_with(data: Data) -> None:
    wider = search_settings(startup_trials=3, space={**SPACE, "tile_px": {"choices": [0, 64]}})
    points = best_points(earlier(data), wider, data)
    assert [(point["learning_rate"], point["tile_px"]) for point in points] == [(3e-3, 0), (9e-3, 0)]


def test_a_search_on_other_data_is_refused(data: Data) -> None:
    other = earlier(data)
    other.started = other.header.model_copy(update={"data": {"fingerprint": "of something else"}})
    with pytest.raises(SearchError, match="its data differ"):
        best_points(other, SETTINGS, data)


def test_a_search_without_a_score_has_nothing_to_start_from(data: Data) -> None:
    other = earlier(data)
    other.trials.clear()
    with pytest.raises(SearchError, match="no trial of it has a score"):
        best_points(other, SETTINGS, data)


def test_the_points_of_a_warm_start_are_proposed_as_such(data: Data, tmp_path: Path) -> None:
    table = earlier(data)
    events: list[Event] = [table.header]
    for trial in table.trials.values():
        what = {"trial": trial.number, "params": trial.params, "config": trial.config, "origin": "sampler"}
        events.append(TrialProposed(at_ms=1, awake_s=1.0, **what))
        events.append(EpochMeasured(at_ms=1, awake_s=1.0, trial=trial.number, report=trial.reports[0]))
    write_journal(journal_of(tmp_path / "night"), events)
    config = tmp_path / "settings.json"
    config.write_text(json.dumps({"train": SETTINGS.train.model_dump(mode="json"), "space": SPACE}), encoding="utf-8")
    search = new_session(
        name="next", results=tmp_path, data_folder=data.root, config=config, flags={}, command="", gpus=False,
        warm_start="night",
    )  # fmt: skip
    begun = Table()
    add_trial(begun, search.settings, values=[0.1])
    proposal = propose(begun, search.settings)
    assert (proposal.origin, proposal.params["learning_rate"]) == ("warm start", 3e-3)
