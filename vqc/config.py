"""Frozen settings of one training run, and how errors in them are reported.

A file is JSON with the guide's keys (``configs/train_config.json``). Unknown keys are errors, all
mistakes are reported at once, each with its path in the file. Numbers and switches are strict:
Python would take ``true`` for 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationError,
    model_validator,
)

from vqc.errors import ConfigError, nearest

ACCUMULATION = "gradient_accumulation_steps"
MOST_WORKERS = 64
SMALLEST_TILE_PX = 32
LARGEST_SIZE_PX = 4096
SIZE_STEP_PX = 32  # the deepest feature map of every detector here has one cell for 32 pixels


class Record(BaseModel):
    """A frozen, validated record; unknown keys and values that are not finite are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class Augmentation(Record):
    """What is done to a training image, each with its probability or strength."""

    horizontal_flip: StrictFloat = Field(0.5, ge=0, le=1, description="probability per image")
    vertical_flip: StrictFloat = Field(0.5, ge=0, le=1, description="probability per image; parts have no up and down")
    quarter_turn: StrictFloat = Field(0.0, ge=0, le=1, description="probability per image; for square inputs alone")
    scale_jitter: StrictFloat = Field(
        0.0, ge=0, le=3, description="largest relative change of size, up or down; no box is ever cut"
    )
    copy_paste: StrictFloat = Field(
        0.0, ge=0, le=1, description="probability that a good part is shown with the defects of another photograph"
    )
    brightness: StrictFloat = Field(0.2, ge=0, le=1, description="largest relative change")
    contrast: StrictFloat = Field(0.2, ge=0, le=1, description="largest relative change")


def _from_bool(value: object) -> object:
    return {True: "auto", False: "float32"}[value] if isinstance(value, bool) else value


_Format = Literal["auto", "float32", "float16", "bfloat16"]
MixedPrecision = Annotated[_Format, BeforeValidator(_from_bool, json_schema_input_type=_Format | bool)]


class GpuOptimization(Record):
    """The guide's optimisations; each can be switched."""

    mixed_precision: MixedPrecision = Field(
        "auto",
        description="auto or true: bfloat16 where the hardware multiplies it, else float16 on CUDA, else float32; "
        "false: float32",
    )
    gradient_accumulation_steps: StrictInt = Field(
        1, ge=1, description="batches per optimiser step; the step sees their mean"
    )
    cudnn_benchmark: StrictBool = Field(
        True,
        description="let cuDNN choose the fastest convolution for the fixed input size; off where a detector convolves "
        "proposals, whose number varies",
    )
    matmul_precision: Literal["highest", "high", "medium"] = Field(
        "high", description="float32 products on tensor cores; high is TF32"
    )
    empty_cache_after_batch: StrictBool = Field(
        False, description="the guide's torch.cuda.empty_cache() after each batch"
    )
    max_split_size_mb: StrictInt | None = Field(
        None, ge=21, description="allocator: blocks above this are not split (the guide's 512)"
    )
    expandable_segments: StrictBool = Field(
        False, description="allocator: segments that grow, against fragmentation; not on Windows, where torch has none"
    )


def _pair(value: object) -> object:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


SizePx = Annotated[StrictInt, Field(ge=64, le=LARGEST_SIZE_PX, multiple_of=SIZE_STEP_PX)]
ImageSize = Annotated[
    tuple[SizePx, SizePx], BeforeValidator(_pair, json_schema_input_type=tuple[SizePx, SizePx] | SizePx)
]


def _workers(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_WORKERS):
        return value
    raise ValueError(f"expected 'auto' or a whole number from 0 to {MOST_WORKERS}")


# A validator of its own, so that a mistake is reported once and not for each kind of value.
Workers = Annotated[
    int | Literal["auto"],
    PlainValidator(
        _workers, json_schema_input_type=Literal["auto"] | Annotated[StrictInt, Field(ge=0, le=MOST_WORKERS)]
    ),
]


STARTS = ("auto", "coco", "backbone", "none")


def _weights(value: object) -> object:
    if isinstance(value, str) and (value in STARTS or value.endswith(".safetensors") or {"/", "\\"} & set(value)):
        return value
    raise ValueError(f"expected {', '.join(STARTS)}, or the path of a model.safetensors or of its folder")


