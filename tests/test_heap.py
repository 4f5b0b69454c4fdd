"""The C heap keeps what is freed, and gives it back."""

from __future__ import annotations

import sys

import pytest
import torch

from vqc.heap import freed_memory_kept

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
BLOCK = 12 * 2**20  # floats: 48 MB, more than glibc ever keeps by itself
FEW = 20  # page faults; a block of huge pages alone is 24


def faults_of_repeated_blocks() -> int:
    """Pages that the system handed out while the same block was asked for and freed ten times."""
    torch.ones(BLOCK)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(BLOCK)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


def test_a_freed_block_comes_back_without_the_system() -> None:
    assert faults_of_repeated_blocks() > FEW
    with freed_memory_kept():
        faults_of_repeated_blocks()  # the heap grows
        assert faults_of_repeated_blocks() < FEW


def test_the_thresholds_are_taken_back_when_the_run_fails() -> None:
    with pytest.raises(RuntimeError), freed_memory_kept():
        raise RuntimeError
    assert faults_of_repeated_blocks() > FEW
