"""Which picture an annotation file means, and that it is never one outside of the source."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vqc.data.importers.tree import Tree, split_named, split_of
from vqc.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pictures by name alone; nothing here reads them."""
    files = ("train/images/a.jpg", "train/images/b c.JPG", "val/images/a.jpg", "cam1/d.png", "cam2/d.png", "cam2/e.png")
    for file in (*files, ".git/a.jpg", "__MACOSX/a.jpg", "x.txt"):
        (tmp_path / "in" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / file).write_bytes(b"")
    (tmp_path / "secret.jpg").write_bytes(b"")
    return tmp_path / "in"


def test_hidden_folders_are_not_listed(root: Path) -> None:
    assert len(Tree(root).pictures) == 6
    assert Tree(root).documents(".txt") == ["x.txt"]


@pytest.mark.parametrize(
    ("name", "beside", "expected"),
    [
        ("a.jpg", "train/a.json", "train/images/a.jpg"),
        ("a.jpg", "val/a.json", "val/images/a.jpg"),
        ("images/a.jpg", "val/a.json", "val/images/a.jpg"),
        ("IMAGES\\A.JPG", "val/a.json", "val/images/a.jpg"),
        ("/data/upload/1/b c.jpg", "a.json", "train/images/b c.JPG"),
        ("s3://bucket/b%20c.jpg", "a.json", "train/images/b c.JPG"),
        ("C:\\parts\\cam1\\d.png", "a.json", "cam1/d.png"),
        ("../cam2/d.png", "labels/a.json", "cam2/d.png"),
        ("./cam2/d.png", "labels/a.json", "cam2/d.png"),
        ("/data/local-files/?d=parts/train/images/b%20c.jpg", "a.json", "train/images/b c.JPG"),
        ("/data/local-files/?d=e.png", "a.json", "cam2/e.png"),
    ],
)
def test_a_picture_is_found_by_its_name(name: str, beside: str, expected: str, root: Path) -> None:
    assert Tree(root).picture(name, beside, split_of(beside)) == expected


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("cam1/e.png", None),  # that of another camera is another picture
        ("b c.jpg", "val"),
        ("../../secret.jpg", None),
        ("secret.jpg", None),
        ("", None),
        ("..", None),
        ("/", None),
        ("a\0.jpg", None),
        (".git/a.jpg", None),
    ],
)
def test_a_picture_that_is_not_there_is_not_replaced(name: str, split: str | None, root: Path) -> None:
    with pytest.raises(ValueError, match="no such picture"):
        Tree(root).picture(name, "a.json", split)


def test_accents_may_be_letters_of_their_own(root: Path) -> None:
    """As in the file names of macOS."""
    (root / "gro\u0308\u00dfe.png").write_bytes(b"")
    assert Tree(root).picture("gr\u00f6\u00dfe.png", "a.json") == "gro\u0308\u00dfe.png"


@pytest.mark.parametrize(
    ("name", "document", "expected"),
    [("d.png", "cam2/e.xml", "cam2/e.png"), ("d.png", "x/e.xml", "cam2/e.png"), ("e.png", "x/y.xml", "cam2/e.png")],
)
def test_a_document_of_one_picture_means_that_of_its_own_name(
    name: str, document: str, expected: str, root: Path
) -> None:
    """Who renames both keeps the old name inside, which may be another picture's by now."""
    assert Tree(root).picture_of(name, document, None) == expected


def test_pipes_are_no_files(root: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no such files on this system")
    os.mkfifo(root / "a.json")  # to open it would wait for ever
    assert Tree(root).documents(".json") == []


def test_two_pictures_of_one_name_are_not_chosen_from(root: Path) -> None:
    with pytest.raises(ValueError, match="several pictures"):
        Tree(root).picture("d.png", "a.json")


def test_links_that_lead_out_are_not_followed(root: Path) -> None:
    try:
        (root / "out.jpg").symlink_to(root.parent / "secret.jpg")
    except OSError:
        pytest.skip("this system makes no links")
    (root / "round").symlink_to(root, target_is_directory=True)
    (root / "loop.jpg").symlink_to("loop.jpg")
    (root / "inside.jpg").symlink_to("cam2/e.png")
    tree = Tree(root)
    assert sorted(tree.outside) == ["loop.jpg", "out.jpg"]
    assert "inside.jpg" in tree.pictures
    assert len(tree.pictures) == 7


def test_a_single_file_is_the_only_document(root: Path) -> None:
    (root / "y.txt").write_bytes(b"")
    assert Tree(root / "y.txt").documents(".txt") == ["y.txt"]


def test_there_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        Tree(tmp_path / "missing")


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("Valid", "val"), ("validation", "val"), ("val2017", "val"), ("obj_train_data", "train"),
     ("testing", "test"), ("contest", None), ("trained", None), ("", None)],
)  # fmt: skip
def test_splits_have_many_names(name: str, split: str | None) -> None:
    assert split_named(name) == split
