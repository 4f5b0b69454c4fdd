"""What is tried right after the default: moved into the space, from searches that can be compared."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.images import write_data
from tests.tables import add_trial, search_settings
from tune.history.events import SearchStarted
from tune.history.table import Table
from tune.policy.warm_start import best_of, distinct, inside
from tune.settings import with_params
from tune.space import Params
from vqc.data.dataset import Data, load_data
from vqc.errors import SearchError

SETTINGS = search_settings(startup_trials=3)
POINT: Params = {"learning_rate": 1e-3, "batch_size": 4, "image_size": 96}


@given(rate=st.floats(1e-9, 1e3), batch=st.integers(1, 500), size=st.integers(1, 4000))
def test_every_point_is_moved_into_the_space(rate: float, batch: int, size: int) -> None:
    moved = inside(SETTINGS.space, {"learning_rate": rate, "batch_size": batch, "image_size": size})
    assert with_params(SETTINGS.train, moved)
    assert 1e-4 <= float(moved["learning_rate"]) <= 1e-2
    assert moved["batch_size"] in (2, 4, 8, 16)
    assert moved["image_size"] in (96, 128, 160)


@pytest.mark.parametrize(("size", "nearest"), [(90, 96), (110, 96), (112, 128), (145, 160), (640, 160)])
def test_sizes_are_near_by_ratio(size: int, nearest: int) -> None:
    assert inside(SETTINGS.space, {**POINT, "image_size": size})["image_size"] == nearest


def test_points_inside_stay_as_they_are() -> None:
    assert inside(SETTINGS.space, POINT) == POINT


def test_the_default_and_repetitions_are_left_out_and_the_start_up_has_an_end() -> None:
    default: Params = {"learning_rate": SETTINGS.train.learning_rate, "batch_size": 8, "image_size": 128}
    points = [default, POINT, POINT, *({**POINT, "batch_size": size} for size in (2, 8, 16))]
    assert distinct(points, SETTINGS) == (POINT, {**POINT, "batch_size": 2})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("opening") / "data"
    write_data(folder)
    return load_data(folder)


def earlier(data: Data, **changes: Any) -> Table:
    """A search of three trials on the data, the second one the best."""
    settings = search_settings(**changes)
    table = Table()
    table.started = SearchStarted(
        at_ms=1, name="night", search_id="n", settings=settings.model_dump(mode="json"), data=data.summary(),
        versions={}, command="",
    )  # fmt: skip
    for rate, value in ((2e-4, 0.1), (3e-3, 0.8), (9e-3, 0.4)):
        add_trial(table, settings, values=[value], params={**POINT, "learning_rate": rate})
    return table


def test_a_warm_start_takes_the_best_of_the_earlier_search_first(data: Data) -> None:
    points = best_of(earlier(data), SETTINGS, data)
    assert [point["learning_rate"] for point in points] == [3e-3, 9e-3]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"space": {"learning_rate": {"low": 1e-4, "high": 1e-2}}}, "searched fields differ: got ['learning_rate']"),
        ({"train": {"model": "fcos_resnet50_fpn", "image_size": 128}}, "detector differ: got fcos_resnet50_fpn"),
    ],
)
def test_a_search_that_cannot_be_compared_is_refused(data: Data, change: dict[str, Any], what: str) -> None:
    other = earlier(data)
    header = other.header.model_copy(update={"settings": {**other.header.settings, **change}})
    other.started = header
    with pytest.raises(SearchError, match=what.replace("[", r"\[").replace("]", r"\]")):
        best_of(other, SETTINGS, data)


def test_a_search_on_other_data_is_refused(data: Data) -> None:
    other = earlier(data)
    other.started = other.header.model_copy(update={"data": {"fingerprint": "of something else"}})
    with pytest.raises(SearchError, match="its data differ"):
        best_of(other, SETTINGS, data)


def test_a_search_without_a_score_has_nothing_to_start_from(data: Data) -> None:
    other = earlier(data)
    other.trials.clear()
    with pytest.raises(SearchError, match="no trial of it has a score"):
        best_of(other, SETTINGS, data)
