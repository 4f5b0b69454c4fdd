"""Which folder is trained on, and what is made of one in another layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import exports, images
from vqc.cli import split
from vqc.data.dataset import load_data
from vqc.data.importers.choose import SHARES, choose_data
from vqc.data.synthetic import SAMPLE_IMAGES, SAMPLE_VERSION
from vqc.errors import DataError


def test_the_shares_are_those_of_the_command() -> None:
    assert (SHARES["val"], SHARES["test"]) == (split.VAL, split.TEST)
    assert sum(SHARES.values()) == pytest.approx(1)


def test_a_folder_in_our_layout_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images.write_data(tmp_path / "data")
    images.write_data(tmp_path / "mine")
    assert choose_data(None, Path("results")) == (Path("data"), "")
    assert choose_data(Path("mine"), Path("results")) == (Path("mine"), "")
    assert choose_data(Path("missing"), Path("results")) == (Path("missing"), "")  # whoever loads it says so
    assert not Path("results").exists()


@pytest.mark.slow
def test_the_sample_under_the_results_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, said = choose_data(None, Path("results"))
    assert folder == Path("results") / f"sample-{SAMPLE_VERSION}"
    assert str(folder) in said
    assert load_data(folder).summary()["images"] == dict(SAMPLE_IMAGES)


@pytest.mark.parametrize("tool", exports.SPLIT)
def test_an_export_is_imported_once(tool: str, tmp_path: Path) -> None:
    root = exports.SPLIT[tool](tmp_path / "my parts.v1")
    folder, said = choose_data(root, tmp_path / "results")
    assert folder.parent == tmp_path / "results/data"
    assert said.startswith(f"{root} is {tool.split()[0]}; imported into {folder}.")
    data = load_data(folder)
    assert [len(split.images) for split in data.splits] == [3, 3, 3]
    again, said = choose_data(root, tmp_path / "results")
    assert again == folder
    assert said == f"{root} was imported before: {folder} is used."


def test_another_content_is_another_data_set(tmp_path: Path) -> None:
    root = exports.roboflow(tmp_path / "parts")
    first, _ = choose_data(root, tmp_path / "results")
    images.edit_json(root / "train/_annotations.coco.json", lambda d: d["annotations"].pop())
    second, said = choose_data(root, tmp_path / "results")
    assert first != second
    assert "imported into" in said
    assert load_data(first).train.boxes == load_data(second).train.boxes + 1


def test_one_folder_is_split_by_groups(tmp_path: Path) -> None:
    root = images.write_split(tmp_path / "parts", count=24, first_seed=0)
    folder, said = choose_data(root, tmp_path / "results")
    assert "split by whole groups (70% train, 15% val, 15% test)" in said
    assert (folder / "splits.json").is_file()
    assert sum(len(split.images) for split in load_data(folder).splits) == 24
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    root = exports.roboflow(tmp_path / "parts")
    (root / "valid/rgb-2.png").unlink()
    _, said = choose_data(root, tmp_path / "results")
    assert "Left out or changed: 1 images: no such picture, such as rgb-2.png." in said


def test_a_question_leaves_nothing_behind(tmp_path: Path) -> None:
    root = exports.cvat(tmp_path / "parts")
    images.save_picture(root, seed=9)
    with pytest.raises(DataError, match="are they good parts") as told:
        choose_data(root, tmp_path / "results")
    assert told.value.command == f"vqc import {root} --out data --unlabelled good"
    assert list((tmp_path / "results/data").iterdir()) == []
