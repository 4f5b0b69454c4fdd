"""The allocator's settings: in torch's spelling, given to torch, and read back."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from vqc.config import GpuOptimization, TrainConfig
from vqc.hardware.allocator import BY_HAND, allocator_in_force, allocator_settings, set_allocator
from vqc.training.loop import backend_settings


@pytest.fixture(autouse=True)
def _nothing_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BY_HAND:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("values", "platform", "settings"),
    [
        ({}, "linux", "expandable_segments:False"),
        ({}, "win32", ""),
        ({"max_split_size_mb": 512}, "win32", "max_split_size_mb:512"),
        ({"expandable_segments": True}, "linux", "expandable_segments:True"),
        ({"expandable_segments": True}, "win32", ""),
        ({"max_split_size_mb": 512}, "linux", "max_split_size_mb:512,expandable_segments:False"),
    ],
)
def test_settings_in_torchs_spelling(values: dict[str, object], platform: str, settings: str) -> None:
    assert allocator_settings(GpuOptimization.model_validate(values), platform=platform) == settings


def test_each_run_gives_its_own_to_torch() -> None:
    guides = GpuOptimization(max_split_size_mb=512)
    with backend_settings(TrainConfig(gpu_optimization=guides)):
        assert allocator_in_force() == allocator_settings(guides)
    with backend_settings(TrainConfig()):
        assert allocator_in_force() == allocator_settings(GpuOptimization())


@pytest.mark.parametrize("by_hand", BY_HAND)
def test_what_the_user_set_by_hand_holds(by_hand: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: torch reads the environment once."""
    code = (
        "from vqc.config import GpuOptimization\nfrom vqc.hardware.allocator import allocator_in_force, set_allocator\n"
        "set_allocator(GpuOptimization(max_split_size_mb=512))\nprint(allocator_in_force())"
    )
    monkeypatch.setenv(by_hand, "max_split_size_mb:64")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "max_split_size_mb:64"


@pytest.mark.gpu
def test_the_allocator_itself_follows_and_forgets() -> None:
    """What it uses, not what it was told; after CUDA has started."""
    torch.ones(1, device="cuda")
    seen = []
    for optimization in (GpuOptimization(max_split_size_mb=512, expandable_segments=True), GpuOptimization()):
        set_allocator(optimization)
        used = torch.cuda.memory._snapshot()["allocator_settings"]
        seen.append((used["max_split_size"] == 512 * 2**20, used["expandable_segments"]))
    assert seen == [(True, sys.platform != "win32"), (False, False)]
