"""The book of measured memory: its line, and a file that many write."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from vqc.hardware.memory_book import MARGIN, MemoryBook, Setup, StepMemory


def setup_of(boxes: int) -> Setup:
    return Setup(
        card="pretended",
        torch="2",
        model="fcos_tiny",
        weights="none",
        image_size=(64, 96),
        precision="float32",
        categories=2,
        boxes=boxes,
        accumulates=False,
    )


LINE = StepMemory(fixed_bytes=1000, image_bytes=100)


def test_what_was_kept_is_found_by_another_process(tmp_path: Path) -> None:
    MemoryBook(tmp_path / "new").keep(setup_of(1), LINE)
    assert MemoryBook(tmp_path / "new").find(setup_of(1)) == LINE
    assert MemoryBook(tmp_path / "new").find(setup_of(2)) is None


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda boxes: MemoryBook(tmp_path).keep(setup_of(boxes), LINE), range(40)))
    assert len(MemoryBook(tmp_path).entries()) == 40
    assert not list(tmp_path.glob("*.tmp"))


def test_a_damaged_file_is_begun_anew(tmp_path: Path) -> None:
    book = MemoryBook(tmp_path)
    book.keep(setup_of(1), LINE)
    (path,) = tmp_path.glob("*.json")
    path.write_bytes(path.read_bytes()[:40])
    assert book.entries() == {}
    book.keep(setup_of(2), LINE)
    assert book.entries() == {setup_of(2): LINE}


def test_reading_it_loads_no_torch() -> None:
    code = "import sys, vqc.hardware.memory_book; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_margin_is_left_free() -> None:
    assert LINE.images_within(int(1300 / (1 - MARGIN)) + 1) == 3
    assert LINE.images_within(int(1300 / (1 - MARGIN)) - 1) == 2
    assert LINE.images_within(900) == 0


@settings(max_examples=200)
@given(st.integers(0, 10**10), st.integers(1, 10**9), st.integers(1, 64), st.integers(1, 10**11))
def test_tightened_admits_fewer_images_and_is_no_steeper_than_that_needs(
    fixed: int, image: int, images: int, limit: int
) -> None:
    before = StepMemory(fixed_bytes=fixed, image_bytes=image)
    after = before.tightened(images, limit)
    assert after.images_within(limit) < images
    a_byte_less = StepMemory(fixed_bytes=fixed, image_bytes=max(1, after.image_bytes - 1))
    assert after == before or a_byte_less.images_within(limit) >= images
    assert after.peak_bytes(images) >= before.peak_bytes(images)


@given(st.integers(1, 10**9), st.integers(2, 64), st.integers(1, 10**10))
def test_the_line_goes_through_both_points_or_above(one: int, images: int, peak: int) -> None:
    line = StepMemory.through(one, images, peak)
    assert line.peak_bytes(1) == one
    assert peak <= one or line.peak_bytes(images) - peak < images