class InitialModel(Record):
    """The model that a run goes on from; the program fills it in where ``weights`` names a file."""

    path: str = Field(description="of the .safetensors file")
    sha256: str = Field(description="of that file; another one in its place is refused")
    same_categories: StrictBool = Field(description="false: the part of the head that tells categories begins anew")


def _with_second_spelling(schema: dict[str, Any]) -> None:
    named = {"type": "integer", "minimum": 1, "description": "the guide's second spelling of gpu_optimization's"}
    schema["properties"][ACCUMULATION] = named


class TrainConfig(Record):
    """All that decides what a training run computes, but for the data.

    Equal configurations on equal data give equal results on a CPU, with equal versions and threads. On CUDA they
    differ by rounding, which grows as they train: see ``vqc.training.loop``.
    """

    model_config = ConfigDict(json_schema_extra=_with_second_spelling)

    model: str = Field("fasterrcnn_resnet50_fpn", description="name of a detector: see 'vqc models'")
    weights: Annotated[str, PlainValidator(_weights, json_schema_input_type=str)] = Field(
        "auto",
        description="what training starts from: coco (the whole detector but the part that tells categories), backbone "
        "(ImageNet), none (random), auto (the first of these that can be had), or a model.safetensors or its folder",
    )
    initial_model: InitialModel | None = Field(None, description="filled in where weights names a file")
    frozen_stages: StrictInt | None = Field(
        None,
        ge=0,
        description="stages of a pretrained backbone, its stem the first, that keep their weights; "
        "none given: as is usual for the detector",
    )
    backbone_rate: StrictFloat = Field(
        0.25, gt=0, le=1, description="learning rate of a pretrained backbone, as a share of the others'"
    )
    image_size: ImageSize = Field(
        (512, 512),
        description="height and width in pixels, multiples of 32, or one number for a square; images are fitted in",
    )
    tile_px: StrictInt = Field(
        0,
        ge=0,
        le=16_384,
        description="side in photograph pixels of the square tiles into which photographs are cut, for training and "
        "detection, each fitted to image_size; 0: the whole photograph at once",
    )
    batch_size: StrictInt = Field(8, ge=1, le=1024, description="images per batch")
    num_epochs: StrictInt = Field(
        50, ge=1, le=10_000, description="passes over the training images; the schedule spans them"
    )
    learning_rate: StrictFloat = Field(1e-4, gt=0, le=10, description="peak of the schedule, per step")
    weight_decay: StrictFloat = Field(
        1e-4,
        ge=0,
        le=1,
        description="AdamW's decoupled decay, per step and unit of learning rate; none for norms and biases",
    )
    warmup_fraction: StrictFloat = Field(
        0.1, ge=0, lt=1, description="share of all steps in which the rate rises linearly"
    )
    clip_norm: StrictFloat = Field(10.0, gt=0, description="largest 2-norm of the whole gradient of a step")
    ema_decay: StrictFloat = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the old in the moving average of the weights, per step, such as 0.999; the average is "
        "what is evaluated and kept; 0: the weights themselves are",
    )
    score_floor: StrictFloat | None = Field(
        None,
        ge=0,
        le=1,
        description="detections below it are not returned; null: the detector's own, lower where escape needs it",
    )
    repeat_threshold: StrictFloat = Field(
        0.0,
        ge=0,
        le=1,
        description="a category on a smaller share of the images is seen more often; 0: none is",
    )
    augmentation: Augmentation = Field(default_factory=Augmentation, description="what is done to training images")
    gpu_optimization: GpuOptimization = Field(default_factory=GpuOptimization, description="the guide's optimisations")
    num_workers: Workers = Field(
        "auto",
        description="threads at most that prepare batches, as many of them as it takes; auto: one less than there are "
        "cores; 0: the trainer does it itself",
    )
    seed: StrictInt = Field(0, ge=0, lt=2**32, description="root of every random stream of the run")

    @model_validator(mode="after")
    def _squares_fit(self) -> TrainConfig:
        height, width = self.image_size
        for name, wanted in (("augmentation.quarter_turn", self.augmentation.quarter_turn), ("tile_px", self.tile_px)):
            if wanted and height != width:
                raise ValueError(f"{name}: expected 0, because image_size {height} x {width} is not square")
        if 0 < self.tile_px < SMALLEST_TILE_PX:
            raise ValueError(f"tile_px: got {self.tile_px}, expected 0 or at least {SMALLEST_TILE_PX}")
        if self.tile_px and self.augmentation.copy_paste:
            raise ValueError("augmentation.copy_paste: expected 0, because tiles of two photographs show other places")
        return self

    def steps_per_epoch(self, images: int) -> int:
        """Optimiser steps over so many training images; the last batch and the last step may be smaller."""
        return math.ceil(math.ceil(images / self.batch_size) / self.gpu_optimization.gradient_accumulation_steps)

    @model_validator(mode="before")
    @classmethod
    def _guides_second_spelling(cls, values: Any) -> Any:
        """The guide writes ``gradient_accumulation_steps`` in two places; both mean the one in gpu_optimization."""
        if not isinstance(values, Mapping) or ACCUMULATION not in values:
            return values
        rest = {key: value for key, value in values.items() if key != ACCUMULATION}
        inner = rest.get("gpu_optimization", {})
        if not isinstance(inner, Mapping):
            return rest  # that mistake is reported by its own field
        if ACCUMULATION in inner:
            raise ValueError(f"{ACCUMULATION}: is there twice, expected it in gpu_optimization alone")
        return {**rest, "gpu_optimization": {**inner, ACCUMULATION: values[ACCUMULATION]}}


