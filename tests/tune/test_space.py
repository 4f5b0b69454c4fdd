"""The searched space: every point is a valid configuration, and every value finds its way back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import search_settings
from tune.settings import SearchSettings, with_params
from tune.space import default_params, distributions, from_optuna, from_unit, to_optuna

SETTINGS = search_settings()
NAMED = search_settings(
    space={
        "model": {"choices": ["fcos_tiny", "fcos_resnet50_fpn"]},
        "batch_size": {"low": 1, "high": 8, "integer": True},
    }
)
UNIT = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("settings", [SETTINGS, NAMED], ids=["ordered", "named"])
@given(point=st.lists(UNIT, min_size=3, max_size=3))
def test_every_point_is_a_configuration_and_comes_back_from_optuna(
    settings: SearchSettings, point: list[float]
) -> None:
    params = from_unit(settings.space, point[: len(settings.space)])
    with_params(settings.train, params)
    stored = to_optuna(settings.space, params)
    assert stored is not None
    assert from_optuna(settings.space, stored) == params
    table = distributions(settings.space)
    assert all(table[name]._contains(table[name].to_internal_repr(value)) for name, value in stored.items())


def test_ordered_choices_are_searched_by_rank() -> None:
    assert to_optuna(SETTINGS.space, {"learning_rate": 1e-3, "batch_size": 8, "image_size": 160}) == {
        "learning_rate": 1e-3, "batch_size": 2, "image_size": 2,
    }  # fmt: skip


@pytest.mark.parametrize("params", [{"batch_size": 3}, {"learning_rate": 1e-6}], ids=["choice", "range"])
def test_values_outside_the_space_are_known_as_such(params: dict[str, float]) -> None:
    inside = {"learning_rate": 1e-3, "batch_size": 8, "image_size": 128}
    assert to_optuna(SETTINGS.space, {**inside, **params}) is None


def test_the_default_is_told_as_one_number_for_a_square() -> None:
    assert default_params(SETTINGS.space, SETTINGS.train) == {
        "learning_rate": 1e-4, "batch_size": 8, "image_size": 128,
    }  # fmt: skip
