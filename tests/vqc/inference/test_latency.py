"""Honest clocks: the warm-up is left out, and one core is left to other work."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.models import StubBackend, picture, stub_predictor
from vqc.data.image_io import DecodedPicture
from vqc.inference import latency
from vqc.inference.detections import Detections
from vqc.inference.latency import measure_latency


class SlowAtFirst(StubBackend):
    def __call__(self, images: NDArray[np.uint8]) -> list[Detections]:
        time.sleep(0.05 if self.images < latency.WARM_UP_RUNS else 0.001)
        return super().__call__(images)


def test_latency_leaves_the_warm_up_out() -> None:
    backend = SlowAtFirst()
    found = measure_latency(stub_predictor(backend), [DecodedPicture.whole(picture(1))])
    assert backend.images == latency.WARM_UP_RUNS + found.runs
    assert found.runs == latency.TIMED_RUNS
    assert found.device == "CPU, 1 thread"
    assert 1.0 <= found.p50_ms <= found.p95_ms


class Threads(StubBackend):
    def __call__(self, images: NDArray[np.uint8]) -> list[Detections]:
        self.threads = torch.get_num_threads()
        return super().__call__(images)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (4, 3), (64, 4)])
def test_one_core_is_left_to_other_work(cores: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        backend = Threads()
        measure_latency(stub_predictor(backend), [DecodedPicture.whole(picture(1))])
        assert backend.threads == threads
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
