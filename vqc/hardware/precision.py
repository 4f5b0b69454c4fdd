"""Where and in which number format a model runs: the device, autocast and the gradient scaler."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from vqc.config import TrainConfig
from vqc.errors import ConfigError

FIRST_SCALE = 2.0**14  # torch's 2^16 overflows most detection losses in the first steps


@dataclass(frozen=True, kw_only=True)
class Precision:
    """``dtype`` is what products are computed in; parameters and losses stay float32."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def scaler(self) -> torch.amp.GradScaler:
        """A scaler that scales for float16 and passes through for the others."""
        return torch.amp.GradScaler(self.device.type, init_scale=FIRST_SCALE, enabled=self.dtype == torch.float16)


def choose_precision(config: TrainConfig, *, gpu: int | None = None) -> Precision:
    """The device and number format for a run.

    Args:
        gpu: index of the CUDA device; None takes the first, or the CPU where there is none.

    Raises:
        ConfigError: a GPU or a format that was asked for does not exist here.
    """
    if gpu is not None and gpu >= torch.cuda.device_count():
        raise ConfigError("--gpu", [f"got {gpu}, but there are {torch.cuda.device_count()} CUDA devices"])
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", gpu or 0) if cuda else torch.device("cpu")
    asked = config.gpu_optimization.mixed_precision
    if asked == "float16" and not cuda:
        raise ConfigError(
            "gpu_optimization.mixed_precision", ["got 'float16' without a GPU, expected 'auto' or 'float32'"]
        )
    if asked != "auto":
        return Precision(device=device, dtype=getattr(torch, asked))
    if _multiplies_bfloat16(device):
        return Precision(device=device, dtype=torch.bfloat16)
    return Precision(device=device, dtype=torch.float16 if cuda else torch.float32)


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the hardware supports it; elsewhere torch emulates it, more slowly than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
