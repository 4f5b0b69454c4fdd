"""The searched space: every point of the unit cube is a valid configuration, and every value finds its way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import search_settings
from tune.settings import SearchSettings, with_params
from tune.space import Params, Space

SETTINGS = search_settings()
NAMED = search_settings(
    space={
        "model": {"choices": ["fcos_tiny", "fcos_resnet50_fpn"]},
        "batch_size": {"low": 1, "high": 8, "integer": True},
        "num_epochs": {"low": 10, "high": 50, "integer": True, "log": True},
    }
)
SPACE = Space(SETTINGS.space)
POINT: Params = {"learning_rate": 1e-3, "batch_size": 4, "image_size": 96}
CUBE = st.lists(st.floats(0, 1), min_size=3, max_size=3)

both = pytest.mark.parametrize("settings", [SETTINGS, NAMED], ids=["ordered", "named"])


@both
@given(point=CUBE)
def test_every_point_is_a_configuration_and_finds_its_way_back(settings: SearchSettings, point: list[float]) -> None:
    space = Space(settings.space)
    params = space.from_unit(point)
    with_params(settings.train, params)
    assert space.contains(params)
    back = space.to_unit(params)
    assert all(0 <= x <= 1 for x in back)
    again = space.from_unit(back)
    assert {**again, "learning_rate": 0} == {**params, "learning_rate": 0}  # exactly, but for a float's last digits
    assert again.get("learning_rate", 0) == pytest.approx(params.get("learning_rate", 0), rel=1e-12)


@both
@given(points=st.lists(CUBE, min_size=1, max_size=5))
def test_snapping_is_the_way_out_and_in_again_and_does_nothing_the_second_time(
    settings: SearchSettings, points: list[list[float]]
) -> None:
    space = Space(settings.space)
    snapped = space.snap(np.array(points))
    there_and_back = [space.to_unit(space.from_unit(point)) for point in points]
    assert snapped == pytest.approx(np.array(there_and_back), abs=1e-12)
    assert (space.snap(snapped) == snapped).all()


@both
def test_the_corners_of_the_cube_are_the_ends_of_the_space(settings: SearchSettings) -> None:
    space = Space(settings.space)
    ends = [dimension.corners() for dimension in settings.space.values()]
    assert list(space.from_unit([0.0] * 3).values()) == [values[0] for values in ends]
    assert list(space.from_unit([1.0] * 3).values()) == [values[-1] for values in ends]


def test_ordered_choices_are_spaced_by_rank() -> None:
    coordinates = [SPACE.to_unit({**POINT, "batch_size": size})[1] for size in (2, 4, 8, 16)]
    assert np.diff(coordinates) == pytest.approx([0.25] * 3)
    assert SPACE.unordered == (False, False, False)
    assert Space(NAMED.space).unordered == (True, False, False)


@pytest.mark.parametrize("params", [{"batch_size": 3}, {"learning_rate": 1e-6}], ids=["choice", "range"])
def test_values_outside_the_space_are_known_as_such(params: dict[str, float]) -> None:
    assert SPACE.contains(POINT)
    assert not SPACE.contains({**POINT, **params})


def test_a_square_image_size_is_one_number() -> None:
    assert SPACE.params_of(SETTINGS.train) == {"learning_rate": 1e-4, "batch_size": 8, "image_size": 128}


def test_an_image_size_that_is_not_square_cannot_be_searched() -> None:
    with pytest.raises(TypeError, match="not a searchable value"):
        SPACE.params_of(SETTINGS.train.model_copy(update={"image_size": (96, 128)}))


@given(rate=st.floats(1e-9, 1e3), batch=st.integers(1, 500), size=st.integers(1, 4000))
def test_every_point_is_moved_into_the_space(rate: float, batch: int, size: int) -> None:
    moved = SPACE.nearest({"learning_rate": rate, "batch_size": batch, "image_size": size})
    assert SPACE.contains(moved)
    assert 1e-4 <= float(moved["learning_rate"]) <= 1e-2
    assert with_params(SETTINGS.train, moved)


@pytest.mark.parametrize(("size", "nearest"), [(90, 96), (110, 96), (112, 128), (145, 160), (640, 160)])
def test_sizes_are_near_by_ratio(size: int, nearest: int) -> None:
    assert SPACE.nearest({**POINT, "image_size": size})["image_size"] == nearest


def test_points_inside_stay_as_they_are() -> None:
    assert SPACE.nearest(POINT) == POINT


def test_of_named_choices_an_unknown_one_becomes_the_first() -> None:
    assert Space(NAMED.space).nearest({"model": "retinanet", "batch_size": 4, "num_epochs": 20})["model"] == "fcos_tiny"
