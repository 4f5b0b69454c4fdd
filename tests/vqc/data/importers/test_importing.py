"""From an export to a folder that trains: nothing is lost without being counted, the source stays as it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import exports, images
from vqc.data.dataset import load_data, read_image
from vqc.data.importers.formats import FORMATS
from vqc.data.importers.importing import import_data
from vqc.errors import DataError
from vqc.files import file_sha256


@pytest.mark.parametrize("tool", exports.PLAIN)
def test_a_source_without_splits_is_one_folder(tool: str, tmp_path: Path) -> None:
    found = import_data(exports.PLAIN[tool](tmp_path / "in"), tmp_path / "out")
    assert found.format == tool.split()[0]
    boxes = exports.boxes_of(tmp_path / "out/annotations.json")
    for name, expected in exports.TRUTH.items():
        assert [category for category, _ in boxes.pop(name)] == [category for category, _ in expected]
    assert not boxes
    assert list(found.categories) == ["scratch", "dent"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"images", "annotations.json"}
    assert not found.tally.counts


@pytest.mark.parametrize("tool", exports.SPLIT)
def test_a_source_with_splits_trains(tool: str, tmp_path: Path) -> None:
    found = import_data(exports.SPLIT[tool](tmp_path / "in"), tmp_path / "out")
    assert found.format == tool.split()[0]
    assert {what for what, _ in found.tally.counts} <= {"categories"}
    data = load_data(tmp_path / "out")
    assert [split.name for split in data.splits] == ["train", "val", "test"]
    assert [category.name for category in data.categories] == ["scratch", "dent"]
    boxes = np.array([xyxy for boxes in exports.TRUTH.values() for _, xyxy in boxes])
    for number, split in enumerate(data.splits):
        assert [len(image.boxes) for image in split.images] == [1, 2, 0]
        np.testing.assert_allclose(np.concatenate([image.boxes for image in split.images]), boxes, atol=1e-3)
        for name, image in zip(exports.TRUTH, split.images, strict=True):  # these pictures, not others of their name
            np.testing.assert_array_equal(read_image(image), images.rgb(100 * number + int(name[4])))


def test_our_own_layout_comes_in_as_it_is(tmp_path: Path) -> None:
    root = images.write_data(tmp_path / "in")
    images.edit_json(root / "train/annotations.json", lambda d: d["images"][0].update(group="board 7"))
    import_data(root, tmp_path / "out")
    before, after = load_data(root), load_data(tmp_path / "out")
    for ours, theirs in zip(before.splits, after.splits, strict=True):
        assert [image.sha256 for image in ours.images] == [image.sha256 for image in theirs.images]
        assert [image.boxes.tolist() for image in ours.images] == [image.boxes.tolist() for image in theirs.images]
        assert [image.areas.tolist() for image in ours.images] == [image.areas.tolist() for image in theirs.images]
        assert [image.group for image in ours.images] == [image.group for image in theirs.images]


def test_the_source_stays_as_it_is(tmp_path: Path) -> None:
    root = exports.roboflow(tmp_path / "in")
    before = {path: file_sha256(path) for path in root.rglob("*") if path.is_file()}
    import_data(root, tmp_path / "out")
    assert {path: file_sha256(path) for path in root.rglob("*") if path.is_file()} == before


def test_pictures_are_copied_where_links_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr("os.link", refuse)
    import_data(exports.cvat(tmp_path / "in"), tmp_path / "out")
    assert len(list((tmp_path / "out/images").iterdir())) == 3


def test_train_alone_is_still_to_be_split(tmp_path: Path) -> None:
    root = exports.roboflow(tmp_path / "in")
    shutil.rmtree(root / "valid")
    found = import_data(root, tmp_path / "out")
    assert list(found.splits) == [""]
    assert list(found.joined) == ["train", "test"]
    assert len(exports.boxes_of(tmp_path / "out/annotations.json")) == 6


def test_pictures_without_annotation_are_asked_for(tmp_path: Path) -> None:
    root = exports.cvat(tmp_path / "in")
    images.save_picture(root / "images/default", seed=9)
    with pytest.raises(
        DataError, match=r"1 of 4 pictures have no annotation, such as images/default/rgb-9\.png"
    ) as told:
        import_data(root, tmp_path / "out")
    assert "--unlabelled good" in str(told.value.command)
    assert not (tmp_path / "out").exists()
    good = import_data(root, tmp_path / "good", unlabelled="good")
    assert exports.boxes_of(tmp_path / "good/annotations.json")["rgb-9.png"] == []
    assert not good.tally.counts
    left = import_data(root, tmp_path / "left", unlabelled="leave-out")
    assert exports.boxes_of(tmp_path / "left/annotations.json") == exports.TRUTH
    assert left.tally.counts == {("images", "without an annotation: left out as asked"): 1}


def _break_picture(root: Path) -> None:
    (root / "rgb-2.png").write_bytes(b"no picture")


def _repeat_picture(root: Path) -> None:
    shutil.copy(root / "rgb-1.png", root / "rgb-2.png")


def _list_twice(root: Path) -> None:
    images.edit_json(root / "a.json", lambda d: d["images"].append({**d["images"][1], "id": 99}))


def _other_size(root: Path) -> None:
    images.edit_json(root / "a.json", lambda d: d["images"][1].update(width=65))


def _bbox(*bbox: float) -> Callable[[Path], None]:
    return lambda root: images.edit_json(root / "a.json", lambda d: d["annotations"][1].update(bbox=bbox))


CASES: dict[str, tuple[Callable[[Path], None], set[tuple[str, str]], int]] = {
    "broken": (_break_picture, {("images", "unreadable picture"), ("boxes", "of an image that is left out")}, 1),
    "copy": (
        _repeat_picture,
        {
            ("images", "the same picture twice, with other boxes: the first is kept"),
            ("boxes", "of an image that is left out"),
        },
        1,
    ),
    "listed twice": (_list_twice, {("images", "listed twice: the first entry is kept")}, 3),
    "size": (
        _other_size,
        {("images", "annotated at another size than it has"), ("boxes", "of an image that is left out")},
        1,
    ),
    "empty box": (_bbox(5, 5, 0, 9), {("boxes", "empty")}, 2),
    "outside": (_bbox(70, 5, 9, 9), {("boxes", "outside the image")}, 2),
    "clipped": (_bbox(-9, 5, 20, 9), {("boxes", "reached out of the image: clipped")}, 3),
    "rounded": (_bbox(-0.5, 5, 20, 9), set(), 3),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_left_out_or_changed_is_counted(case: str, tmp_path: Path) -> None:
    damage, expected, boxes = CASES[case]
    root = tmp_path / "in"
    exports.pictures(root)
    exports.coco(root / "a.json")
    damage(root)
    found = import_data(root, tmp_path / "out")
    assert set(found.tally.counts) == expected
    assert sum(map(len, exports.boxes_of(tmp_path / "out/annotations.json").values())) == boxes


def test_a_defective_part_does_not_become_a_good_one(tmp_path: Path) -> None:
    """Its only box cannot be used: there is a defect, and nobody knows where."""
    root = tmp_path / "in"
    exports.pictures(root)
    exports.coco(root / "a.json")
    images.edit_json(root / "a.json", lambda d: d["annotations"][0].update(category_id=99))
    found = import_data(root, tmp_path / "out")
    assert found.tally.counts["images", "no box of it can be used"] == 1
    assert "rgb-1.png" not in exports.boxes_of(tmp_path / "out/annotations.json")


def test_a_picture_that_may_be_annotated_does_not_become_a_good_one(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for number, folder in enumerate(("a", "b")):
        exports.pictures(root / folder, seed=100 * number)
    exports.coco(root / "a.json")
    with pytest.raises(DataError, match="no image of it can be used; 6 images: perhaps annotated"):
        import_data(root, tmp_path / "out", unlabelled="good")


def test_an_image_in_no_split_is_told(tmp_path: Path) -> None:
    root = exports.roboflow(tmp_path / "in")
    exports.pictures(root / "more", seed=900)
    exports.coco(root / "more/a.json")
    found = import_data(root, tmp_path / "out")
    assert found.tally.counts["images", "in no split of the source"] == 3


def test_a_folder_for_each_class_is_refused_with_the_reason(tmp_path: Path) -> None:
    for name in ("good", "scratched"):
        exports.pictures(tmp_path / "in" / name)
    with pytest.raises(DataError, match=r"a folder for each class \(good, scratched\) says what .* and not where"):
        import_data(tmp_path / "in", tmp_path / "out")


def test_a_source_without_annotations_is_refused(tmp_path: Path) -> None:
    exports.pictures(tmp_path / "in")
    with pytest.raises(DataError, match=f"no annotations found; expected an export as {', '.join(FORMATS)}"):
        import_data(tmp_path / "in", tmp_path / "out")


def test_a_source_that_has_nothing_to_give_says_why(tmp_path: Path) -> None:
    exports.coco(tmp_path / "in/a.json")
    with pytest.raises(DataError, match="no image of it can be used; 3 images: no such picture"):
        import_data(tmp_path / "in", tmp_path / "out")


def test_a_source_without_categories_is_refused(tmp_path: Path) -> None:
    root = exports.label_studio_yolo(tmp_path / "in")
    (root / "classes.txt").write_text("", encoding="utf-8")
    (root / "labels/rgb-1.txt").unlink()
    with pytest.raises(DataError, match="no category has a name; 2 boxes: of a class that has no name"):
        import_data(root, tmp_path / "out", unlabelled="good")


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    exports.cvat(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="holds something already"):
        import_data(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_painted_masks_are_asked_for(tmp_path: Path) -> None:
    """CVAT and datumaro mark each of them as a crowd, which scoring would ignore."""
    root = tmp_path / "in"
    exports.pictures(root)
    exports.coco(root / "a.json")
    images.edit_json(root / "a.json", lambda d: d["annotations"][1].update(iscrowd=1))
    with pytest.raises(
        DataError, match=r"1 of 3 boxes are marked as crowds .*rgb-2\.png.* --crowds defects or"
    ) as told:
        import_data(root, tmp_path / "out")
    assert "--crowds defects" in str(told.value.command)
    for crowds, marked in (("defects", False), ("ignore", True)):
        found = import_data(root, tmp_path / crowds, crowds=crowds)  # type: ignore[arg-type]
        assert any(box.crowd for image in found.splits[""] for box in image.boxes) is marked
        ((_, reason),) = found.tally.counts
        assert reason.startswith("marked as crowds (iscrowd): ")


def test_a_few_crowds_are_ignored_and_told(tmp_path: Path) -> None:
    root = tmp_path / "in"
    exports.pictures(root)
    exports.coco(root / "a.json")
    images.edit_json(
        root / "a.json",
        lambda d: d["annotations"].extend(
            images.annotation(9 + k, 0, category_id=0, iscrowd=int(k == 0)) for k in range(9)
        ),
    )
    found = import_data(root, tmp_path / "out")
    assert [key for key in found.tally.counts if "ignored in scoring" in key[1]]


def test_versions_that_roboflow_made_of_a_photograph_are_one_part(tmp_path: Path) -> None:
    root = tmp_path / "in"
    names = {name: f"part_png.rf.{number:032x}.png" for number, name in enumerate(exports.pictures(root))}
    names["rgb-3.png"] = "other_png.rf.00ff00ff.png"
    exports.coco(root / "a.json")
    for name, new in names.items():
        (root / name).rename(root / new)
    images.edit_json(root / "a.json", lambda d: [e.update(file_name=names[e["file_name"]]) for e in d["images"]])
    found = import_data(root, tmp_path / "out")
    assert [image.group for image in found.splits[""]] == ["part_png", "part_png", None]


@pytest.mark.parametrize(("tool", "suffix"), [("voc", ".xml"), ("labelme", ".json")])
def test_a_picture_whose_file_is_empty_does_not_become_a_good_one(tool: str, suffix: str, tmp_path: Path) -> None:
    root = {**exports.PLAIN, **exports.SPLIT}[tool](tmp_path / "in")
    sorted(root.rglob(f"*{suffix}"))[0].write_bytes(b"")
    found = import_data(root, tmp_path / "out", unlabelled="good")
    assert found.tally.counts == {("images", "perhaps annotated: a file of its name is empty or broken"): 1}


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("parts.zip", "PK", r"an archive \(parts\.zip\): unpack it"),
        ("a.json", '[{"annotations": [{"result": [{"from_name": "label"}]}]}]', "a.json is Label Studio's own JSON"),
        ("a.json", '{"_via_settings": {}, "_via_img_metadata": {}}', "a.json is the project of VGG's annotator"),
        ("_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax", "_annotations.csv is a table of boxes"),
        ("\x1b[2J.csv", "xmin", r"\\x1b\[2J\.csv is a table"),
    ],
)
def test_what_is_no_export_that_is_read_is_named(file: str, content: str, said: str, tmp_path: Path) -> None:
    exports.pictures(tmp_path / "in")
    try:
        (tmp_path / "in" / file).write_text(content, encoding="utf-8")
    except OSError:
        pytest.skip("this system has no such names")
    with pytest.raises(DataError, match=said) as told:
        import_data(tmp_path / "in", tmp_path / "out")
    assert "\x1b" not in str(told.value)


def test_an_archive_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / "parts.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="unpack it"):
        import_data(tmp_path / "parts.zip", tmp_path / "out")
