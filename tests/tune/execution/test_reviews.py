"""The data of a search with the reviews of the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.images import annotation, document, image, save_picture, write_data, write_json
from tune.execution.reviews import with_reviews
from vqc.data.dataset import load_data
from vqc.errors import DataError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "parts")


def fetched(folder: Path, *, count: int = 4) -> Path:
    """Reviews as ``vqc import`` leaves them."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        save_picture(folder / "images", seed=5000 + number)
    images = [image(number, f"rgb-{5000 + number}.png") for number in range(1, count + 1)]
    write_json(folder / "annotations.json", document(images, [annotation(1, 1)]))
    return folder


def test_reviews_are_added_once_for_each_content_and_said_in_one_line(data: Path, tmp_path: Path) -> None:
    reviews = fetched(tmp_path / "reviews")
    target, said = with_reviews(data, reviews, tmp_path / "results")
    assert target.parent == tmp_path / "results" / "data"
    assert target.name.startswith("parts-with-reviews-")
    assert "4 reviewed photographs added (1 defective): " in said
    assert "\n" not in said
    assert sum(len(split.images) for split in load_data(target).splits) == 12 + 4
    again, said = with_reviews(data, reviews, tmp_path / "results")
    assert again == target
    assert "were added before" in said
    more, _ = with_reviews(data, fetched(reviews, count=5), tmp_path / "results")
    assert more != target
    assert [path.name for path in target.parent.iterdir() if path.name.startswith(".")] == []


def test_reviews_can_be_added_to_data_that_has_some(data: Path, tmp_path: Path) -> None:
    first, _ = with_reviews(data, fetched(tmp_path / "reviews"), tmp_path / "results")
    second, said = with_reviews(first, fetched(tmp_path / "reviews", count=6), tmp_path / "results")
    assert "2 reviewed photographs added (0 defective): " in said
    assert "4 left out (is in the data already)" in said
    assert second.name.count("with-reviews") == 1
    assert sum(len(split.images) for split in load_data(second).splits) == 12 + 6


def test_a_folder_without_reviews_is_one_sentence(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no history, expected the --store of vqc serve"):
        with_reviews(data, tmp_path, tmp_path / "results")
