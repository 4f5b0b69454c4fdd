"""Photographs of one part are found although no byte is equal; other parts of the same design are left alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests import images
from vqc.data.dataset import check_data, read_split
from vqc.data.duplicates import Photo, look_alikes
from vqc.data.findings import Finding, Report

SIDE_PX = 256
DEFECT = (90.0, 60.0, 40.0, 30.0)  # xywh


def metal(seed: int) -> NDArray[np.uint8]:
    """A part of its own: blotches of many sizes."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.normal(0, 20, (n, n)).astype(np.float32), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_CUBIC)
        for n in (4, 16, 64)
    ]
    return (128 + sum(layers)).clip(0, 255).astype(np.uint8)  # type: ignore[union-attr]


def again(
    pixels: NDArray[np.uint8], *, turn_deg: float = 0, shift_px: float = 0, light: float = 1
) -> NDArray[np.uint8]:
    """The same part, photographed once more."""
    matrix = cv2.getRotationMatrix2D((SIDE_PX / 2, SIDE_PX / 2), turn_deg, 1.01 if turn_deg else 1.0)
    matrix[:, 2] += shift_px
    moved = cv2.warpAffine(pixels, matrix, (SIDE_PX, SIDE_PX), borderMode=cv2.BORDER_REFLECT)
    slope = np.linspace(0, 60 * (light - 1), SIDE_PX)[None]
    noise = np.random.default_rng(0).normal(0, 3, pixels.shape)
    return (moved * light + slope + noise).clip(0, 255).astype(np.uint8)


def write(root: Path, splits: dict[str, list[tuple[NDArray[np.uint8], dict[str, Any], bool]]]) -> Path:
    """Splits of pictures, each with the extra keys of its entry and whether it has ``DEFECT``."""
    for split, pictures in splits.items():
        (root / split / "images").mkdir(parents=True)
        entries, boxes = [], []
        for number, (pixels, extra, defective) in enumerate(pictures, start=1):
            name = f"{split}-{number}.jpg"
            Image.fromarray(pixels).save(root / split / "images" / name, quality=75)
            entries.append(images.image(number, name, (SIDE_PX, SIDE_PX), **extra))
            if defective:
                boxes.append(images.annotation(number, number, DEFECT))
        images.write_json(root / split / "annotations.json", images.document(entries, boxes))
    return root


def parts(first_seed: int) -> list[tuple[NDArray[np.uint8], dict[str, Any], bool]]:
    """A good part and two with a defect."""
    return [(metal(first_seed + number), {}, number > 0) for number in range(3)]


def similar(root: Path) -> list[Finding]:
    return [finding for finding in check_data(root)[1] if finding.kind.startswith(("similar", "same"))]


@pytest.mark.parametrize(
    "change",
    [{}, {"light": 1.2}, {"shift_px": 5}, {"turn_deg": 1.5}, {"turn_deg": -1, "shift_px": 4, "light": 0.8}],
    ids=["encoded", "light", "shift", "turn", "all"],
)
def test_a_part_photographed_again_for_another_split_is_reported(tmp_path: Path, change: dict[str, float]) -> None:
    test = [*parts(20), (again(metal(1), **change), {}, True)]
    (finding,) = similar(write(tmp_path, {"train": parts(0), "val": parts(10), "test": test}))
    assert (finding.severity, finding.kind) == ("error", "same part in two splits")
    assert finding.where == "test/annotations.json"
    assert finding.message.startswith("1 of 4 images look like an image in train, such as test-4.jpg and train-2.jpg (")


def test_a_part_photographed_twice_in_one_split_is_reported(tmp_path: Path) -> None:
    train = [*parts(0), (again(metal(0), shift_px=3), {}, False)]
    (finding,) = similar(write(tmp_path, {"train": train, "val": parts(10)}))
    assert (finding.severity, finding.kind) == ("warning", "similar pictures")
    assert finding.message.startswith("1 of 4 images look like another one, such as train-4.jpg and train-1.jpg (")


