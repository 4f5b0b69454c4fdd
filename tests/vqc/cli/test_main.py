"""The command line as a person meets it: exit status, sentences, nothing heavy loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import images
from vqc.cli.main import COMMANDS, main


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images.write_data(tmp_path_factory.mktemp("data") / "parts")


def test_check_shows_the_counts(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--data", str(parts)]) == 0
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines()]
    assert ["parts", "train", "val", "test"] in rows
    assert ["defective", "4", "2", "2"] in rows
    assert ["dent", "4", "2", "2"] in rows
    assert shown.endswith("usable\n")


def test_check_groups_and_cuts_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = images.write_data(tmp_path / "parts")
    wrong = [images.annotation(id_, 1, (60, 6, 9, 2)) for id_ in range(50, 73)]
    images.edit_json(root / "train/annotations.json", lambda d: d["annotations"].extend(wrong))
    assert main(["check", "--data", str(root)]) == 2
    shown = capsys.readouterr().out.splitlines()
    assert "error  box outside its image (23)" in shown
    assert sum("annotation 5" in line or "annotation 6" in line for line in shown) == 20
    assert "  and 3 more" in shown
    assert shown[-1] == "not usable until the errors are mended"


def test_a_name_with_markup_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = images.write_data(tmp_path / "parts")
    images.edit_json(root / "val/annotations.json", lambda d: d["images"][0].update(file_name="[red]a\x1b[2J.png"))
    assert main(["check", "--data", str(root)]) == 2
    shown = capsys.readouterr().out
    assert "[red]a\\x1b[2J.png" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["check", "--data", "nowhere"], "vqc check: nowhere: no such folder"),
        (["sample", "--out", "new", "--seed", "-1"], "vqc sample: expected a seed of at least 0"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(
    argv: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith(told)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argv", [[], ["chekc"], ["check"], ["sample", "--out", "x", "--seed", "one"]])
def test_wrong_flags_are_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: vqc" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_explains_itself(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command.name, "--help"])  # type: ignore[attr-defined]
    assert caught.value.code == 0
    assert command.help.split()[0] in capsys.readouterr().out  # type: ignore[attr-defined]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom vqc.cli.main import main\ntry:\n main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('numpy', 'rich', 'pydantic', 'torch', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_it_runs_as_a_module(parts: Path) -> None:
    command = [sys.executable, "-m", "vqc.cli.main", "check", "--data", str(parts)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
