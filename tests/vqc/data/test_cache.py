"""The file of fitted images: whole or not there, within its limit, and no reason to stop when it cannot be had."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vqc.data import cache
from vqc.data.cache import cached_pixels

SHAPE = (5, 8, 16, 3)
BYTES = int(np.prod(SHAPE))
HEADER_BYTES = 128
Pixels = NDArray[np.uint8]


def pictures(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def cached(
    folder: Path, group: str = "data-8x16", name: str = "train", *, seed: int = 0, **options: Any
) -> Pixels | None:
    return cached_pixels(folder, name, group=group, shape=SHAPE, produce=lambda: pictures(seed), **options)


def never() -> Pixels:
    raise AssertionError("the images are there already")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"lock"}


@pytest.fixture
def remarks(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [record.getMessage() for record in caplog.records]


@given(st.tuples(*[st.integers(1, 9)] * 3, st.just(3)), st.integers(0, 99))
def test_what_is_read_is_what_was_produced(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    expected = pictures(seed, shape)
    first = cached_pixels(folder, "val", group="g", shape=shape, produce=lambda: expected)
    again = cached_pixels(folder, "val", group="g", shape=shape, produce=never)
    assert first is not None
    assert again is not None
    assert np.array_equal(first, expected)
    assert np.array_equal(again, expected)
    assert not again.flags.writeable


@pytest.mark.parametrize("kept", [0, 10, HEADER_BYTES, HEADER_BYTES + BYTES - 1])
def test_a_file_cut_short_is_written_anew(tmp_path: Path, kept: int) -> None:
    cached(tmp_path)
    path = tmp_path / "data-8x16-train.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    cached(tmp_path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("other", [np.zeros((1, *SHAPE[1:]), np.uint8), np.zeros(SHAPE, np.float32)])
def test_a_file_of_another_shape_or_kind_is_written_anew(tmp_path: Path, other: NDArray[Any]) -> None:
    np.save(tmp_path / "data-8x16-train.npy", other)
    found = cached(tmp_path)
    assert found is not None
    assert np.array_equal(found, pictures())


def test_a_file_with_pickles_is_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "data-8x16-train.npy", np.array([{}], object), allow_pickle=True)
    found = cached(tmp_path)
    assert found is not None
    assert np.array_equal(found, pictures())


def test_writers_at_once_write_once(tmp_path: Path) -> None:
    together, produced = threading.Barrier(4), []

    def produce() -> Pixels:
        produced.append(1)
        return pictures()

    def write(_: int) -> bytes:
        together.wait()
        found = cached_pixels(tmp_path, "train", group="g", shape=SHAPE, produce=produce)
        assert found is not None
        return found.tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(write, range(4))) == {pictures().tobytes()}
    assert (len(produced), names(tmp_path)) == (1, {"g-train.npy"})


# Room


def use(folder: Path, *groups: str) -> None:
    """Files of these groups, the first one used longest ago."""
    for age, group in enumerate(reversed(groups)):
        cached(folder, group)
        os.utime(folder / f"{group}-train.npy", (1e9 - age, 1e9 - age))


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    use(tmp_path, "old", "middle", "young")
    cached(tmp_path, "new", limit_bytes=3 * (BYTES + HEADER_BYTES))
    assert names(tmp_path) == {"middle-train.npy", "young-train.npy", "new-train.npy"}


def test_what_is_used_again_is_young_again(tmp_path: Path) -> None:
    use(tmp_path, "old", "middle", "young")
    cached(tmp_path, "old")
    cached(tmp_path, "new", limit_bytes=3 * (BYTES + HEADER_BYTES))
    assert names(tmp_path) == {"old-train.npy", "young-train.npy", "new-train.npy"}


def test_nothing_goes_while_there_is_room(tmp_path: Path) -> None:
    use(tmp_path, "old", "middle")
    cached(tmp_path, "new", limit_bytes=3 * (BYTES + HEADER_BYTES))
    assert len(names(tmp_path)) == 3


def test_the_files_of_a_group_spare_each_other(tmp_path: Path, remarks: Callable[[], list[str]]) -> None:
    """What trains now must not push out what it is evaluated on."""
    cached(tmp_path, name="train")
    assert cached(tmp_path, name="val", limit_bytes=2 * BYTES) is None
    assert names(tmp_path) == {"data-8x16-train.npy"}
    (remark,) = remarks()
    assert "not cached but decoded at each access" in remark


def test_what_cannot_fit_pushes_nothing_out(tmp_path: Path) -> None:
    use(tmp_path, "old", "middle")
    assert cached(tmp_path, "new", limit_bytes=BYTES - 1) is None
    assert names(tmp_path) == {"old-train.npy", "middle-train.npy"}


def test_a_mapped_file_that_was_removed_stays_readable(tmp_path: Path) -> None:
    mapped = cached(tmp_path, "old", seed=7)
    assert cached(tmp_path, "new", limit_bytes=BYTES + HEADER_BYTES) is not None
    assert mapped is not None
    assert np.array_equal(mapped, pictures(7))


def test_a_file_that_cannot_be_removed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where another process has it mapped."""
    use(tmp_path, "old")

    unlink = Path.unlink

    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        if path.suffix == ".npy":
            raise PermissionError(errno.EACCES, "in use", str(path))
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        assert cached(tmp_path, "new", limit_bytes=BYTES + HEADER_BYTES) is None
    assert names(tmp_path) == {"old-train.npy"}


# Disks and folders that fail


def test_a_disk_that_is_nearly_full_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remarks: Callable[[], list[str]]
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=cache.SPARE_BYTES + BYTES - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert cached(tmp_path) is None
    assert names(tmp_path) == set()
    assert len(remarks()) == 1


def test_a_disk_that_fills_up_meanwhile_ends_nothing(tmp_path: Path, remarks: Callable[[], list[str]]) -> None:
    """A limit on a file's size fails in the middle of writing, as a full disk does; a memory map would be killed."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES // 2, before[1]))
    try:
        assert cached(tmp_path) is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == set()
    assert len(remarks()) == 1


def test_a_folder_that_is_a_file(tmp_path: Path, remarks: Callable[[], list[str]]) -> None:
    (tmp_path / "cache").write_text("", encoding="utf-8")
    assert cached(tmp_path / "cache") is None
    assert len(remarks()) == 1


def test_errors_of_the_images_are_passed_on_and_leave_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Pixels]:
        yield pictures()[0]
        raise LookupError("the second is broken")

    with pytest.raises(LookupError, match="second"):
        cached_pixels(tmp_path, "train", group="g", shape=SHAPE, produce=broken)
    assert names(tmp_path) == set()


DYING_WRITER = """
import os, sys
from pathlib import Path
import numpy as np
from vqc.data.cache import cached_pixels

def produce():
    yield np.zeros((8, 16, 3), np.uint8)
    os._exit(9)

cached_pixels(Path(sys.argv[1]), "train", group="data-8x16", shape=(5, 8, 16, 3), produce=produce)
"""


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", DYING_WRITER, str(tmp_path)], check=False).returncode == 9
    assert names(tmp_path) == {"data-8x16-train.npy.tmp"}
    cached(tmp_path, "another")
    assert names(tmp_path) == {"another-train.npy"}
