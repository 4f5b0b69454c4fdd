"""The C heap keeps what is freed, and gives it back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vqc.hardware.heap import freed_memory_kept

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
ROOT = Path(__file__).parents[3]
BLOCK = 12 * 2**20  # floats: 48 MB, more than glibc ever keeps by itself
FEW = 20  # page faults; a block of huge pages alone is 24


def faults_of_repeated_blocks() -> int:
    """Pages that the system handed out while the same block was asked for and freed ten times."""
    torch.ones(BLOCK)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(BLOCK)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


def comes_back() -> None:
    assert faults_of_repeated_blocks() > FEW
    with freed_memory_kept():
        faults_of_repeated_blocks()  # the heap grows
        assert faults_of_repeated_blocks() < FEW


def large_pages_kb() -> int:
    """Memory of this process that lies in large pages."""
    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return int(rollup.partition("AnonHugePages:")[2].split()[0])


def lies_in_large_pages() -> None:
    with freed_memory_kept():
        before_kb = large_pages_kb()
        block = torch.ones(BLOCK)
        assert large_pages_kb() >= before_kb + block.nbytes / 1024 / 2  # some of it lay in the heap before


def is_taken_back() -> None:
    with pytest.raises(RuntimeError), freed_memory_kept():
        raise RuntimeError
    assert faults_of_repeated_blocks() > FEW


def passes(check: Callable[[], None]) -> None:
    """Whether a check holds in a process of its own: other tests leave a heap with holes, which big blocks fit into."""
    code = f"from tests.vqc.hardware import test_heap; test_heap.{check.__name__}()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_freed_block_comes_back_without_the_system() -> None:
    passes(comes_back)


def test_what_is_written_while_a_run_trains_lies_in_large_pages() -> None:
    offered = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not offered.exists() or "[madvise]" not in offered.read_text(encoding="ascii"):
        pytest.skip("this Linux gives large pages to all or to none")
    passes(lies_in_large_pages)


def test_the_thresholds_are_taken_back_when_the_run_fails() -> None:
    passes(is_taken_back)
