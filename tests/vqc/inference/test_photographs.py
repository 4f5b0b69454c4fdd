"""Which photographs are looked at, and that none is left out unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import images
from vqc.errors import DataError
from vqc.inference.photographs import Photograph, find_photographs, read_photograph


@pytest.mark.parametrize(("size", "shape"), [((48, 64), (64, 48, 3)), ((64, 48), (48, 64, 3)), (None, (64, 48, 3))])
def test_a_turned_photograph_is_seen_as_it_was_annotated(
    size: tuple[int, int] | None, shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = images.save_rotated(tmp_path / "a.png", 6)
    photograph = Photograph(image_id=1, path=path, file_name="a.png", annotated_size=size)
    assert read_photograph(photograph).pixels.shape == shape


def test_another_size_than_annotated_is_told(tmp_path: Path) -> None:
    path = images.save_picture(tmp_path)
    with pytest.raises(DataError, match="annotated as 640 x 480 px, the picture has 64 x 48"):
        read_photograph(Photograph(image_id=1, path=path, file_name="a.png", annotated_size=(640, 480)))


def test_a_folder_is_searched_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    images.save_picture(tmp_path / "b", "jpeg")
    images.save_picture(tmp_path, "bmp")
    listed = find_photographs(tmp_path)
    assert [(one.image_id, one.file_name) for one in listed] == [(1, "b/jpeg-0.jpg"), (2, "bmp-0.bmp")]


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"width": None}, r"image 2 .*: width: expected"),
        ({"file_name": "../other.png"}, "expected a name inside images/"),
        ({"id": 1}, "image id 1 is used more than once"),
    ],
)
def test_an_image_that_a_coco_file_lists_is_not_left_out(broken: dict[str, object], says: str, tmp_path: Path) -> None:
    folder = images.write_split(tmp_path / "test", count=2, first_seed=0)
    images.edit_json(folder / "annotations.json", lambda document: document["images"][1].update(broken))
    with pytest.raises(DataError, match=says) as caught:
        find_photographs(folder / "images", annotations=folder / "annotations.json")
    assert len(str(caught.value).splitlines()) == 1
