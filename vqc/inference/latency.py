"""How long a detector takes for one picture; promotion and ``vqc evaluate`` measure it here."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from vqc.data.image_io import DecodedPicture
from vqc.inference.predictor import Predictor, spared_threads

LATENCY_IMAGES = 3  # decoded pictures, which may be large, in memory at once
WARM_UP_RUNS = 5
TIMED_RUNS = 50
FEWEST_RUNS = 10
LONGEST_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Latency:
    """From a decoded picture to its detections, one at a time, without the warm-up: fitting, the network, sorting."""

    p50_ms: float
    p95_ms: float
    runs: int
    device: str  # such as "CPU, 1 thread"


def measure_latency(predictor: Predictor, pictures: Sequence[DecodedPicture]) -> Latency:
    """Time a detector on decoded pictures in turn: ``TIMED_RUNS`` runs, fewer of a slow one.

    On a CPU one core is left to other work, see ``spared_threads``.
    """
    with one_core_spared():
        for run in range(WARM_UP_RUNS):
            predictor.detect(pictures[run % len(pictures)])
        times_ms: list[float] = []
        while len(times_ms) < TIMED_RUNS and (sum(times_ms) < 1000 * LONGEST_S or len(times_ms) < FEWEST_RUNS):
            started_s = time.perf_counter()
            predictor.detect(pictures[len(times_ms) % len(pictures)])
            times_ms.append(1000 * (time.perf_counter() - started_s))
        p50_ms, p95_ms = (float(value) for value in np.percentile(times_ms, (50, 95)))
        return Latency(p50_ms=p50_ms, p95_ms=p95_ms, runs=len(times_ms), device=predictor.detect_fitted.device)


@contextmanager
def one_core_spared() -> Iterator[None]:
    """Within it, torch uses at most ``spared_threads()``; where torch is not loaded, nothing happens."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, spared_threads()))
    try:
        yield
    finally:
        torch.set_num_threads(before)
