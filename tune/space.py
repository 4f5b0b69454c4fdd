"""The searched space as a unit cube: the only conversion between searched values and coordinates.

A configuration is converted once on the way in (``to_unit``) and once on the way out (``from_unit``); sampler, learning
curves and report work on coordinates from 0 to 1. Ordered numeric choices (batch sizes, image sizes) are spaced by
rank, so that a model of the space knows that 8 lies between 4 and 16; named choices have no order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from tune.settings import Dimension

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from pydantic import BaseModel

Array: TypeAlias = npt.NDArray[np.float64]
Param: TypeAlias = float | int | str
Params: TypeAlias = dict[str, Param]

MIN_DISTANCE = 0.02  # of each side of the cube: nearer points would repeat a trial


@dataclass(frozen=True)
class Space:
    """The declared dimensions by name; coordinates have their order. A choice is the middle of one of equal bins."""

    dimensions: Mapping[str, Dimension]

    @property
    def unordered(self) -> tuple[bool, ...]:
        """Per dimension, whether its values have no order."""
        choices = [dimension.choices or () for dimension in self.dimensions.values()]
        return tuple(any(isinstance(x, str) for x in some) or list(some) != sorted(some) for some in choices)

    def params_of(self, config: BaseModel) -> Params:
        """The searched values of a configuration; a square image size is one number.

        Raises:
            TypeError: a value is neither number nor text, such as an image size that is not square.
        """
        params: Params = {}
        for name in self.dimensions:
            value = getattr(config, name)
            if isinstance(value, tuple) and len(set(value)) == 1:
                value = value[0]
            if not isinstance(value, float | int | str):
                raise TypeError(f"not a searchable value: {value!r}")
            params[name] = value
        return params

    def contains(self, params: Mapping[str, Param]) -> bool:
        """Whether all values lie inside; those of a default configuration may not."""
        return all(_nearest(dimension, params[name]) == params[name] for name, dimension in self.dimensions.items())

    def nearest(self, params: Mapping[str, Param]) -> Params:
        """The point of the space that is nearest to ``params``, dimension by dimension; other values are left out."""
        return {name: _nearest(dimension, params[name]) for name, dimension in self.dimensions.items()}

    def to_unit(self, params: Mapping[str, Param]) -> list[float]:
        """Coordinates in [0, 1] of the nearest point of the space."""
        return [
            float(_coordinate(dimension, value if dimension.choices is None else dimension.choices.index(value)))
            for dimension, value in zip(self.dimensions.values(), self.nearest(params).values(), strict=True)
        ]

    def repeats(self, one: Mapping[str, Param], other: Mapping[str, Param]) -> bool:
        """Whether two configurations are too near to one another to tell a search something different."""
        return bool(np.abs(np.subtract(self.to_unit(one), self.to_unit(other))).max() < MIN_DISTANCE)

    def from_unit(self, point: Sequence[float]) -> Params:
        """Searched values at coordinates in [0, 1]: the way back from ``to_unit``."""
        params: Params = {}
        for (name, dimension), x in zip(self.dimensions.items(), point, strict=True):
            number = float(_number(dimension, x))
            if dimension.choices is not None:
                params[name] = dimension.choices[int(number)]
            else:
                params[name] = int(number) if dimension.integer else number
        return params

    def snap(self, points: Array) -> Array:
        """Points [m, d] of the unit cube moved to where ``to_unit`` after ``from_unit`` puts them."""
        snapped = points.copy()
        for x, dimension in zip(snapped.T, self.dimensions.values(), strict=True):  # x is a view
            if dimension.integer or dimension.choices is not None:
                x[:] = _coordinate(dimension, _number(dimension, x))
        return snapped

    def distributions(self) -> dict[str, BaseDistribution]:
        """The unit cube for Optuna: one coordinate per dimension."""
        from optuna.distributions import FloatDistribution

        return {name: FloatDistribution(0.0, 1.0) for name in self.dimensions}


def _number(dimension: Dimension, x: float | Array) -> Array:
    """Coordinates -> values of a range, or indices of choices."""
    if dimension.choices is not None:
        return np.asarray(np.minimum(np.floor(x * len(dimension.choices)), len(dimension.choices) - 1))
    low, high = dimension.low or 0.0, dimension.high or 0.0
    value = low * (high / low) ** x if dimension.log else low + x * (high - low)
    return np.asarray(np.rint(value) if dimension.integer else np.clip(value, low, high))


def _coordinate(dimension: Dimension, number: Param | Array) -> Array:
    """The inverse of ``_number``."""
    if isinstance(number, str):
        raise TypeError(f"not a number: {number!r}")
    if dimension.choices is not None:
        return np.asarray((number + 0.5) / len(dimension.choices))
    low, high = dimension.low or 0.0, dimension.high or 0.0
    if dimension.log:
        return np.asarray(np.log(np.asarray(number) / low) / math.log(high / low))
    return np.asarray((number - low) / (high - low))


def _nearest(dimension: Dimension, value: Param) -> Param:
    """Of positive numbers the nearest choice by ratio, as for sizes; of named choices the first."""
    if dimension.choices is not None:
        numbers = [choice for choice in dimension.choices if not isinstance(choice, str)]
        if value in dimension.choices:
            return value
        if isinstance(value, str) or len(numbers) < len(dimension.choices):
            return dimension.choices[0]
        if value > 0 and min(numbers) > 0:
            return min(numbers, key=lambda choice: abs(math.log(choice / value)))
        return min(numbers, key=lambda choice: abs(choice - value))
    if isinstance(value, str):
        raise TypeError(f"not a number: {value!r}")
    clipped = min(max(value, dimension.low or 0.0), dimension.high or 0.0)
    return round(clipped) if dimension.integer else float(clipped)
