"""COCO in the dialects of the tools that write it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask

from tests import exports, images
from vqc.data.importers import coco
from vqc.data.importers.source import Source, Tally
from vqc.data.importers.tree import Tree
from vqc.errors import DataError


def read(root: Path) -> tuple[Source, Tally]:
    tree, tally = Tree(root), Tally()
    return coco.read(tree, coco.find(tree), tally), tally


@pytest.mark.parametrize("write", [exports.cvat, exports.label_studio])
def test_one_folder_without_splits(write: Callable[[Path], Path], tmp_path: Path) -> None:
    source, tally = read(write(tmp_path))
    found = {Path(image.file).name: [(box.category, box.xyxy) for box in image.boxes] for image in source.images}
    assert found == exports.TRUTH
    assert list(source.categories) == ["scratch", "dent"]
    assert {image.split for image in source.images} == {None}
    assert not tally.counts


def test_a_category_that_only_groups_others_is_none(tmp_path: Path) -> None:
    source, tally = read(exports.roboflow(tmp_path))
    assert list(source.categories) == ["scratch", "dent"]
    assert {image.split for image in source.images} == {"train", "val", "test"}
    assert tally.counts == {("categories", "only groups others and has no box"): 3}


def test_a_category_that_is_repeated_is_one(tmp_path: Path) -> None:
    exports.pictures(tmp_path)
    repeated = [
        {"id": 0, "name": "scratch", "supercategory": "none"},
        {"id": 1, "name": "scratch", "supercategory": "scratch"},
        {"id": 2, "name": "dent", "supercategory": "scratch"},
    ]
    exports.coco(tmp_path / "a.json", categories=repeated)
    source, _ = read(tmp_path)
    assert list(source.categories) == ["scratch", "dent"]
    assert source.boxes == 3


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("annotations/instances_train2017.json", "train"),
        ("valid/_annotations.coco.json", "val"),
        ("instances-Validation.json", "val"),
        ("labels/training.json", "train"),
        ("retest.json", None),
    ],
)
def test_the_split_is_in_the_name_of_the_file_or_of_a_folder(file: str, split: str | None, tmp_path: Path) -> None:
    exports.pictures(tmp_path / "images")
    exports.coco(tmp_path / file)
    source, _ = read(tmp_path)
    assert [image.split for image in source.images] == [split] * 3


BOXES: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    "bbox": ({"bbox": [1, 2, 3, 4], "segmentation": [[0, 0, 9, 9, 9, 0]]}, (1, 2, 4, 6)),
    "polygon": ({"segmentation": [[5, 6, 20.5, 6, 9, 30]]}, (5, 6, 20.5, 30)),
    "two polygons": ({"bbox": [], "segmentation": [[5, 6, 7, 8, 5, 8], [1, 1, 2, 2, 1, 2]]}, (1, 1, 7, 8)),
    "an empty bbox": ({"bbox": [0, 0, 0, 0], "segmentation": [[5, 6, 7, 8, 5, 8]]}, (5, 6, 7, 8)),
    "run lengths": ({"segmentation": {"size": [48, 64], "counts": [48 + 2, 3, 45, 1, 48 * 62 - 3]}}, (1, 2, 3, 5)),
}


@pytest.mark.parametrize("case", BOXES)
def test_a_box_is_given_or_lies_around_the_shape(case: str, tmp_path: Path) -> None:
    shape, expected = BOXES[case]
    images.save_picture(tmp_path)
    entry = {"id": 1, "image_id": 1, "category_id": 3, **shape}
    images.write_json(tmp_path / "a.json", images.document([images.image(1, "rgb-0.png")], [entry]))
    source, tally = read(tmp_path)
    assert not tally.counts
    assert source.images[0].boxes[0].xyxy == expected


@given(pixels=arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(np.any))
def test_the_box_around_run_lengths_is_that_of_the_mask(pixels: np.ndarray) -> None:
    compressed = mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    flat = pixels.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    rows, columns = np.nonzero(pixels)
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    for written in (counts, compressed["counts"].decode()):
        assert coco.around_runs({"size": list(pixels.shape), "counts": written}) == expected


REFUSED: dict[str, dict[str, Any]] = {
    "of a category that is not listed": {"category_id": 99},
    "not a finite number": {"bbox": [1, 2, float("nan"), 4]},
    "no box and no outline": {"bbox": None},
    "a shape of fewer than two points": {"bbox": None, "segmentation": [[5]]},
    "a mask without run lengths": {"bbox": None, "segmentation": {"size": [48, 64], "counts": "o" * 99}},
    "an empty mask": {"bbox": None, "segmentation": {"size": [48, 64], "counts": [3072]}},
    "of an image that is not listed, or whose id others have": {"image_id": 7},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_read_is_counted(reason: str, tmp_path: Path) -> None:
    images.save_picture(tmp_path)
    entries = [images.annotation(1, 1), {**images.annotation(2, 1), **REFUSED[reason]}]
    images.write_json(tmp_path / "a.json", images.document([images.image(1, "rgb-0.png")], entries))
    source, tally = read(tmp_path)
    assert len(source.images[0].boxes) == 1
    assert tally.counts == {("boxes", reason): 1}


def test_an_image_without_its_picture_takes_its_boxes_along(tmp_path: Path) -> None:
    exports.cvat(tmp_path)
    (tmp_path / "images/default/rgb-2.png").unlink()
    source, tally = read(tmp_path)
    assert len(source.images) == 2
    assert tally.counts == {("images", "no such picture"): 1, ("boxes", "of an image that is left out"): 2}


def test_crowds_are_kept_as_such(tmp_path: Path) -> None:
    images.save_picture(tmp_path)
    images.write_json(
        tmp_path / "a.json", images.document([images.image(1, "rgb-0.png")], [images.annotation(1, 1) | {"iscrowd": 1}])
    )
    source, tally = read(tmp_path)
    assert source.images[0].boxes[0].crowd
    assert not tally.counts


@pytest.mark.parametrize("content", ['{"images": [], "categories": 1, "annotations": []}', '{"images": "categories"'])
def test_a_broken_file_ends_the_import(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json"):
        read(tmp_path)


@pytest.mark.parametrize("id_", [None, 1.5, 1])
def test_an_image_without_an_id_of_its_own_does_not_become_a_good_part(id_: object, tmp_path: Path) -> None:
    exports.pictures(tmp_path)
    exports.coco(tmp_path / "a.json")
    images.edit_json(tmp_path / "a.json", lambda d: d["images"][2].update(id=id_))
    source, _ = read(tmp_path)
    assert [bool(image.refused) for image in source.images] == [False, id_ == 1, True]
