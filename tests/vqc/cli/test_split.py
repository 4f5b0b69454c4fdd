"""``vqc split`` shows the shares; the command that it names next is satisfied."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import images
from vqc.cli.main import main


def test_split_shows_the_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images.write_split(tmp_path / "parts", count=20, first_seed=0)
    out = tmp_path / "data"
    assert main(["split", "--data", str(tmp_path / "parts"), "--out", str(out), "--val", "0.2", "--test", "0.1"]) == 0
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines()]
    assert ["images", "14", "(70.0%)", "4", "(20.0%)", "2", "(10.0%)"] in rows
    assert "20 groups" in shown
    assert shown.rstrip().endswith(f"vqc check --data {out}")
    assert main(["check", "--data", str(out)]) == 0


def test_check_names_the_command_that_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images.write_split(tmp_path / "parts", count=3, first_seed=0)
    assert main(["check", "--data", str(tmp_path / "parts")]) == 2
    assert f"vqc split --data {tmp_path / 'parts'} --out {tmp_path / 'parts-split'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--val", "0.9", "--test", "0.1"], "--val, --test: expected shares above 0 whose sum is below 1"),
        (["--val", "nan"], "expected shares above 0"),
        (["--group", "("], "--group: not a regular expression"),
        (["--gap-s", "-1"], "--gap-s: expected a number of at least 0"),
    ],
)
def test_impossible_flags_are_one_sentence(
    tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["split", "--data", str(tmp_path), "--out", str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err