def with_hole(pixels: NDArray[np.uint8], place: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(cv2.circle(pixels.copy(), place, 6, 40, -1), np.uint8)


@pytest.mark.parametrize("first", [metal(1), with_hole(metal(1), (60, 60))], ids=["good", "another hole"])
def test_a_part_that_differs_at_one_place_is_another_part(tmp_path: Path, first: NDArray[np.uint8]) -> None:
    """What is annotated does not matter: both have the same box."""
    train = [*parts(20), (first, {}, True)]
    val = [*parts(10), (again(with_hole(metal(1), (170, 120)), shift_px=3), {}, True)]
    assert similar(write(tmp_path, {"train": train, "val": val})) == []


def test_a_missing_annotation_hides_no_pair(tmp_path: Path) -> None:
    val = [*parts(10), (again(metal(1), shift_px=3), {}, False)]
    (finding,) = similar(write(tmp_path, {"train": parts(0), "val": val}))
    assert finding.kind == "same part in two splits"


@pytest.mark.parametrize(("groups", "kinds"), [(("A", "B"), []), (("A", "A"), ["same part in two splits"])])
def test_groups_decide_where_both_pictures_have_one(tmp_path: Path, groups: tuple[str, str], kinds: list[str]) -> None:
    train = [(metal(0), {"group": groups[0]}, True), *parts(5)]
    val = [(again(metal(0)), {"group": groups[1]}, True), *parts(10)]
    found = similar(write(tmp_path, {"train": train, "val": val}))
    assert [finding.kind for finding in found] == kinds
    assert all(finding.message.startswith("1 of 4 images show a part that is also in train") for finding in found)


def test_a_rotated_file_is_compared_as_annotated(tmp_path: Path) -> None:
    root = write(tmp_path, {"train": parts(0), "val": parts(10)})
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    Image.fromarray(np.rot90(metal(0))).save(root / "val/images/turned.jpg", exif=exif)
    images.edit_json(
        root / "val/annotations.json", lambda d: d["images"].append(images.image(9, "turned.jpg", (SIDE_PX, SIDE_PX)))
    )
    (finding,) = similar(root)
    assert "such as turned.jpg and train-1.jpg" in finding.message


def photos(folder: Path, pictures: list[NDArray[np.uint8]]) -> list[Photo]:
    (folder / "images").mkdir()
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"images/{number}.bmp")  # as they are: no noise of a JPEG's
    entries = [images.image(number, f"{number}.bmp", pixels.shape[::-1]) for number, pixels in enumerate(pictures)]
    images.write_json(folder / "annotations.json", images.document(entries))
    read = read_split(folder, "", Report())
    assert read is not None
    return read[1]


@pytest.mark.parametrize("noise", [0, 1])
def test_pictures_without_any_detail_are_not_alike(tmp_path: Path, noise: int) -> None:
    rng = np.random.default_rng(0)
    flat = [(rng.integers(0, noise + 1, (64, 64)) + 100 + number).astype(np.uint8) for number in range(4)]
    assert look_alikes(photos(tmp_path, flat)) == []


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_pictures_are_compared_as_well(tmp_path: Path, count: int) -> None:
    alike = [again(metal(0), light=1 - number / 10) for number in range(count)]
    assert len(look_alikes(photos(tmp_path, alike))) == (count == 2)


def test_a_cropped_picture_is_found(tmp_path: Path) -> None:
    assert len(look_alikes(photos(tmp_path, [metal(0), metal(0)[20:250, 6:236]]))) == 1


def test_a_picture_that_is_gone_meanwhile_is_not_alike(tmp_path: Path) -> None:
    some = photos(tmp_path, [metal(0), again(metal(0))])
    some[0].path.unlink()
    assert look_alikes(some) == []


def test_equal_files_are_reported_once(tmp_path: Path) -> None:
    root = write(tmp_path, {"train": parts(0), "val": parts(10)})
    shutil.copy(root / "train/images/train-2.jpg", root / "train/images/train-3.jpg")
    assert [finding.kind for finding in similar(root)] == ["same picture twice"]
