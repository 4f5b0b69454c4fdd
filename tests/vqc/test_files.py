"""Files and folders are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vqc.errors import DataError
from vqc.files import new_folder, read_at_most, write_atomically


def test_a_folder_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a" / "b") as draft:
        (draft / "one.txt").write_text("1", encoding="utf-8")
        assert not (tmp_path / "a" / "b").exists()
    assert [path.name for path in (tmp_path / "a").rglob("*")] == ["b", "one.txt"]


def test_an_empty_folder_may_be_there(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a"):
        (tmp_path / "a").mkdir()
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def _fail_within(path: Path) -> None:
    with new_folder(path) as draft:
        (draft / "one.txt").write_text("1", encoding="utf-8")
        raise KeyboardInterrupt


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _fail_within(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file.txt", "full"])
def test_what_is_there_is_kept(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / "full" / "one.txt", b"1")
    write_atomically(tmp_path / "file.txt", b"1")
    with pytest.raises(DataError, match="holds something already"), new_folder(tmp_path / name):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file.txt", "full", "one.txt"]


def test_what_has_no_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    assert read_at_most(tmp_path / "a", 3) == b"123"
    assert read_at_most(tmp_path / "a", 2) is None
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")  # to open it would wait for ever
        assert read_at_most(tmp_path / "pipe", 3) is None
