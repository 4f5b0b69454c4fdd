"""Settings of one training run: what is accepted, and how mistakes are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tune.settings import SearchSettings, load_settings
from vqc.config import Augmentation, GpuOptimization, Record, TrainConfig, load_record, parse_record, read_json
from vqc.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


def parsed(**values: Any) -> TrainConfig:
    return parse_record(TrainConfig, values, source="test")


def problems(kind: type[Record], values: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_record(kind, values, source="test")
    return caught.value.problems


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("train*[!a].json")), ids=lambda path: path.name)
def test_every_training_file_loads(path: Path) -> None:
    assert load_record(TrainConfig, path).num_epochs >= 1


@pytest.mark.parametrize("name", ["search.json", "search_cpu.json"])
def test_every_search_file_loads(name: str) -> None:
    assert isinstance(load_settings(CONFIGS / name, {}), SearchSettings)


def test_no_file_is_forgotten() -> None:
    names = {path.name for path in CONFIGS.glob("*.json") if not path.name.endswith(".schema.json")}
    assert names - {"pipeline.json", "portfolio.json"} == {
        "train_config.json",
        "train_config_cpu.json",
        "search.json",
        "search_cpu.json",
    }


@pytest.mark.parametrize("size", [512, [512, 512], (512, 512)])
def test_one_number_is_a_square(size: object) -> None:
    assert parsed(image_size=size).image_size == (512, 512)


def test_height_stands_before_width() -> None:
    assert parsed(image_size=[320, 640]).image_size == (320, 640)


@pytest.mark.parametrize(
    ("given", "format_"), [(True, "auto"), (False, "float32"), ("auto", "auto"), ("bfloat16", "bfloat16")]
)
def test_mixed_precision_in_the_guides_spelling(given: object, format_: str) -> None:
    assert parsed(gpu_optimization={"mixed_precision": given}).gpu_optimization.mixed_precision == format_


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"lerning_rate": 1e-3}, "lerning_rate: unknown key; did you mean 'learning_rate'?"),
        ({"zzz": 1}, "zzz: unknown key"),
        (
            {"gpu_optimization": {"mixed_precison": True}},
            "gpu_optimization.mixed_precison: unknown key; did you mean 'mixed_precision'?",
        ),
        ({"augmentation": {"brigthness": 0}}, "augmentation.brigthness: unknown key; did you mean 'brightness'?"),
        ({"batch_size": 0}, "batch_size: got 0, expected greater than or equal to 1"),
        ({"batch_size": True}, "batch_size: got True, expected a valid integer"),
        ({"batch_size": 2.5}, "batch_size: got 2.5, expected a valid integer"),
        ({"batch_size": "8"}, "batch_size: got '8', expected a valid integer"),
        ({"learning_rate": True}, "learning_rate: got True, expected a valid number"),
        ({"learning_rate": "1e-4"}, "learning_rate: got '1e-4', expected a valid number"),
        ({"learning_rate": float("nan")}, "learning_rate: got nan, expected a finite number"),
        ({"image_size": True}, "image_size: got True, expected a list"),
        ({"image_size": [512, 500]}, "image_size.1: got 500, expected a multiple of 32"),
        ({"image_size": 32}, "image_size.0: got 32, expected greater than or equal to 64"),
        (
            {"gpu_optimization": {"cudnn_benchmark": 1}},
            "gpu_optimization.cudnn_benchmark: got 1, expected a valid boolean",
        ),
    ],
    ids=str,
)
def test_mistakes_are_told_as_paths(values: dict[str, Any], problem: str) -> None:
    assert problem in problems(TrainConfig, values)


def test_all_mistakes_at_once() -> None:
    wrong = {"batch_size": 0, "lerning_rate": 1, "augmentation": {"contrast": 2}, "num_epochs": "many"}
    told = "\n".join(problems(TrainConfig, wrong))
    assert [name in told for name in ("batch_size", "lerning_rate", "augmentation.contrast", "num_epochs")] == [
        True
    ] * 4


def test_a_long_value_does_not_flood_the_message() -> None:
    assert len(problems(TrainConfig, {"model": ["x" * 10_000]})[0]) < 200


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "expected a JSON object, got list"),
        ("3", "expected a JSON object, got int"),
        ("[" * 100_000, "not JSON"),
        ('{"seed": ' + "9" * 5000 + "}", "not JSON"),
        ('{"seed": "\\ud800"}', "seed: got"),
    ],
    ids=["empty", "open", "list", "number", "deep", "digits", "surrogate"],
)
def test_what_is_no_configuration(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_record(TrainConfig, write(tmp_path / "config.json", text))
    assert problem in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "config.json"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.write_bytes(b"\xff\xfe{")])
def test_a_file_that_cannot_be_read(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "config.json"
    make(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_json(path)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", '{"$schema": "x.json", "batch_size": 4}', encoding="utf-8-sig")
    assert load_record(TrainConfig, path).batch_size == 4


def test_records_are_frozen() -> None:
    config = TrainConfig()
    with pytest.raises(ValidationError):
        config.batch_size = 2  # type: ignore[misc]


@pytest.mark.parametrize("kind", [TrainConfig, Augmentation, GpuOptimization, SearchSettings])
def test_every_setting_is_described(kind: type[Record]) -> None:
    assert [name for name, field in kind.model_fields.items() if not field.description] == []


CONFIG_VALUES = st.fixed_dictionaries(
    {
        "image_size": st.tuples(*[st.integers(2, 128).map(lambda cells: 32 * cells)] * 2),
        "batch_size": st.integers(1, 1024),
        "learning_rate": st.floats(1e-12, 10),
        "warmup_fraction": st.floats(0, 0.99),
        "seed": st.integers(0, 2**32 - 1),
        "gpu_optimization": st.builds(GpuOptimization, mixed_precision=st.sampled_from([True, False, "float16"])),
    }
)


@given(CONFIG_VALUES)
def test_written_and_read_is_the_same(values: dict[str, Any]) -> None:
    config = TrainConfig(**values)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    assert parse_record(TrainConfig, json.loads(config.model_dump_json()), source="test") == config


# The guide's two places for one key, and what an editor makes of the files


def test_gradient_accumulation_in_the_guides_second_place() -> None:
    given = {"gradient_accumulation_steps": 2, "gpu_optimization": {"cudnn_benchmark": False}}
    optimization = parsed(**given).gpu_optimization
    assert (optimization.gradient_accumulation_steps, optimization.cudnn_benchmark) == (2, False)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"gradient_accumulation_steps": 2, "gpu_optimization": {"gradient_accumulation_steps": 2}},
            "gradient_accumulation_steps: is there twice, expected it in gpu_optimization alone",
        ),
        (
            {"gradient_accumulation_steps": 0},
            "gpu_optimization.gradient_accumulation_steps: got 0, expected greater than or equal to 1",
        ),
    ],
)
def test_mistakes_in_the_second_place(values: dict[str, Any], problem: str) -> None:
    assert problems(TrainConfig, values) == (problem,)


@pytest.mark.parametrize("name", ["train_config.json", "train_config_cpu.json"])
def test_an_editor_accepts_the_shipped_files(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((CONFIGS / "train_config.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads((CONFIGS / name).read_text(encoding="utf-8")), schema)


@pytest.mark.parametrize(
    ("values", "accepted"),
    [
        ({"image_size": 512, "gpu_optimization": {"mixed_precision": True}}, True),
        ({"image_size": [416, 416], "gradient_accumulation_steps": 2}, True),
        ({"image_size": [512, 100]}, False),
        ({"batchsize": 4}, False),
    ],
)
def test_an_editor_and_the_program_agree(values: dict[str, Any], accepted: bool) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((CONFIGS / "train_config.schema.json").read_text(encoding="utf-8"))
    assert jsonschema.Draft202012Validator(schema).is_valid(values) == accepted
    if accepted:
        parsed(**values)
    else:
        problems(TrainConfig, values)
