"""Frozen records of one search: what is searched, for how long, by which rule, with what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, PlainValidator, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from vqc.config import Record, TrainConfig, parse_record, read_json
from vqc.errors import ConfigError, nearest

LEAST_EPOCHS, MOST_EPOCHS = 6, 100  # of a full training that is given in steps
INSIDE = 0.3819660112501051  # share of a range at which a value inside it is tried: on no grid


class Dimension(Record):
    """One searched field of ``TrainConfig``: a range (``low``, ``high``) or a list of ``choices``."""

    low: StrictFloat | None = Field(None, description="smallest value")
    high: StrictFloat | None = Field(None, description="largest value")
    log: StrictBool = Field(False, description="even on a logarithmic scale")
    integer: StrictBool = Field(False, description="whole numbers only")
    choices: tuple[StrictFloat | StrictInt | StrictStr, ...] | None = Field(
        None, min_length=1, description="the values allowed, in order where they have one"
    )
    unit: str = Field("", description="shown behind the value")
    reason: str = Field("", description="why this range")

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        given = (self.low is not None, self.high is not None, self.choices is not None)
        if given not in ((True, True, False), (False, False, True)):
            raise ValueError("expected either low and high, or choices")
        if self.choices is not None and len(set(self.choices)) != len(self.choices):
            raise ValueError("expected choices that differ")
        if self.low is not None and self.high is not None:
            if self.low >= self.high:
                raise ValueError(f"expected low < high, got {self.low} and {self.high}")
            if self.log and self.low <= 0:
                raise ValueError(f"expected low > 0 on a logarithmic scale, got {self.low}")
        return self

    def samples(self) -> tuple[float | int | str, ...]:
        """The corners, and one value inside a range: ends that fit do not make all between them fit."""
        if self.choices is not None or self.low is None or self.high is None:
            return self.corners()
        inside = int(self.low) + 1 if self.integer else self.low + (self.high - self.low) * INSIDE
        return (*self.corners(), inside)

    def corners(self) -> tuple[float | int | str, ...]:
        """The extreme values, or all choices."""
        if self.choices is not None:
            return self.choices
        ends = (self.low or 0.0, self.high or 0.0)
        return tuple(int(end) for end in ends) if self.integer else ends


def _share(value: object) -> object:
    if value == "auto" or (isinstance(value, float | int) and not isinstance(value, bool) and 0 < value <= 1):
        return value
    raise ValueError("expected 'auto' or a share above 0 and at most 1")


# A validator of its own, so that a mistake is told once and not for each kind of value.
Share: TypeAlias = Annotated[
    float | Literal["auto"],
    PlainValidator(_share, json_schema_input_type=Literal["auto"] | Annotated[StrictFloat, Field(gt=0, le=1)]),
]


class Budget(Record):
    """What a search may use. Both may be given: the search ends with whichever is reached first."""

    trials: StrictInt | None = Field(
        None, ge=1, le=100_000, description="configurations to try, those before a resumption included"
    )
    hours: StrictFloat | None = Field(None, gt=0, description="time awake after which no further trial starts")

    @model_validator(mode="after")
    def _bounded(self) -> Budget:
        if self.trials is None and self.hours is None:
            raise ValueError("expected trials, hours, or both")
        return self


class SearchSettings(Record):
    """All that decides what a search does, but for the data."""

    train: TrainConfig = Field(description="the default configuration: trial 1, and the base of all others")
    space: dict[str, Dimension] = Field(
        min_length=1, description="field of the training configuration -> what is tried"
    )
    metric: Literal["ap", "ap50", "ap75", "ar"] = Field("ap50", description="val score to maximise")
    budget: Budget = Field(Budget(trials=30), description="how many trials, how many hours, or both")
    seed: StrictInt = Field(0, ge=0, lt=2**32, description="root of the search's random streams")
    initial_points: tuple[dict[str, StrictFloat | StrictInt | StrictStr], ...] = Field(
        (), description="searched values to try right after the default; none given: those of the portfolio"
    )
    initial_points_origin: Literal["settings", "portfolio", "warm start"] = Field(
        "settings", description="where the initial points come from; set by the program"
    )
    confirm: StrictInt = Field(
        2, ge=0, le=10, description="best configurations that are run again at the end, with another seed"
    )
    startup_trials: StrictInt = Field(
        8,
        ge=1,
        description="configurations before the sampler proposes, the default among them: initial points, else half of "
        "so many spread over the space",
    )
    rungs: tuple[StrictFloat, ...] = Field(
        (1 / 6, 1 / 2),
        description="shares of num_epochs at which trials pause and only the best are promoted; []: none is stopped",
    )
    gpus_per_trial: Share = Field(
        1.0, description="share of the GPU that a trial asks for; 0.5 packs two; auto: what it needs, where that pays"
    )
    vram_gb: StrictFloat | None = Field(
        None, gt=0, description="GPU memory for all trials together; none given: what the GPU has"
    )
    max_temperature_c: StrictFloat | None = Field(
        87.0,
        gt=0,
        description="where its GPU is as hot, a trial waits before an epoch, 5 minutes at most; null: never",
    )
    concurrent: StrictInt = Field(1, ge=1, le=64, description="trials at a time")
    threads_per_trial: StrictInt | None = Field(
        None, ge=1, description="CPU threads of a trial; none given: by the number of cores"
    )
    full_training_steps: StrictInt | None = Field(
        None,
        ge=1,
        description="optimiser steps of a full training of the default: num_epochs becomes what it takes on the data, "
        f"{LEAST_EPOCHS} to {MOST_EPOCHS}, unless --epochs says it; none given: num_epochs as it is",
    )
    keep_leaders: StrictInt = Field(3, ge=1, description="trials whose best checkpoint is kept")
    checkpoint_every_s: StrictFloat = Field(
        0.0, ge=0, description="seconds of training that a resumed trial may repeat; 0: none, each epoch is written"
    )

    @model_validator(mode="after")
    def _space_fits(self) -> SearchSettings:
        problems = []
        for name, dimension in self.space.items():
            if name == "weights":
                problems.append(
                    "space.weights: cannot be searched: they are chosen once, for all trials; expected train.weights"
                )
                continue
            if name not in TrainConfig.model_fields:
                problems.append(
                    f"space.{name}: not a field of the training configuration{nearest(name, TrainConfig.model_fields)}"
                )
                continue
            for value in dimension.samples():
                try:
                    with_params(self.train, {name: value})
                except ConfigError as error:
                    problems.append(f"space.{name}: {', '.join(error.problems)}")
                    break
        if any(not 0 < rung < 1 for rung in self.rungs) or list(self.rungs) != sorted(set(self.rungs)):
            problems.append(f"rungs: got {list(self.rungs)}, expected rising shares between 0 and 1")
        problems += [
            f"initial_points: got {', '.join(params) or 'nothing'}, expected a value for {', '.join(self.space)}"
            for params in self.initial_points
            if params.keys() != self.space.keys()
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def image_sizes(self) -> list[int]:
        """Sizes that the search may choose, or the one that it always takes (the longer side), rising, in pixels."""
        dimension = self.space.get("image_size")
        if dimension is None:
            return [max(self.train.image_size)]
        return sorted({int(size) for size in dimension.corners() if not isinstance(size, str)})


def with_params(base: TrainConfig, params: Mapping[str, float | int | str]) -> TrainConfig:
    """The base configuration with the searched values put in.

    Raises:
        ConfigError: a value does not fit its field.
    """
    return parse_record(TrainConfig, {**base.model_dump(), **params}, source="trial")


def scaled_to_data(settings: SearchSettings, views: int) -> SearchSettings:
    """The settings with the epochs that ``full_training_steps`` takes, where it is given.

    Args:
        views: that the default trains on in an epoch: photographs, or tiles of them.
    """
    if settings.full_training_steps is None:
        return settings
    epochs = round(settings.full_training_steps / settings.train.steps_per_epoch(views))
    epochs = min(max(LEAST_EPOCHS, epochs), MOST_EPOCHS)
    return settings.model_copy(update={"train": settings.train.model_copy(update={"num_epochs": epochs})})


def load_settings(path: Path, flags: Mapping[str, Any]) -> SearchSettings:
    """Settings from a file, with the command line's flags put over it.

    Args:
        path: its ``train`` is a training configuration or the name of its file, relative to this one.
        flags: by their path in the settings, such as ``train.model``. Trials or hours take the place of the file's
            budget, of both its limits.

    Raises:
        ConfigError: with every problem found.
    """
    values = read_json(path)
    outside = [key for key in Budget.model_fields if key in values]  # where version 1 had them
    if outside:
        raise ConfigError(str(path), [f'{key}: expected inside "budget": {{"{key}": ...}}' for key in outside])
    if isinstance(values.get("train", {}), str):
        values["train"] = read_json(path.parent / values["train"])
    if any(key.startswith("budget.") for key in flags):
        values["budget"] = {}
    for key, value in flags.items():
        *parents, name = key.split(".")
        record = values
        for parent in parents:
            record = record.setdefault(parent, {})
        if isinstance(record, dict):  # else a mistake in the file, reported below
            record[name] = value
    return parse_record(SearchSettings, values, source=str(path))