R = TypeVar("R", bound=Record)


def load_record(kind: type[R], path: Path) -> R:
    """Read a record from a JSON file; a ``$schema`` key is allowed.

    Raises:
        ConfigError: the file is missing, is not JSON, or does not fit the record; all problems at once.
    """
    return parse_record(kind, read_json(path), source=str(path))


def shipped_settings(name: str) -> Path:
    """A file of ``configs/``: at the root of a checkout; a wheel has that folder inside the package."""
    package = Path(__file__).resolve().parent
    in_wheel, in_checkout = package / "configs", package.parent / "configs"
    return (in_wheel if in_wheel.is_dir() else in_checkout) / name


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, less its ``$schema``.

    Raises:
        ConfigError: the file is missing, not UTF-8, not JSON, or not an object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))  # Windows' editors put a byte order mark in front
    except FileNotFoundError:
        raise ConfigError(str(path), ["no such file"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from None
    except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
        raise ConfigError(str(path), [f"not JSON: {error}"]) from None
    if not isinstance(found, dict):
        raise ConfigError(str(path), [f"expected a JSON object, got {type(found).__name__}"])
    return {key: value for key, value in found.items() if key != "$schema"}


def parse_record(kind: type[R], values: Mapping[str, Any], *, source: str) -> R:
    """Validate ``values``; ``source`` names where they came from in the message.

    Raises:
        ConfigError: with every problem, each as ``key.path: got ..., expected ...``.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(source, list(_problems(kind, error))) from None


def _problems(kind: type[Record], error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            yield f"{path}: unknown key{nearest(str(item['loc'][-1]), _fields_at(kind, item['loc'][:-1]))}"
        elif item["type"] == "missing":
            yield f"{path}: missing"
        elif isinstance(item["input"], Mapping | Record):  # of several keys together: the message names them
            yield from (f"{path}: {part}" if path else part for part in _plain(item["msg"]).splitlines())
        else:
            yield f"{path}: got {item['input']!r:.80}, {_plain(item['msg'])}"


def _plain(message: str) -> str:
    return (
        message.removeprefix("Value error, ")
        .replace("Input should be", "expected")
        .replace("Input should have", "expected")
        .replace("a valid tuple", "a list")
    )


def _fields_at(kind: Any, loc: tuple[int | str, ...]) -> list[str]:
    """Names allowed where ``loc`` points to: through records and through dictionaries of records."""
    for part in loc:
        if isinstance(kind, type) and issubclass(kind, Record) and str(part) in kind.model_fields:
            kind = kind.model_fields[str(part)].annotation
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            return []
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, Record) else []
