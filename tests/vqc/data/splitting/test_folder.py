"""A folder is divided by groups; nothing of it is lost, and nothing that was placed moves."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests import images
from vqc.config import load_record
from vqc.data.dataset import load_with_warnings
from vqc.data.splitting.folder import Outcome, split_data
from vqc.data.splitting.placement import Manifest, SplitName
from vqc.errors import ConfigError, DataError

SHARES: dict[SplitName, float] = {"train": 0.7, "val": 0.15, "test": 0.15}


def plain(folder: Path, count: int = 20, *, first_seed: int = 0) -> Path:
    """Photographs of as many parts in one folder, named rgb-<seed>.png."""
    return images.write_split(folder, count=count, first_seed=first_seed)


def split(source: Path, out: Path, **options: Any) -> Outcome:
    return split_data(source, out, **{"shares": SHARES, "seed": 0, **options})


def placed(outcome: Outcome) -> dict[str, str]:
    return {image.file: image.split for image in outcome.manifest.images}


def why(outcome: Outcome, file: str) -> str:
    return next(image.why for image in outcome.manifest.images if image.file == file)


def entries(root: Path) -> list[dict[str, Any]]:
    documents = [json.loads((root / name / "annotations.json").read_text(encoding="utf-8")) for name in SHARES]
    return [entry for document in documents for entry in document["images"]]


def test_all_is_there_once_and_can_be_trained_on(tmp_path: Path) -> None:
    source = plain(tmp_path / "parts")
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    outcome = split(source, tmp_path / "data")
    data, findings = load_with_warnings(tmp_path / "data")
    assert findings == []
    assert {one.name: len(one.images) for one in data.splits} == {"train": 14, "val": 3, "test": 3}
    assert [one.defective for one in data.splits] == [10, 2, 2]
    assert outcome.counts["images"] == [14, 3, 3]
    assert outcome.counts["  dent"] == [10, 2, 2]
    names = [path.name for one in data.splits for path in (record.path for record in one.images)]
    assert Counter(names) == Counter(path.name for path in (source / "images").iterdir())
    assert load_record(Manifest, tmp_path / "data/splits.json") == outcome.manifest
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before


def test_boxes_stay_with_their_pictures_and_keep_what_detection_does_not_read(tmp_path: Path) -> None:
    source = plain(tmp_path / "parts")
    polygon = [[8.0, 6.0, 28.0, 6.0, 28.0, 16.0]]
    images.edit_json(source / "annotations.json", lambda d: d["annotations"][0].update(segmentation=polygon))
    split(source, tmp_path / "data")
    boxes = {}
    for name in SHARES:
        document = json.loads((tmp_path / "data" / name / "annotations.json").read_text(encoding="utf-8"))
        files = {entry["id"]: entry["file_name"] for entry in document["images"]}
        for entry in document["annotations"]:
            boxes.setdefault(files[entry["image_id"]], []).append((entry["bbox"], entry.get("segmentation")))
    assert boxes["rgb-1.png"] == [([8, 6, 20, 10], polygon), ([30, 20, 24.5, 16], None)]
    assert len(boxes) == 14


def test_groups_of_the_annotations_stay_whole(tmp_path: Path) -> None:
    source = plain(tmp_path / "parts")
    images.edit_json(
        source / "annotations.json", lambda d: [entry.update(group=entry["id"] // 4) for entry in d["images"]]
    )
    outcome = split(source, tmp_path / "data")
    assert outcome.groups == 6
    assert len({(image.group, image.split) for image in outcome.manifest.images}) == 6
    assert why(outcome, "rgb-5.png") == "group '1'"
    assert load_with_warnings(tmp_path / "data")[1] == []


@pytest.mark.parametrize(("pattern", "groups"), [(r"-(\d)", 9), (r"-\d", 9), (r"-(\d)\d", 11)])
def test_file_names_group(tmp_path: Path, pattern: str, groups: int) -> None:
    """rgb-1, and rgb-10 to rgb-19; names without a match stand alone."""
    outcome = split(plain(tmp_path / "parts"), tmp_path / "data", pattern=re.compile(pattern))
    assert outcome.groups == groups
    where = placed(outcome)
    assert len({where[f"rgb-{number}.png"] for number in range(10, 20)}) == 1
    assert "group" in why(outcome, "rgb-12.png")


def test_a_pattern_that_matches_nothing_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--group: 'board\(.\)' is in no file name, such as rgb-1.png"):
        split(plain(tmp_path / "parts"), tmp_path / "data", pattern=re.compile("board(.)"))
    assert not (tmp_path / "data").exists()


def test_equal_pictures_stay_together(tmp_path: Path) -> None:
    source = plain(tmp_path / "parts")
    for number in range(11, 21):
        (source / f"images/rgb-{number}.png").write_bytes((source / "images/rgb-1.png").read_bytes())
    outcome = split(source, tmp_path / "data")
    assert outcome.groups == 10
    assert (
        len({split for file, split in placed(outcome).items() if file in ("rgb-1.png", "rgb-11.png", "rgb-20.png")})
        == 1
    )
    assert why(outcome, "rgb-11.png") == "the same picture as rgb-1.png"
    assert {entry["group"] for entry in entries(tmp_path / "data") if "group" in entry} == {"rgb-1.png"}


def test_photographs_taken_together_stay_together_and_remain_parts_of_their_own(tmp_path: Path) -> None:
    source = plain(tmp_path / "parts")
    for number in range(1, 19):
        exif = Image.Exif()
        exif[0x0132] = f"2026:11:20 12:{number // 3:02d}:{number % 3:02d}"
        Image.fromarray(images.rgb(number)).save(source / f"images/rgb-{number}.png", exif=exif)
    outcome = split(source, tmp_path / "data", gap_s=1.0)
    assert outcome.groups == 7 + 2  # a minute each, and those that do not tell
    assert why(outcome, "rgb-4.png") == "taken 1 s after rgb-3.png"
    assert [entry for entry in entries(tmp_path / "data") if "group" in entry] == []


def test_a_gap_without_times_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no photograph says when it was taken"):
        split(plain(tmp_path / "parts"), tmp_path / "data", gap_s=1.0)


def test_photographs_that_come_later_move_none(tmp_path: Path) -> None:
    first = placed(split(plain(tmp_path / "parts"), tmp_path / "data"))
    for number in range(21, 121):
        images.save_picture(tmp_path / "parts/images", seed=number)
    more = [images.image(number, f"rgb-{number}.png") for number in range(21, 121)]
    images.edit_json(tmp_path / "parts/annotations.json", lambda d: d["images"].extend(more))
    outcome = split(tmp_path / "parts", tmp_path / "more", earlier=tmp_path / "data", seed=7)
    after = placed(outcome)
    assert {file: after[file] for file in first} == first
    assert outcome.counts["images"] == [84, 18, 18]
    assert why(outcome, "rgb-1.png") == "as in the earlier splits.json"
    assert why(outcome, "rgb-21.png") == "placed for equal shares"


def test_a_new_photograph_of_a_known_part_follows_it(tmp_path: Path) -> None:
    source = plain(tmp_path / "parts")
    first = placed(split(source, tmp_path / "data"))
    in_test = next(file for file, name in first.items() if name == "test")
    (source / "images/again.png").write_bytes((source / "images" / in_test).read_bytes() + b"\0")  # after PNG's end
    images.edit_json(
        source / "annotations.json", lambda d: d["images"].append(images.image(99, "again.png", group="A"))
    )
    images.edit_json(
        source / "annotations.json",
        lambda d: [entry.update(group="A") for entry in d["images"] if entry["file_name"] == in_test],
    )
    assert placed(split(source, tmp_path / "more", earlier=tmp_path / "data"))["again.png"] == "test"


def test_a_group_that_was_divided_is_told_and_left(tmp_path: Path) -> None:
    source = plain(tmp_path / "parts")
    first = placed(split(source, tmp_path / "data"))
    images.edit_json(source / "annotations.json", lambda d: [entry.update(group="A") for entry in d["images"]])
    outcome = split(source, tmp_path / "more", earlier=tmp_path / "data")
    assert placed(outcome) == first
    assert [(finding.kind, finding.where) for finding in outcome.findings] == [("same part in two splits", "A")]


def test_a_split_folder_is_split_anew(tmp_path: Path) -> None:
    source = images.write_data(tmp_path / "parts", train=12, val=4, test=4)
    (source / "val/images/rgb-1001.png").rename(source / "val/images/rgb-1.png")  # a name that train has too
    images.edit_json(source / "val/annotations.json", lambda d: d["images"][0].update(file_name="rgb-1.png"))
    outcome = split(source, tmp_path / "data", seed=1)
    data, findings = load_with_warnings(tmp_path / "data")
    assert findings == []
    assert sum(len(one.images) for one in data.splits) == 20
    assert {"train/rgb-1.png", "val/rgb-1.png", "rgb-2.png"} <= set(placed(outcome))


def test_errors_and_too_few_groups_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 groups of photographs cannot fill train, val, test"):
        split(plain(tmp_path / "two", 2), tmp_path / "data")
    broken = plain(tmp_path / "broken")
    (broken / "images/rgb-3.png").unlink()
    with pytest.raises(DataError, match="1 error in the data"):
        split(broken, tmp_path / "data")
    with pytest.raises(DataError, match="expected a folder with images/"):
        split(tmp_path / "nothing", tmp_path / "data")
    with pytest.raises(ConfigError, match="splits.json"):
        split(plain(tmp_path / "parts"), tmp_path / "data", earlier=tmp_path)
    assert not (tmp_path / "data").exists()
