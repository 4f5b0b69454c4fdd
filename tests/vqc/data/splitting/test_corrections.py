"""Reviewed photographs added to a data set: by part, once, and never to test."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.images import CATEGORIES, annotation, document, edit_json, image, save_picture, write_data, write_json
from vqc.data.dataset import load_data, read_split
from vqc.data.findings import Report
from vqc.data.splitting.corrections import HELD_OUT, IN_TEST, KNOWN, OLDER, Added, add_corrections
from vqc.errors import DataError

NOW = datetime(2026, 11, 28, 9, tzinfo=timezone.utc)
LONG_AGO_DAYS = 30.0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", train=6, val=3, test=3)


class Reviews:
    """A folder as the server exports it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "images").mkdir(parents=True)
        self.images: list[dict[str, Any]] = []
        self.boxes: list[dict[str, Any]] = []
        self.categories = list(CATEGORIES)

    def add(self, *, seed: int = 0, copy: Path | None = None, defective: bool = False, days_ago: float = 0.0,
            group: str | None = None) -> str:  # fmt: skip
        """A photograph of its own, or a copy of one, reviewed some days ago; its name."""
        number = len(self.images) + 1
        path = self.folder / "images" / f"{number:03d}.png"
        if copy is not None:
            shutil.copyfile(copy, path)
        else:
            save_picture(self.folder / "images", seed=10_000 + seed).rename(path)
        when = (NOW - timedelta(days=days_ago)).isoformat().replace("+00:00", "Z")
        extra = {} if group is None else {"group": group}
        self.images.append(image(number, path.name, reviewed_at=when, **extra))
        if defective:
            self.boxes.append(annotation(len(self.boxes) + 1, number))
        return path.name

    def write(self) -> Path:
        write_json(self.folder / "annotations.json", document(self.images, self.boxes, categories=self.categories))
        return self.folder


@pytest.fixture
def reviews(tmp_path: Path) -> Reviews:
    return Reviews(tmp_path / "reviews")


def places(added: Added) -> dict[str, str | None]:
    return {one.file: one.place for one in added.corrections}


def whys(added: Added) -> list[str]:
    return [one.why for one in added.corrections]


def test_new_parts_go_to_train_and_val_with_their_boxes_and_test_stays(
    data: Path, reviews: Reviews, tmp_path: Path
) -> None:
    names = [
        reviews.add(seed=number, defective=number % 2 == 0, days_ago=LONG_AGO_DAYS if number else 0)
        for number in range(30)
    ]
    added = add_corrections(data, reviews.write(), tmp_path / "out")
    before, after = load_data(data), load_data(tmp_path / "out")
    found = places(added)
    assert set(found) == set(names)
    counts = Counter(found[name] for name in names[1:])  # the first is the newest week
    assert set(counts) == {"train", "val"}
    assert len(after.train.images) + len(after.val.images) == 9 + sum(
        place in ("train", "val") for place in found.values()
    )
    assert after.parts["test/annotations.json"] == before.parts["test/annotations.json"]
    assert after.parts["test/images"] == before.parts["test/images"]
    new = [
        record for split in (after.train, after.val) for record in split.images if record.path.parent.name == "reviews"
    ]
    assert all(record.defective == (int(record.path.stem) % 2 == 1) for record in new)
    assert added.defective == 15
    one = next(record for record in new if record.defective)
    assert one.boxes.tolist() == [[8, 6, 28, 16]]


def test_a_third_of_the_newest_week_is_held_out(data: Path, reviews: Reviews, tmp_path: Path) -> None:
    for number in range(60):
        reviews.add(seed=number, defective=True, days_ago=6.9 if number % 2 else 7.1 if number else 0)
    added = add_corrections(data, reviews.write(), tmp_path / "out")
    held = [int(one.file[:3]) for one in added.corrections if one.place == "reviewed"]
    assert 0.5 * HELD_OUT < len(held) / 31 < 1.6 * HELD_OUT
    assert all(number % 2 == 0 or number == 1 for number in held)  # files are counted from 1
    report = Report()
    found = read_split(tmp_path / "out", "reviewed", report)
    assert found is not None
    assert (report.findings, len(found[0].images)) == ([], len(held))
    assert found[0].categories == load_data(data).categories


def test_a_photograph_stays_in_its_split_when_more_are_reviewed(data: Path, reviews: Reviews, tmp_path: Path) -> None:
    reviews.add(seed=99)
    for number in range(20):
        reviews.add(seed=number, days_ago=LONG_AGO_DAYS)
    first = places(add_corrections(data, reviews.write(), tmp_path / "first"))
    for number in range(20, 40):
        reviews.add(seed=number, days_ago=LONG_AGO_DAYS + number)
    second = places(add_corrections(data, reviews.write(), tmp_path / "second"))
    assert {name: second[name] for name in first} == first


