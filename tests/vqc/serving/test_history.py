"""The history: what is kept, in which order, for how long."""

from __future__ import annotations

import errno
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqc.errors import DataError
from vqc.serving.history import (
    History,
    Limits,
    NoSuchInspectionError,
    StaleReviewError,
    StorageFullError,
    first_etag,
)
from vqc.serving.inspection import Inspection, ModelVersion, Review, StoredImage, Timings

PLENTY = Limits(inspections=1000, bytes=10**9)
NOW = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)
NO_TIME = Timings(queue_ms=0, decode_ms=0, detector_ms=0, store_ms=0, total_ms=0)


def inspection(id_: str, *, verdict: str = "good", size: int = 4) -> Inspection:
    image = StoredImage(url="", width=8, height=8, media_type="image/png", bytes=size, sha256="")
    return Inspection(
        id=id_, created_at=NOW, source="upload", name=None, verdict=verdict, score=0.0, threshold=0.5, detections=(),
        image=image, model=ModelVersion(version="v", sha256="s"), timings=NO_TIME, etag=first_etag(id_),
    )  # fmt: skip


def add(history: History, *, verdict: str = "good", size: int = 4) -> str:
    id_ = history.new_id()
    history.store_photograph(id_, "image/png", b"x" * size)
    history.add(inspection(id_, verdict=verdict, size=size))
    return id_


def files(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "photographs").rglob("*") if path.is_file()}


def reviewed(history: History, id_: str) -> Inspection:
    return history.review(id_, Review(verdict="good", reviewed_at=NOW), etag=first_etag(id_))


def test_it_is_all_there_after_it_was_opened_again(tmp_path: Path) -> None:
    history = History(tmp_path, limits=PLENTY)
    ids = [add(history) for _ in range(3)]
    state = reviewed(history, ids[1])
    history.close()
    again = History(tmp_path, limits=PLENTY)
    assert [one.id for one in again.page().items] == ids[::-1]
    assert again.get(ids[1]) == state
    assert list(again.reviewed()) == [state]
    assert again.new_id() > ids[-1]


@given(st.lists(st.sampled_from(["good", "defective", "unreadable"]), max_size=12), st.integers(1, 5))
@settings(max_examples=30)
def test_pages_hold_everything_once(tmp_path_factory: pytest.TempPathFactory, verdicts: list[str], limit: int) -> None:
    history = History(tmp_path_factory.mktemp("history"), limits=PLENTY)
    ids = [(add(history, verdict=verdict), verdict) for verdict in verdicts]
    for wanted in (None, "good"):
        seen, cursor = [], None
        while True:
            page = history.page(before=cursor, limit=limit, verdict=wanted)
            seen += [one.id for one in page.items]
            if (cursor := page.next_cursor) is None:
                break
        assert seen == [id_ for id_, verdict in reversed(ids) if wanted in (None, verdict)]
    history.close()


def test_the_oldest_go_first_and_those_with_a_review_last(tmp_path: Path) -> None:
    history = History(tmp_path, limits=Limits(inspections=3, bytes=10**9))
    first = add(history)
    reviewed(history, first)
    ids = [add(history) for _ in range(5)]
    assert [one.id for one in history.page().items] == [*ids[:-3:-1], first]
    assert files(tmp_path) == {first, *ids[-2:]}
    assert [one.id for one in history.page(reviewed=True).items] == [first]


def test_photographs_take_no_more_than_they_may(tmp_path: Path) -> None:
    history = History(tmp_path, limits=Limits(inspections=1000, bytes=100))
    ids = [add(history, size=40) for _ in range(5)]
    huge = add(history, size=500)
    assert [one.id for one in history.page().items] == [huge]  # the newest is kept, however large
    assert files(tmp_path) == {huge}
    assert ids


def test_two_reviews_of_one_state_are_not_both_written(tmp_path: Path) -> None:
    history = History(tmp_path, limits=PLENTY)
    id_ = add(history)
    first = reviewed(history, id_)
    with pytest.raises(StaleReviewError):
        reviewed(history, id_)
    assert history.get(id_) == first
    with pytest.raises(NoSuchInspectionError):
        reviewed(history, "0" * 23)


def test_what_a_crash_left_is_removed(tmp_path: Path) -> None:
    history = History(tmp_path, limits=PLENTY)
    kept, lost = add(history), history.new_id()
    history.store_photograph(lost, "image/png", b"")
    draft = history.photograph(kept, "image/png").with_name(f".{kept}.png.1234.tmp")
    draft.write_bytes(b"half")
    history.close()
    History(tmp_path, limits=PLENTY)
    assert files(tmp_path) == {kept}


def test_a_full_disk_is_told_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(tmp_path, limits=PLENTY)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(StorageFullError, match="no room left"):
            add(history)
    assert (history.page().items, files(tmp_path)) == ((), set())
    assert history.get(add(history)).verdict == "good"


def test_two_servers_do_not_write_into_one_history(tmp_path: Path) -> None:
    history = History(tmp_path, limits=PLENTY)
    with pytest.raises(DataError, match="another server writes there"):
        History(tmp_path, limits=PLENTY)
    history.close()
    History(tmp_path, limits=PLENTY).close()


def test_a_history_of_another_version_is_not_touched(tmp_path: Path) -> None:
    history = History(tmp_path, limits=PLENTY)
    history._database.execute("PRAGMA user_version = 7")
    history.close()
    with pytest.raises(DataError, match="is of version 7, expected 1"):
        History(tmp_path, limits=PLENTY)
