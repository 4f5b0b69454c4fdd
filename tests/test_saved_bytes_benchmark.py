"""Mixed precision saves memory: by CUDA's autocast rules, on tensors without content."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks.saved_bytes import by_cuda_rules, detector
from vqc.models.registry import ARCHITECTURES

QUICK = "fcos_tiny"


@pytest.mark.parametrize(
    "name", [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES]
)
def test_a_detector_saves_at_most_six_tenths_in_mixed_precision(name: str) -> None:
    full, *mixed = (by_cuda_rules(detector(name, 64), 64, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert full > 0
    assert max(mixed) <= 0.6 * full