def test_what_was_held_out_is_in_the_data_a_week_later(data: Path, reviews: Reviews, tmp_path: Path) -> None:
    for number in range(12):
        reviews.add(seed=number)
    first = places(add_corrections(data, reviews.write(), tmp_path / "first"))
    held = [name for name, place in first.items() if place == "reviewed"]
    reviews.add(seed=99, days_ago=-8)
    second = places(add_corrections(data, reviews.write(), tmp_path / "second"))
    assert held
    assert {second[name] for name in held} <= {"train", "val"}


def test_one_group_goes_to_one_place(data: Path, reviews: Reviews, tmp_path: Path) -> None:
    names = {
        group: [reviews.add(seed=10 * group + view, group=f"part {group}") for view in range(3)] for group in range(9)
    }
    found = places(add_corrections(data, reviews.write(), tmp_path / "out"))
    assert [len({found[name] for name in some}) for some in names.values()] == [1] * 9
    assert len(set(found.values())) > 1


@pytest.mark.parametrize(("split", "why"), [("train", KNOWN), ("val", KNOWN), ("test", IN_TEST)])
def test_a_photograph_that_the_data_has_is_left_out(
    data: Path, reviews: Reviews, tmp_path: Path, split: str, why: str
) -> None:
    reviews.add(copy=next((data / split / "images").iterdir()), defective=True)
    added = add_corrections(data, reviews.write(), tmp_path / "out")
    assert [(one.place, one.why) for one in added.corrections] == [(None, why)]
    assert load_data(tmp_path / "out").fingerprint == load_data(data).fingerprint
    assert str(added) == f"0 reviewed photographs added: 1 left out ({why})"


def test_of_two_reviews_of_one_photograph_the_newer_counts(data: Path, reviews: Reviews, tmp_path: Path) -> None:
    name = reviews.add(seed=1, defective=False, days_ago=40)
    reviews.add(copy=reviews.folder / "images" / name, defective=True, days_ago=30)
    added = add_corrections(data, reviews.write(), tmp_path / "out")
    assert whys(added)[0] == OLDER
    assert (added.corrections[1].place is not None, added.defective) == (True, 1)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_part_of_the_data_by_its_group_goes_where_the_part_is(
    data: Path, reviews: Reviews, tmp_path: Path, split: str
) -> None:
    edit_json(data / split / "annotations.json", lambda found: found["images"][0].update(group="board 7"))
    name = reviews.add(seed=1, group="board 7")
    added = add_corrections(data, reviews.write(), tmp_path / "out")
    assert places(added) == {name: None if split == "test" else split}
    after = {one.name: [record.group for record in one.images] for one in load_data(tmp_path / "out").splits}
    assert after[split].count("board 7") == (1 if split == "test" else 2)


def test_a_part_of_the_data_by_its_looks_goes_where_the_part_is(data: Path, reviews: Reviews, tmp_path: Path) -> None:
    from PIL import Image

    original = sorted((data / "val" / "images").iterdir())[0]
    name = reviews.add(seed=1)
    Image.open(original).point(lambda grey: round(0.95 * grey)).save(reviews.folder / "images" / name)
    added = add_corrections(data, reviews.write(), tmp_path / "out")
    assert places(added) == {name: "val"}
    groups = [record.group for record in load_data(tmp_path / "out").val.images]
    assert groups.count(original.name) == 2


def test_categories_are_compared_by_name(data: Path, reviews: Reviews, tmp_path: Path) -> None:
    reviews.categories = [{"id": 3, "name": "dent"}, {"id": 7, "name": "scratch"}]
    reviews.add(seed=1, defective=True, group="a")
    reviews.add(seed=2, days_ago=-10)
    out = tmp_path / "out"
    added = add_corrections(data, reviews.write(), out)
    place = added.corrections[0].place
    content = json.loads((out / str(place) / "annotations.json").read_text(encoding="utf-8"))
    assert content["annotations"][-1]["category_id"] == 7


def test_an_unknown_category_is_one_sentence_and_nothing_is_written(
    data: Path, reviews: Reviews, tmp_path: Path
) -> None:
    reviews.categories = [*CATEGORIES[1:], {"id": 3, "name": "crack"}]
    reviews.add(seed=1, defective=True)
    with pytest.raises(DataError, match="the category 'crack' is not one of .*: expected 'dent', 'scratch'"):
        add_corrections(data, reviews.write(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_photograph_and_its_reason_are_in_the_record(data: Path, reviews: Reviews, tmp_path: Path) -> None:
    reviews.add(seed=1, days_ago=40)
    reviews.add(copy=next((data / "test" / "images").iterdir()))
    added = add_corrections(data, reviews.write(), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "corrections.json").read_text(encoding="utf-8"))
    assert found == [one.model_dump() for one in added.corrections]


def test_corrections_without_times_are_added_and_none_is_held_out(data: Path, reviews: Reviews, tmp_path: Path) -> None:
    for number in range(10):
        reviews.add(seed=number)
    for entry in reviews.images:
        del entry["reviewed_at"]
    assert set(places(add_corrections(data, reviews.write(), tmp_path / "out")).values()) <= {"train", "val"}
