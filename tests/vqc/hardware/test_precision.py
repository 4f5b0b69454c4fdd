"""Device and number format, on the machine that the tests run on."""

from __future__ import annotations

import pytest
import torch

from vqc.config import TrainConfig, parse_record
from vqc.errors import ConfigError
from vqc.hardware.precision import Precision, choose_precision

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what a machine without a GPU does")


def config(mixed_precision: object) -> TrainConfig:
    return parse_record(TrainConfig, {"gpu_optimization": {"mixed_precision": mixed_precision}}, source="test")


@no_gpu
@pytest.mark.parametrize("asked", [True, "auto"])
def test_without_a_gpu_auto_is_never_float16(asked: object) -> None:
    chosen = choose_precision(config(asked))
    assert chosen.device == torch.device("cpu")
    assert chosen.dtype in (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("asked", "dtype"), [(False, torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_what_is_asked_for_is_taken(asked: object, dtype: torch.dtype) -> None:
    assert choose_precision(config(asked)).dtype == dtype


@no_gpu
def test_float16_without_a_gpu_is_an_error() -> None:
    with pytest.raises(ConfigError, match="mixed_precision: got 'float16' without a GPU, expected 'auto' or 'float32'"):
        choose_precision(config("float16"))


def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="--gpu: got 99, but there are"):
        choose_precision(config("auto"), gpu=99)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_of_the_chosen_format(dtype: torch.dtype) -> None:
    precision = Precision(device=torch.device("cpu"), dtype=dtype)
    ones = torch.ones(4, 4)
    with precision.autocast():
        assert (ones @ ones).dtype == dtype
    assert (ones @ ones).dtype == torch.float32


@pytest.mark.parametrize(("dtype", "scales"), [(torch.float32, False), (torch.bfloat16, False), (torch.float16, True)])
def test_only_float16_is_scaled(dtype: torch.dtype, scales: bool) -> None:
    assert Precision(device=torch.device("cpu"), dtype=dtype).scaler().is_enabled() == scales
