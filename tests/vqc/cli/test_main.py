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


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert COMMANDS[name].split()[0] in capsys.readouterr().out


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
