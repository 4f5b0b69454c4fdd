"""YOLO's label files, the names of their classes, and their splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import exports, images
from vqc.data.importers import yolo
from vqc.data.importers.source import Source, Tally
from vqc.data.importers.tree import Tree
from vqc.errors import DataError


def read(root: Path) -> tuple[Source, Tally]:
    tree, tally = Tree(root), Tally()
    return yolo.read(tree, yolo.find(tree), tally), tally


def label(root: Path, text: str, *, yaml: str = "names: [scratch, dent]") -> Path:
    """One picture with this label file."""
    images.save_picture(root)
    (root / "rgb-0.txt").write_text(text, encoding="utf-8")
    (root / "data.yaml").write_text(yaml, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("line", "xyxy"),
    [
        ("1 0.5 0.5 0.25 0.5", (0.375, 0.25, 0.625, 0.75)),
        ("1 0.5 0.5 0.25 0.5 0.93", (0.375, 0.25, 0.625, 0.75)),  # with a score
        ("1 0.1 0.2 0.6 0.2 0.3 0.9", (0.1, 0.2, 0.6, 0.9)),
        ("1 0.1 0.2 0.6 0.2 0.6 0.9 0.1 0.9", (0.1, 0.2, 0.6, 0.9)),
    ],
)
def test_a_line_is_a_box_or_a_polygon(line: str, xyxy: tuple[float, ...], tmp_path: Path) -> None:
    source, tally = read(label(tmp_path, f"{line}\n\n"))
    (box,) = source.images[0].boxes
    assert (box.category, box.xyxy) == ("dent", pytest.approx(xyxy))
    assert source.images[0].shares
    assert not tally.counts


def test_key_points_follow_a_box(tmp_path: Path) -> None:
    poses = "kpt_shape: [2, 2]\nnames: {0: part}"
    source, _ = read(label(tmp_path, "0 0.5 0.5 0.25 0.5 0.1 0.1 0.9 0.9", yaml=poses))
    assert source.images[0].boxes[0].xyxy == pytest.approx((0.375, 0.25, 0.625, 0.75))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2 0.5 0.5 0.25 0.5", "of a class that has no name"),
        ("0.5 0.5 0.5 0.25 0.5", "of a class that has no name"),
        ("0 0.5 0.5 0.25", "neither a box nor a polygon"),
        ("0 0.5 0.5 0.25 nan", "not a finite number"),
        ("scratch 0.5 0.5 0.25 0.5", "not a finite number"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "neither a box nor a polygon"),
    ],
)
def test_a_line_that_cannot_be_read_is_counted(line: str, reason: str, tmp_path: Path) -> None:
    source, tally = read(label(tmp_path, f"0 0.5 0.5 0.25 0.5\n{line}"))
    assert (len(source.images[0].boxes), source.images[0].refused) == (1, 1)
    assert tally.counts == {("boxes", reason): 1}


@pytest.mark.parametrize(
    ("yaml", "names"),
    [
        ("names: [no, off, 1]", ["no", "off", "1"]),  # YAML would take them for false, false and a number
        ("names:\n  1: b\n  0: a", ["a", "b"]),
        ("names:\n- a\n- ''\n- b", ["a", "b"]),
    ],
)
def test_classes_are_named_in_the_order_of_their_numbers(yaml: str, names: list[str], tmp_path: Path) -> None:
    source, _ = read(label(tmp_path, "", yaml=yaml))
    assert list(source.categories) == names


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("names: 7", "expected 'names'"),
        ("names: [a\nb: {", "not YAML"),
        ("names: " + "[" * 5000, "not YAML"),
        ("names:\n" + "- x\n" * 30_000, "larger than"),
        ("a: &a [x, x]\nnames: [*a, *a]\n<<: *b", "not YAML"),
    ],
)
def test_a_description_that_cannot_be_read_ends_the_import(yaml: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        read(label(tmp_path, "", yaml=yaml))


def test_labels_without_names_of_their_classes_are_refused(tmp_path: Path) -> None:
    exports.pictures(tmp_path / "images")
    exports.labels(tmp_path / "labels")
    with pytest.raises(DataError, match=r"expected data\.yaml or classes\.txt"):
        read(tmp_path)


def test_labels_beside_the_pictures_without_names_are_refused_as_well(tmp_path: Path) -> None:
    exports.pictures(tmp_path)
    exports.labels(tmp_path)
    with pytest.raises(DataError, match=r"expected data\.yaml or classes\.txt"):
        read(tmp_path)


def test_capitals_of_folders_and_suffixes_do_not_matter(tmp_path: Path) -> None:
    root = exports.roboflow_yolo(tmp_path)
    for split in ("train", "valid", "test"):
        (root / split / "images").rename(root / split / "Images")
        (root / split / "labels").rename(root / split / "LABELS")
        (root / split / "LABELS/rgb-1.txt").rename(root / split / "LABELS/rgb-1.TXT")
    source, tally = read(root)
    assert [(image.split, len(image.boxes)) for image in source.images if image.file.endswith("1.png")] == [
        ("test", 1), ("train", 1), ("val", 1)
    ]  # fmt: skip
    assert len(source.images) == 9
    assert not tally.counts


def test_a_description_may_be_from_windows(tmp_path: Path) -> None:
    root = exports.ultralytics(tmp_path)
    text = "\ufeffnames: [scratch, dent]\r\ntrain: .\\images\\a\r\nval: images\\b\r\ntest: images\\c\r\n"
    (root / "parts.yaml").write_bytes(text.encode())
    source, _ = read(root)
    assert [image.split for image in source.images] == ["train"] * 3 + ["val"] * 3 + ["test"] * 3


def test_a_label_file_without_a_picture_is_counted(tmp_path: Path) -> None:
    root = exports.roboflow_yolo(tmp_path)
    (root / "train/images/rgb-1.png").unlink()
    _, tally = read(root)
    assert tally.counts == {("label files", "no such picture"): 1}


def test_a_label_file_that_is_no_text_does_not_make_a_good_part(tmp_path: Path) -> None:
    root = label(tmp_path, "")
    (root / "rgb-0.txt").write_bytes(b"\xff\xfe0")
    source, tally = read(root)
    assert source.images[0].refused == 1
    assert tally.counts == {("label files", "not UTF-8"): 1}


def test_lists_of_pictures_say_the_split_before_folders_do(tmp_path: Path) -> None:
    root = exports.label_studio_yolo(tmp_path)
    (root / "train.txt").write_text("./images/rgb-1.png\n/home/other/images/rgb-2.png\n", encoding="utf-8")
    (root / "val.txt").write_text("images\\rgb-3.png\r\nimages/missing.png\n", encoding="utf-8")
    source, tally = read(root)
    assert [image.split for image in source.images] == ["train", "train", "val"]
    assert not tally.counts


def test_label_files_may_lie_anywhere_if_their_names_are_unique(tmp_path: Path) -> None:
    root = exports.label_studio_yolo(tmp_path)
    (root / "images").rename(root / "photos")
    source, tally = read(root)
    assert len(source.images) == 3
    images.save_picture(root, seed=9).rename(root / "rgb-1.png")
    source, tally = read(root)
    assert len(source.images) == 2
    assert tally.counts == {("label files", "no such picture"): 1}
