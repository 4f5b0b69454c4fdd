"""Seeds by name."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqc.seeding import stream_seed

COUNTERS = st.lists(st.integers(0, 10**6), max_size=3)


@given(st.integers(0, 2**32 - 1), COUNTERS)
def test_within_what_every_generator_takes(seed: int, counters: list[int]) -> None:
    assert 0 <= stream_seed(seed, "augment", *counters) < 2**32


@given(COUNTERS, COUNTERS)
def test_counters_are_told_apart(one: list[int], other: list[int]) -> None:
    """Also (1, 23) and (12, 3), which a mere concatenation would confuse."""
    assert (stream_seed(0, "augment", *one) == stream_seed(0, "augment", *other)) == (one == other)


def test_streams_and_seeds_differ() -> None:
    seeds = {stream_seed(seed, name, 1) for seed in range(20) for name in ("init", "shuffle", "augment", "sampler")}
    assert len(seeds) == 80


@pytest.mark.parametrize(("arguments", "seed"), [((0, "init"), 422175079), ((7, "augment", 3, 12), 3833427384)])
def test_never_changes(arguments: tuple[int, str], seed: int) -> None:
    """A changed value would make every recorded search unrepeatable."""
    assert stream_seed(*arguments) == seed


def test_the_same_in_a_fresh_process_under_another_hash_seed() -> None:
    code = "from vqc.seeding import stream_seed; print(stream_seed(3, 'shuffle', 5))"
    answer = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "1234"}, capture_output=True, check=True
    )
    assert int(answer.stdout) == stream_seed(3, "shuffle", 5)
