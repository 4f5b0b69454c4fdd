"""A folder of annotated photographs: faultless ones become records, faulty ones findings, and nothing raises."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import images
from vqc.data.dataset import Finding, check_data, load_data, load_with_warnings, read_image
from vqc.errors import DataError


@pytest.fixture(scope="module")
def faultless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images.write_data(tmp_path_factory.mktemp("data") / "parts")


@pytest.fixture
def root(faultless: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(faultless, tmp_path / "parts"))


def errors(root: Path) -> list[Finding]:
    data, findings = check_data(root)
    found = [finding for finding in findings if finding.severity == "error"]
    assert (data is None) == bool(found)
    return found


def edit(root: Path, change: Callable[[dict[str, Any]], object], split: str = "train") -> None:
    images.edit_json(root / split / "annotations.json", change)


def test_a_faultless_folder_has_no_findings(faultless: Path) -> None:
    data, findings = check_data(faultless)
    assert findings == []
    assert data is not None
    assert [(split.name, len(split.images), split.good, split.defective) for split in data.splits] == [
        ("train", 6, 2, 4),
        ("val", 3, 1, 2),
        ("test", 3, 1, 2),
    ]
    assert data.train.boxes_per_category == {"scratch": 4, "dent": 4}


def test_a_record_holds_arrays_of_fixed_types(faultless: Path) -> None:
    record = load_data(faultless).train.images[0]
    np.testing.assert_array_equal(record.boxes, np.array([[8, 6, 28, 16], [30, 20, 54.5, 36]], np.float32))
    np.testing.assert_array_equal(record.areas, np.array([200, 200], np.float32))
    assert (record.boxes.dtype, record.areas.dtype, record.crowd.dtype) == (np.float32, np.float32, np.bool_)
    assert (record.labels.dtype, record.labels.tolist()) == (np.int64, [1, 2])


def test_a_good_image_has_empty_arrays_of_the_same_rank(faultless: Path) -> None:
    record = load_data(faultless).train.images[2]
    assert (record.boxes.shape, record.labels.shape, record.defective) == ((0, 4), (0,), False)


@pytest.mark.parametrize(("entry", "group"), [({}, "rgb-1.png"), ({"group": "A7"}, "A7"), ({"group": 7}, "7")])
def test_the_group_is_as_annotated_or_the_image_itself(root: Path, entry: dict[str, Any], group: str) -> None:
    edit(root, lambda d: d["images"][0].update(entry))
    assert load_data(root).train.images[0].group == group


@pytest.mark.parametrize("group", ["", " ", 1.5, True, ["A7"]])
def test_a_group_that_is_no_name_is_an_error(root: Path, group: object) -> None:
    edit(root, lambda d: d["images"][0].update(group=group))
    assert any("group: expected a name" in finding.message for finding in errors(root))


def test_summary_is_json(faultless: Path) -> None:
    summary = load_data(faultless).summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["root"] == "parts"
    assert summary["boxes"] == {"train": 8, "val": 4, "test": 4}


def test_split_by_name(faultless: Path) -> None:
    data = load_data(faultless)
    assert data.split("val") is data.val
    with pytest.raises(DataError, match="no split 'valid'"):
        data.split("valid")


def test_fingerprint_is_of_content_alone(root: Path, faultless: Path) -> None:
    assert load_data(root).fingerprint == load_data(faultless).fingerprint


@pytest.mark.parametrize("name", ["train/annotations.json", "test/images/rgb-2001.png"])
def test_fingerprint_changes_with_any_byte(root: Path, faultless: Path, name: str) -> None:
    with (root / name).open("ab") as file:
        file.write(b"\n")
    assert load_data(root).fingerprint != load_data(faultless).fingerprint


def test_pixels_are_read_as_annotated(faultless: Path) -> None:
    np.testing.assert_array_equal(read_image(load_data(faultless).train.images[0]), images.rgb(1))


@pytest.mark.parametrize(
    ("orientation", "size", "rotate"),
    [(6, (48, 64), True), (6, (64, 48), False), (3, (64, 48), True), (1, (64, 48), False)],
)
def test_annotations_decide_whether_exif_rotates(
    root: Path, orientation: int, size: tuple[int, int], rotate: bool
) -> None:
    images.save_rotated(root / "train/images/rgb-3.png", orientation, seed=3)
    edit(root, lambda d: d["images"][2].update(width=size[0], height=size[1]))
    record = load_data(root).train.images[2]
    assert record.rotate is rotate
    assert read_image(record).shape == (size[1], size[0], 3)


def test_read_image_tells_what_happened_to_the_file(root: Path) -> None:
    first, second, third = load_data(root).val.images
    fourth = load_data(root).test.images[0]
    first.path.unlink()
    second.path.write_bytes(b"no picture")
    images.save_picture(third.path.parent, seed=1003, size=(20, 20))
    fourth.path.write_bytes(images.save_picture(root, seed=4).read_bytes())  # of the right size
    with pytest.raises(DataError, match="cannot be read"):
        read_image(first)
    with pytest.raises(DataError, match=r"rgb-1002\.png: not a picture"):
        read_image(second)
    with pytest.raises(DataError, match="expected 64 x 48 px, got 20 x 20"):
        read_image(third)
    with pytest.raises(DataError, match="holds another picture"):
        read_image(fourth)


def test_subfolders_and_windows_spelling(root: Path) -> None:
    (root / "train/images/line 1").mkdir()
    (root / "train/images/rgb-1.png").rename(root / "train/images/line 1/rgb-1.png")
    edit(root, lambda d: d["images"][0].update(file_name="line 1\\rgb-1.png"))
    assert load_data(root).train.images[0].path.name == "rgb-1.png"


def test_crowds_are_no_defects(root: Path) -> None:
    edit(root, lambda d: [entry.update(iscrowd=1) for entry in d["annotations"] if entry["image_id"] == 1])
    data = load_data(root)
    assert data.train.images[0].crowd.tolist() == [True, True]
    assert (data.train.defective, data.train.boxes) == (3, 6)


# Each breaks the train split: how, then the finding's kind and a part of what is told.
BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str, str]] = {
    "no images": (lambda d: d.pop("images"), "not COCO", "expected a list 'images', got nothing"),
    "images no list": (lambda d: d.update(images={}), "not COCO", "expected a list 'images'"),
    "image no object": (lambda d: d["images"].append(7), "malformed entry", "got 7"),
    "no categories": (lambda d: d.update(categories=[]), "not COCO", "at least one category"),
    "id as text": (lambda d: d["images"][0].update(id="1"), "malformed entry", "id: expected a whole number, got '1'"),
    "width 0": (lambda d: d["images"][0].update(width=0), "malformed entry", "at least 1, got 0"),
    "width true": (lambda d: d["images"][0].update(width=True), "malformed entry", "got True"),
    "huge": (lambda d: d["images"][0].update(height=10**400), "malformed entry", "whole number"),
    "nameless": (lambda d: d["images"][0].pop("file_name"), "malformed entry", "got nothing"),
    "box of text": (lambda d: d["annotations"][0].update(bbox=["8", 6, 2, 2]), "malformed entry", "four finite"),
    "box of three": (lambda d: d["annotations"][0].update(bbox=[8, 6, 2]), "malformed entry", "four finite"),
    "NaN": (lambda d: d["annotations"][0].update(bbox=[8, 6, float("nan"), 2]), "malformed entry", "nan"),
    "infinite": (lambda d: d["annotations"][0].update(bbox=[8, 6, float("inf"), 2]), "malformed entry", "inf"),
    "huge box": (lambda d: d["annotations"][0].update(bbox=[8, 6, 10**400, 2]), "malformed entry", "four finite"),
    "empty": (lambda d: d["annotations"][0].update(bbox=[8, 6, 0, 2]), "empty box", "got 0 x 2"),
    "negative": (lambda d: d["annotations"][0].update(bbox=[8, 6, 5, -2]), "empty box", "got 5 x -2"),
    "sliver": (lambda d: d["annotations"][0].update(bbox=[50, 6, 1e-7, 2]), "empty box", "nothing of it"),
    "right": (lambda d: d["annotations"][0].update(bbox=[60, 6, 9, 2]), "box outside its image", "x 60 to 69"),
    "above": (lambda d: d["annotations"][0].update(bbox=[6, -3, 9, 9]), "box outside its image", "y -3 to 6"),
    "area": (lambda d: d["annotations"][0].update(area=-1), "malformed entry", "area"),
    "crowd": (lambda d: d["annotations"][0].update(iscrowd="no"), "malformed entry", "iscrowd"),
    "category": (lambda d: d["annotations"][0].update(category_id=4), "unknown category", "one of [3, 7], got 4"),
    "image": (lambda d: d["annotations"][0].update(image_id=99), "unknown image", "image_id 99"),
    "same image id": (lambda d: d["images"][1].update(id=1), "duplicate", "image id 1"),
    "same annotation id": (lambda d: d["annotations"][1].update(id=1), "duplicate", "annotation id 1"),
    "same category id": (lambda d: d["categories"][1].update(id=3), "duplicate", "category id 3"),
    "same category name": (lambda d: d["categories"][1].update(name="scratch"), "duplicate", "name scratch"),
    "same file, spelt otherwise": (
        lambda d: d["images"][1].update(file_name="./rgb-1.png"), "duplicate", "file_name rgb-1.png"
    ),
    "same file": (lambda d: d["images"][1].update(file_name="rgb-1.png"), "duplicate", "file_name rgb-1.png"),
    "control character": (lambda d: d["categories"][1].update(name="\x1b]0;x"), "malformed entry", "without control"),
    "surrogate category": (lambda d: d["categories"][1].update(name="\ud800"), "malformed entry", "without control"),
    "other name": (lambda d: d["categories"][1].update(name="pit"), "categories differ", "adds 7 'dent'"),
    "no defects": (lambda d: d.update(annotations=[]), "no defects", "no image has a defect"),
    "nothing": (lambda d: d.update(annotations=[], images=[]), "no images", "at least one"),
    "gone": (lambda d: d["images"][0].update(file_name="rgb-11.png"), "missing image", "did you mean 'rgb-1.png'?"),
    "case": (lambda d: d["images"][0].update(file_name="images/RGB-1.PNG"), "missing image", "mean 'rgb-1.png'?"),
    "size": (lambda d: d["images"][0].update(width=65), "wrong size", "65 x 48 px, the picture has 64 x 48"),
    "zero byte": (lambda d: d["images"][0].update(file_name="a\0b"), "missing image", "no"),
    "long": (lambda d: d["images"][0].update(file_name="a" * 5000), "missing image", "not a name"),
    "surrogate": (lambda d: d["images"][0].update(file_name="\ud800.png"), "missing image", "no"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told(root: Path, case: str) -> None:
    change, kind, told = BROKEN[case]
    edit(root, change)
    found = [finding for finding in errors(root) if finding.kind == kind]
    assert found
    assert any(told in finding.message for finding in found)
    assert all(finding.where.split("/")[0] in ("train", "val", "test") for finding in found)


def test_a_finding_names_file_image_and_box(root: Path) -> None:
    edit(root, lambda d: d["annotations"][0].update(bbox=[60, 6, 9, 2]))
    (finding,) = errors(root)
    assert str(finding) == (
        "train/annotations.json, image 1 (rgb-1.png), annotation 1: expected a box inside its image, "
        "got x 60 to 69, y 6 to 8 in an image of 64 x 48 px"
    )


def test_a_small_overhang_is_clipped_with_a_warning(root: Path) -> None:
    edit(root, lambda d: d["annotations"][0].update(bbox=[-0.5, 6, 65.25, 43]))
    data, findings = check_data(root)
    assert [finding.kind for finding in findings] == ["box clipped"]
    assert data is not None
    assert data.train.images[0].boxes[0].tolist() == [0, 6, 64, 48]


OUTSIDE = [
    "../secret.png",
    "a/../../secret.png",
    "..\\secret.png",
    "/etc/passwd",
    "\\\\server\\share\\a.png",
    "C:\\a.png",
    "C:a.png",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_leads_out_of_the_folder(root: Path, name: str) -> None:
    images.save_picture(root, seed=77).rename(root / "secret.png")
    edit(root, lambda d: d["images"][0].update(file_name=name))
    assert [finding.kind for finding in errors(root)] == ["file outside its folder"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_no_link_leads_out_of_the_folder(root: Path, tmp_path: Path) -> None:
    (root / "train/images/rgb-1.png").unlink()
    (root / "train/images/rgb-1.png").symlink_to(images.save_picture(tmp_path, seed=1))
    (root / "train/images/rgb-2.png").unlink()
    (root / "train/images/rgb-2.png").symlink_to("rgb-2.png")
    first, second = errors(root)
    assert "leads out of images/" in first.message
    assert second.kind == "missing image"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"images": [\n  1,, 2]}', "line 2, column 5"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "expected a JSON object"),
        (b"1" * 5000, "not JSON"),
        (b"", "line 1"),
    ],
)
def test_what_is_not_json_is_told(root: Path, content: bytes, told: str) -> None:
    (root / "val/annotations.json").write_bytes(content)
    (finding,) = errors(root)
    assert finding.where == "val/annotations.json"
    assert told in finding.message


def test_a_byte_order_mark_is_no_error(root: Path) -> None:
    path = root / "val/annotations.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert errors(root) == []


def test_a_cut_off_picture_is_told(root: Path) -> None:
    path = root / "train/images/rgb-1.png"
    path.write_bytes(path.read_bytes()[:-60])
    (finding,) = errors(root)
    assert (finding.kind, finding.where) == ("unreadable image", "train/annotations.json, image 1 (rgb-1.png)")


def test_the_same_picture_in_two_splits_is_an_error(root: Path) -> None:
    shutil.copy(root / "train/images/rgb-1.png", root / "test/images/rgb-2001.png")
    (finding,) = errors(root)
    assert finding.kind == "same picture in two splits"
    assert finding.where == "test/annotations.json, image 1 (rgb-2001.png)"
    assert "rgb-1.png in train" in finding.message


# Each leaves the data usable: how, then the kind of the one warning.
SUSPICIOUS: dict[str, tuple[Callable[[Path], object], str]] = {
    "twins": (
        lambda root: shutil.copy(root / "val/images/rgb-1001.png", root / "val/images/rgb-1002.png"),
        "same picture twice",
    ),
    "no test": (lambda root: shutil.rmtree(root / "test"), "missing folder"),
    "test good": (lambda root: edit(root, lambda d: d.update(annotations=[]), "test"), "no defects"),
    "unused": (lambda root: images.save_picture(root / "val/images", seed=5), "unused images"),
    "no good": (
        lambda root: edit(root, lambda d: d["annotations"].append(images.annotation(9, 3)), "val"),
        "no good images",
    ),
    "unseen": (
        lambda root: edit(root, lambda d: [a.update(category_id=3) for a in d["annotations"]]),
        "category without boxes",
    ),
}


@pytest.mark.parametrize("case", SUSPICIOUS)
def test_suspicious_data_is_usable_with_a_warning(root: Path, case: str) -> None:
    change, kind = SUSPICIOUS[case]
    change(root)
    data, findings = check_data(root)
    assert data is not None
    assert [(finding.severity, finding.kind) for finding in findings] == [("warning", kind)]


@pytest.mark.parametrize("name", ["train", "val", "val/images", "train/annotations.json"])
def test_missing_parts_are_errors(root: Path, name: str) -> None:
    (root / name).rename(root / "elsewhere")
    assert [finding.kind.split()[0] for finding in errors(root)] == ["missing"]


def test_load_tells_the_number_the_first_ten_and_the_command(root: Path) -> None:
    edit(root, lambda d: d["annotations"].extend(images.annotation(id_, 1, (8, 6, 0, 2)) for id_ in range(50, 62)))
    with pytest.raises(DataError) as caught:
        load_data(root)
    lines = caught.value.what.splitlines()
    assert lines[0] == f"{root}: 12 errors in the data"
    assert (len(lines), lines[-1]) == (12, "  and 2 more")
    assert caught.value.command == f"vqc check --data {root}"


@pytest.mark.parametrize("name", ["nothing", "parts/train/annotations.json"])
def test_load_refuses_what_is_no_folder(faultless: Path, name: str) -> None:
    with pytest.raises(DataError, match="folder") as caught:
        load_data(faultless.parent / name)
    assert caught.value.command == "vqc sample --out data"


def test_import_is_light() -> None:
    code = (
        "import sys, vqc.data.dataset; print([m for m in ('torch', 'cv2', 'PIL', 'ray', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_photographs_are_compared_only_for_the_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = images.write_data(tmp_path / "parts")
    compared: list[int] = []
    monkeypatch.setattr("vqc.data.dataset.check_look_alikes", lambda photos, report: compared.append(len(photos)))
    data = load_data(root)
    assert compared == []
    load_with_warnings(root)
    assert compared == [sum(len(split.images) for split in data.splits)]
