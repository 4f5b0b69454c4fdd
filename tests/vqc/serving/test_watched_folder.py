"""Photographs that appear in a folder, in every order of writing, renaming and crashing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vqc.serving.watched_folder import SETTLED_S, WatchedFolder


class Crash(BaseException):
    """The process ends here."""


class Line:
    """A history in memory that outlives the watcher, and may crash before or after an inspection is kept."""

    def __init__(self, root: Path) -> None:
        self.folder, self.file = root / "in", root / "watched.db"
        self.folder.mkdir()
        self.kept: dict[str, tuple[str, bytes]] = {}
        self.busy = False
        self.crash: Callable[[], None] = lambda: None  # before the inspection is kept
        self.crash_after: Callable[[], None] = lambda: None
        self._ids, self._clock = count(), count(step=SETTLED_S)
        self.watcher = self.started()

    def started(self) -> WatchedFolder:
        return WatchedFolder(
            self.folder,
            self.file,
            inspect=self.inspect,
            known=self.kept.__contains__,
            new_id=lambda: f"id-{next(self._ids)}",
            most_bytes=1000,
        )

    def restart(self) -> None:
        self.watcher.close()
        self.watcher = self.started()

    def inspect(self, content: bytes, *, name: str, inspection_id: str) -> bool:
        if self.busy:
            return False
        self.crash()
        assert inspection_id not in self.kept
        self.kept[inspection_id] = name, content
        self.crash_after()
        return True

    def poll(self, times: int = 2) -> list[str]:
        """Poll at intervals in which an unchanged file becomes complete; the names of all that was inspected so far."""
        for _ in range(times):
            self.watcher.poll(now_s=next(self._clock))
        return [name for name, _ in self.kept.values()]

    def write(self, name: str, content: bytes = b"picture", *, mtime_s: int | None = None) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        if mtime_s is not None:
            os.utime(path, (mtime_s, mtime_s))
        return path


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    found = Line(tmp_path)
    yield found
    found.watcher.close()


def test_a_file_is_inspected_when_it_is_complete(line: Line) -> None:
    path = line.write("a.jpg", b"pic")
    assert line.poll(1) == []
    path.write_bytes(b"picture")  # it has grown meanwhile
    assert line.poll(1) == []
    assert line.poll(1) == ["a.jpg"]
    assert list(line.kept.values()) == [("a.jpg", b"picture")]
    assert line.poll(5) == ["a.jpg"]


def test_the_oldest_comes_first_and_folders_below_are_seen(line: Line) -> None:
    line.write("b.png", b"2", mtime_s=2000)
    line.write("day/c.JPEG", b"3", mtime_s=3000)
    line.write("z.tif", b"1", mtime_s=1000)
    assert line.poll() == ["z.tif", "b.png", "day/c.JPEG"]


@pytest.mark.parametrize("name", ["a.jpg.part", "a.tmp", ".a.jpg", "notes.txt", ".hidden/a.jpg"])
def test_what_is_no_photograph_is_left_alone(line: Line, name: str) -> None:
    line.write(name)
    assert line.poll() == []


def test_a_link_is_not_followed(line: Line, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    (line.folder / "a.jpg").symlink_to(secret)
    assert line.poll() == []


def test_a_file_that_was_written_under_another_name_is_inspected_once_renamed(line: Line) -> None:
    path = line.write("a.jpg.part")
    line.poll()
    path.rename(path.with_suffix(""))
    assert line.poll() == ["a.jpg"]


def test_a_file_that_is_renamed_or_moved_afterwards_is_not_inspected_again(line: Line) -> None:
    path = line.write("a.jpg")
    line.poll()
    (line.folder / "done").mkdir()
    path.rename(line.folder / "done" / "b.jpg")
    assert line.poll() == ["a.jpg"]
    line.restart()
    assert line.poll() == ["a.jpg"]


def test_a_new_photograph_of_the_same_name_is_inspected(line: Line) -> None:
    line.write("a.jpg", b"one", mtime_s=1000)
    line.poll()
    line.write("a.jpg", b"two", mtime_s=2000)
    assert line.poll() == ["a.jpg", "a.jpg"]
    line.write("a.jpg", b"two", mtime_s=3000)  # the camera shows the same, and it is another photograph
    assert line.poll() == ["a.jpg", "a.jpg", "a.jpg"]


def test_nothing_is_inspected_again_after_a_restart(line: Line) -> None:
    for number in range(5):
        line.write(f"{number}.jpg", bytes([number]))
    line.poll()
    line.restart()
    line.write("new.jpg", b"new")
    assert sorted(line.poll()) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "new.jpg"]


def test_a_file_waits_while_there_is_too_much_to_do(line: Line) -> None:
    line.write("a.jpg")
    line.busy = True
    assert line.poll() == []
    line.busy = False
    assert line.poll(1) == ["a.jpg"]


def test_a_file_that_is_locked_or_goes_away_is_tried_again(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object) -> None:
        raise PermissionError(13, "The process cannot access the file because it is being used by another process")

    line.write("a.jpg")
    with monkeypatch.context() as patch:  # as Windows answers while the writer keeps the file open
        patch.setattr("vqc.serving.watched_folder.read_at_most", locked)
        assert line.poll() == []
    assert line.poll(1) == ["a.jpg"]


def test_a_file_that_is_too_large_is_reported_once(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    line.write("a.jpg", b"x" * 1001)
    assert line.poll(5) == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_folder_that_is_not_there_is_empty(line: Line) -> None:
    """A network drive may be away for a while; what was inspected stays inspected."""
    line.write("a.jpg")
    line.poll()
    line.folder.rename(line.folder.with_name("away"))
    assert line.poll() == ["a.jpg"]
    line.folder.with_name("away").rename(line.folder)
    assert line.poll() == ["a.jpg"]


@pytest.mark.parametrize("point", ["crash", "crash_after"])
def test_a_crash_neither_loses_nor_doubles_a_file(line: Line, point: str) -> None:
    def crash() -> None:
        setattr(line, point, lambda: None)
        raise Crash

    line.write("a.jpg")
    setattr(line, point, crash)
    with pytest.raises(Crash):
        line.poll()
    line.restart()
    assert line.poll() == ["a.jpg"]


@given(steps=st.lists(st.sampled_from(["write", "rename", "poll", "restart", "crash", "crash_after"]), max_size=25))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_in_any_order_every_file_is_inspected_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    line = Line(tmp_path_factory.mktemp("line"))
    written, names = 0, count()

    def crash() -> None:
        line.crash = line.crash_after = lambda: None
        raise Crash

    for step in steps:
        if step == "write":
            written += 1
            line.write(f"{next(names)}.jpg", str(written).encode(), mtime_s=1000 + written)
        elif step == "rename":
            for path in sorted(line.folder.iterdir())[:1]:
                path.rename(path.with_name(f"{next(names)}.jpg"))
        elif step == "restart":
            line.restart()
        elif step == "poll":
            try:
                line.poll(1)
            except Crash:
                line.restart()
        else:
            setattr(line, step, crash)
    line.crash = line.crash_after = lambda: None
    line.restart()
    line.poll(3)
    line.watcher.close()
    assert sorted(content for _, content in line.kept.values()) == sorted(str(n + 1).encode() for n in range(written))
