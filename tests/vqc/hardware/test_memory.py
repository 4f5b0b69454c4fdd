"""The size of a micro-batch, which errors mean that memory ran out, and the optimiser's memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import FrozenBatchNorm2d

from tests.cards import out_of_memory
from vqc.errors import InfeasibleError
from vqc.hardware.gpu import CONTEXT_GB, GB
from vqc.hardware.memory import (
    MicroBatch,
    Rollback,
    cap_vram,
    is_out_of_memory,
    may_be_out_of_memory,
    reserve_optimizer_state,
)


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Each failure is followed by a collection, which need not walk through all that was imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_one_image_that_does_not_fit_is_infeasible_with_the_figure() -> None:
    micro = MicroBatch(size=5)
    tried: list[int] = []
    undone: list[int] = []

    def never(size: int) -> None:
        tried.append(size)
        raise out_of_memory()

    said = r"a step, even on one image, does not fit into memory \(CUDA out of memory. Tried to allocate 2.00 GiB"
    with pytest.raises(InfeasibleError, match=said):
        micro.fitted(never, images=5, what="a step", undo=lambda: undone.append(len(tried)))
    assert tried == [5, 3, 2, 1, 1]
    assert undone == [1, 2, 3, 4]


@settings(max_examples=30)
@given(whole=st.integers(1, 64), failures=st.lists(st.booleans(), max_size=12))
def test_the_size_stays_between_one_and_the_whole(whole: int, failures: list[bool]) -> None:
    micro, outcomes = MicroBatch(size=whole), iter(failures)

    def attempt(size: int) -> int:
        if size > 1 and next(outcomes, False):
            raise out_of_memory()
        return size

    for _ in range(8):
        assert 1 <= micro.fitted(attempt, images=whole, what="a step") == micro.size <= whole
        micro.grow()
    list(outcomes)
    for _ in range(8):
        micro.grow()
    assert micro.size == whole


def test_other_errors_are_not_taken_for_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        MicroBatch(size=4).fitted(mock.Mock(side_effect=RuntimeError("shapes")), images=4, what="a step")


NO_ENGINE = RuntimeError("GET was unable to find an engine to execute this computation")


@pytest.mark.parametrize(
    ("error", "certain", "possible"),
    [
        (out_of_memory(), True, True),
        (MemoryError(), True, True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True, True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True, True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True, True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), False, True),
        (NO_ENGINE, False, True),
        (RuntimeError("CUDA error: device-side assert triggered"), False, False),
        (ValueError("CUDA out of memory"), False, False),
    ],
    ids=str,
)
def test_running_out_is_told_by_type_or_words(error: Exception, certain: bool, possible: bool) -> None:
    assert (is_out_of_memory(error), may_be_out_of_memory(error)) == (certain, possible)


def test_what_may_be_memory_is_tried_with_fewer_images() -> None:
    micro = MicroBatch(size=8)

    def attempt(size: int) -> int:
        if size > 2:
            raise NO_ENGINE
        return size

    assert micro.fitted(attempt, images=8, what="a step") == 2


def test_what_may_be_memory_is_the_error_itself_where_one_image_meets_it_too() -> None:
    attempt = mock.Mock(side_effect=NO_ENGINE)
    with pytest.raises(RuntimeError, match="unable to find an engine"):
        MicroBatch(size=4).fitted(attempt, images=4, what="a step")
    assert [call.args for call in attempt.call_args_list] == [(4,), (2,), (1,), (1,)]


def test_only_running_statistics_are_copied_and_taken_back() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(2), FrozenBatchNorm2d(2))
    rollback = Rollback(model, torch.device("cpu"))
    rollback.save()
    for buffer in model.buffers():
        buffer.fill_(5)
    rollback.restore()
    assert [float(buffer.max()) for buffer in model[0].buffers()] == [0, 1, 0]
    assert all(bool((buffer == 5).all()) for buffer in model[1].buffers())


def test_the_optimisers_memory_is_there_before_its_first_step() -> None:
    """What its first step would have made, to the last digit; then a step allocates no state."""
    reserved, lazy = (torch.nn.Linear(3, 2) for _ in range(2))
    lazy.load_state_dict(reserved.state_dict())
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.1) for model in (reserved, lazy)]
    reserve_optimizer_state(optimizers[0])
    held = {id(tensor) for slots in optimizers[0].state.values() for tensor in slots.values()}
    for model, optimizer in zip((reserved, lazy), optimizers, strict=True):
        model(torch.ones(3)).sum().backward()
        optimizer.step()
    assert {id(tensor) for slots in optimizers[0].state.values() for tensor in slots.values()} == held
    for ours, theirs in zip(reserved.parameters(), lazy.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert repr(optimizers[0].state_dict()) == repr(optimizers[1].state_dict())


def test_reserving_leaves_a_resumed_state_alone() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    before = repr(optimizer.state_dict())
    reserve_optimizer_state(optimizer)
    assert repr(optimizer.state_dict()) == before


@pytest.mark.parametrize(
    ("vram_gb", "share", "platform", "allowed_gb"),
    [
        (None, 1.0, "linux", 8.0 - CONTEXT_GB),
        (6.0, 0.5, "linux", 3.0 - CONTEXT_GB),
        (6.0, 1.0, "win32", 5.0),  # no more than is free
        (6.0, 0.5, "win32", 3.0 - CONTEXT_GB),
        (0.1, 1.0, "linux", 0.0),
    ],
)
def test_a_process_takes_its_share_and_on_windows_what_is_free(
    vram_gb: float | None, share: float, platform: str, allowed_gb: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU of 8 GiB, of which other programs hold 3."""
    caps: list[float] = []
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: mock.Mock(total_memory=8 * GB))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (5 * GB, 8 * GB))
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", lambda cap, device: caps.append(cap))
    cap_vram(vram_gb, share=share, device=torch.device("cuda", 0), platform=platform)
    assert caps == [pytest.approx(allowed_gb / 8)]
