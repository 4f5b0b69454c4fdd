"""The generated data set: valid, the same for a seed, whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vqc.data.dataset import Data, check_data, load_data, read_image
from vqc.data.synthetic import CATEGORIES, SAMPLE_VERSION, write_sample
from vqc.errors import DataError

FEW = {"train": 24, "val": 6, "test": 6}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("made") / "sample", images=FEW)


@pytest.fixture(scope="module")
def data(sample: Path) -> Data:
    return load_data(sample)


def test_it_has_no_findings(sample: Path) -> None:
    data, findings = check_data(sample)
    assert findings == []
    assert data is not None
    assert data.summary()["images"] == FEW
    assert tuple(category.name for category in data.categories) == CATEGORIES


def test_a_third_is_good(data: Data) -> None:
    assert (data.train.good, data.train.defective) == (8, 16)


def test_every_category_occurs(data: Data) -> None:
    assert min(data.train.boxes_per_category.values()) >= 3


def test_defects_are_6_to_40_px_large(data: Data) -> None:
    boxes = np.concatenate([image.boxes for split in data.splits for image in split.images])
    sides_px = boxes[:, 2:] - boxes[:, :2]
    assert sides_px.min() >= 6
    assert sides_px.max() <= 40
    assert np.quantile(sides_px, 0.9) > 2 * np.quantile(sides_px, 0.1)


def test_defects_stand_out_from_the_metal(data: Data) -> None:
    good = [read_image(image).mean(axis=2) for image in data.train.images if not image.defective]
    seen, chance = [], []
    for image in data.train.images:
        grey = read_image(image).mean(axis=2)
        for left, top, right, bottom in image.boxes.astype(int):
            seen.append(np.ptp(grey[top:bottom, left:right]))
            chance.append(np.mean([np.ptp(plain[top:bottom, left:right]) for plain in good]))
    assert np.median(np.divide(seen, chance)) > 1.4  # against the same places on good parts


def strongest_mark(pixels: NDArray[np.uint8]) -> float:
    """The largest difference from the surroundings, in standard deviations of all."""
    grey = pixels.mean(axis=2).astype(np.uint8)
    rest = cv2.blur(grey.astype(np.float32) - cv2.medianBlur(grey, 31), (3, 3))
    return float(np.abs(rest).max() / rest.std())


def test_good_parts_have_marks_that_stand_out_as_much_as_defects(data: Data) -> None:
    marks = {True: list[float](), False: list[float]()}
    for image in data.train.images:
        marks[image.defective].append(strongest_mark(read_image(image)))
    assert np.median(marks[False]) > 0.75 * np.median(marks[True])  # 0.45 without any mark


def test_good_and_bad_parts_are_photographs_alike(data: Data) -> None:
    levels = np.array([read_image(image).mean() for image in data.train.images])
    bad = np.array([image.defective for image in data.train.images])
    assert abs(levels[bad].mean() - levels[~bad].mean()) < 25


def test_the_same_seed_gives_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    assert contents(write_sample(tmp_path / "again", images=FEW)) == contents(sample)


def test_another_seed_gives_other_parts(sample: Path, tmp_path: Path) -> None:
    other = write_sample(tmp_path / "other", seed=1, images=FEW)
    assert contents(other)["train/images/part-0001.jpg"] != contents(sample)["train/images/part-0001.jpg"]


def test_a_part_does_not_depend_on_how_many_there_are(sample: Path, tmp_path: Path) -> None:
    fewer = write_sample(tmp_path / "fewer", images={"train": 3, "val": 1, "test": 1})
    assert contents(fewer)["val/images/part-0001.jpg"] == contents(sample)["val/images/part-0001.jpg"]


def test_a_whole_one_is_kept(tmp_path: Path) -> None:
    few = {"train": 1, "val": 1}
    folder = write_sample(tmp_path / "sample", images=few)
    before = (folder / "annotations.json", folder.stat().st_mtime_ns)
    write_sample(folder, images=few)
    assert (folder / "annotations.json", folder.stat().st_mtime_ns) == before


def test_an_empty_folder_is_filled_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "sample").mkdir()
    write_sample(tmp_path / "sample", images={"train": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"images": {"train": 2}}])
def test_another_sample_is_not_written_over(tmp_path: Path, change: dict[str, object]) -> None:
    folder = write_sample(tmp_path / "sample", images={"train": 1})
    before = contents(folder)
    with pytest.raises(DataError, match="something else"):
        write_sample(folder, **{"images": {"train": 1}, **change})
    assert contents(folder) == before


@pytest.mark.parametrize("taken", ["folder", "file"])
def test_what_is_in_the_way_is_kept(tmp_path: Path, taken: str) -> None:
    place = {"folder": tmp_path / "folder" / "mine.txt", "file": tmp_path / "file"}[taken]
    place.parent.mkdir(exist_ok=True)
    place.write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="something else"):
        write_sample(tmp_path / taken)
    assert contents(tmp_path) == {place.relative_to(tmp_path).as_posix(): b"mine"}


def test_nothing_is_left_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be written"):
        write_sample(tmp_path / "file" / "sample", images={"train": 1})
    assert list(contents(tmp_path)) == ["file"]


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"images": {"train": 0}}])
def test_impossible_requests_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(DataError, match="at least"):
        write_sample(tmp_path / "sample", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_it_says_what_it_is(sample: Path) -> None:
    origin = json.loads((sample / "provenance.json").read_text(encoding="utf-8"))
    assert (origin["seed"], origin["version"], origin["images"]) == (0, SAMPLE_VERSION, FEW)
    assert "Generated" in (sample / "README.txt").read_text(encoding="utf-8")


def test_large_photographs_have_small_defects_and_half_are_good(tmp_path: Path) -> None:
    data = load_data(write_sample(tmp_path / "large", images={"train": 2, "val": 1, "test": 1}, large=True))
    first, second = data.train.images
    assert (first.width, first.height, first.defective, second.defective) == (3000, 2000, True, False)
    sides_px = first.boxes[:, 2:] - first.boxes[:, :2]
    assert sides_px.min() >= 6
    assert sides_px.max() <= 24
    assert len({record.group for split in data.splits for record in split.images}) == 4
    assert write_sample(tmp_path / "large", images={"train": 2, "val": 1, "test": 1}, large=True)
    with pytest.raises(DataError, match="something else"):
        write_sample(tmp_path / "large", images={"train": 2, "val": 1, "test": 1})
