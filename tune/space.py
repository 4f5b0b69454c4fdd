"""The searched space: the declared table -> the unit cube and back, Optuna's distributions, and the default's place.

Ordered numeric choices (batch sizes, image sizes) are searched by rank, so that a model of the space knows that
8 lies between 4 and 16; named choices are searched as categories.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from tune.settings import Dimension
from vqc.config import TrainConfig

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from optuna.distributions import BaseDistribution

__all__ = [
    "Params",
    "Space",
    "default_params",
    "distributions",
    "from_optuna",
    "from_unit",
    "nearest_choice",
    "snapped",
    "to_optuna",
    "to_unit",
    "unordered_choices",
]

Space: TypeAlias = Mapping[str, Dimension]
Params: TypeAlias = dict[str, float | int | str]


def default_params(space: Space, config: TrainConfig) -> Params:
    """The searched values of a configuration; a square image size is one number."""
    values = config.model_dump()
    return {name: _scalar(values[name]) for name in space}


def from_unit(space: Space, point: Sequence[float]) -> Params:
    """A point of the unit cube, one coordinate in [0, 1) per dimension in the table's order, as searched values."""
    return {name: _at(dimension, x) for (name, dimension), x in zip(space.items(), point, strict=True)}


def to_unit(space: Space, params: Params) -> list[float]:
    """The way back from ``from_unit``: a choice is the middle of its bin; what is outside is at the nearest value."""
    return [_coordinate(dimension, params[name]) for name, dimension in space.items()]


def snapped(space: Space, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Points [m, d] of the unit cube moved to where they are when tried: ``to_unit`` after ``from_unit``."""
    import numpy as np

    moved = points.copy()
    for x, dimension in zip(moved.T, space.values(), strict=True):  # x is a view: column by column, in place
        low, high = dimension.low or 0.0, dimension.high or 0.0
        if dimension.choices is not None:
            count = len(dimension.choices)
            x[:] = (np.minimum(np.floor(x * count), count - 1) + 0.5) / count
        elif dimension.integer and dimension.log:
            x[:] = np.log(np.rint(low * (high / low) ** x) / low) / math.log(high / low)
        elif dimension.integer:
            x[:] = (np.rint(low + x * (high - low)) - low) / (high - low)
    return moved


def unordered_choices(space: Space) -> tuple[int, ...]:
    """Per dimension, the number of its choices if they have no order, else 0."""
    return tuple(
        len(dimension.choices) if dimension.choices is not None and not _ordered(dimension) else 0
        for dimension in space.values()
    )


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each dimension; ordered choices are integers, their rank."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    table: dict[str, BaseDistribution] = {}
    for name, dimension in space.items():
        if dimension.choices is not None and _ordered(dimension):
            table[name] = IntDistribution(0, len(dimension.choices) - 1)
        elif dimension.choices is not None:
            table[name] = CategoricalDistribution(dimension.choices)
        elif dimension.integer:
            table[name] = IntDistribution(int(dimension.low or 0), int(dimension.high or 0), log=dimension.log)
        else:
            table[name] = FloatDistribution(dimension.low or 0.0, dimension.high or 0.0, log=dimension.log)
    return table


def to_optuna(space: Space, params: Params) -> Params | None:
    """Searched values as Optuna stores them; None where they lie outside the space, as a default may."""
    found: Params = {}
    for name, dimension in space.items():
        value = params[name]
        if dimension.choices is not None:
            if value not in dimension.choices:
                return None
            found[name] = dimension.choices.index(value) if _ordered(dimension) else value
        elif not isinstance(value, str) and (dimension.low or 0.0) <= value <= (dimension.high or 0.0):
            found[name] = value
        else:
            return None
    return found


def from_optuna(space: Space, params: Mapping[str, float | int | str]) -> Params:
    """The way back from ``to_optuna``."""
    return {
        name: dimension.choices[int(params[name])]
        if dimension.choices is not None and _ordered(dimension)
        else params[name]
        for name, dimension in space.items()
    }


def nearest_choice(choices: Sequence[float | int | str], value: float | int | str) -> float | int | str:
    """By ratio where all are positive numbers, as sizes are; the first where there is no order."""
    if value in choices:
        return value
    numbers = [choice for choice in choices if not isinstance(choice, str)]
    if isinstance(value, str) or len(numbers) < len(choices):
        return choices[0]
    if value > 0 and min(numbers) > 0:
        return min(numbers, key=lambda choice: abs(math.log(choice / value)))
    return min(numbers, key=lambda choice: abs(choice - value))


def _ordered(dimension: Dimension) -> bool:
    choices = dimension.choices or ()
    return all(not isinstance(choice, str) for choice in choices) and list(choices) == sorted(choices)


def _at(dimension: Dimension, x: float) -> float | int | str:
    if dimension.choices is not None:
        return dimension.choices[min(int(x * len(dimension.choices)), len(dimension.choices) - 1)]
    low, high = dimension.low or 0.0, dimension.high or 0.0
    value = math.exp(math.log(low) + x * math.log(high / low)) if dimension.log else low + x * (high - low)
    return round(value) if dimension.integer else min(max(value, low), high)


def _coordinate(dimension: Dimension, value: float | int | str) -> float:
    if dimension.choices is not None:
        return (dimension.choices.index(nearest_choice(dimension.choices, value)) + 0.5) / len(dimension.choices)
    if isinstance(value, str):
        raise TypeError(f"not a number: {value!r}")
    low, high = dimension.low or 0.0, dimension.high or 0.0
    value = min(max(value, low), high)
    return math.log(value / low) / math.log(high / low) if dimension.log else (value - low) / (high - low)


def _scalar(value: object) -> float | int | str:
    if isinstance(value, tuple) and len(set(value)) == 1:
        value = value[0]
    if not isinstance(value, float | int | str):
        raise TypeError(f"not a searchable value: {value!r}")
    return value
