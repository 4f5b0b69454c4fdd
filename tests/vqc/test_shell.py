"""Commands and paths are printed as they would be typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqc.shell import as_typed, runnable, short_path


@pytest.mark.parametrize(
    ("environment", "typed"), [({}, "vqc check"), ({"UV_RUN_RECURSION_DEPTH": "1"}, "uv run vqc check")]
)
def test_behind_uv_run_only_where_that_is_how_it_began(environment: dict[str, str], typed: str) -> None:
    assert as_typed("vqc check", environment) == typed


@pytest.mark.parametrize(
    ("script", "installed"),
    [("tune/search.py", "vqc-search --name a --resume"), ("tune/export_best.py", "vqc-export-best --name a --resume")],
)
def test_a_script_is_named_where_it_is_and_the_installed_command_elsewhere(
    script: str, installed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = f"python {script} --name a --resume"
    assert runnable(command) == installed
    assert as_typed(command, {"UV_RUN_RECURSION_DEPTH": "1"}) == f"uv run {installed}"
    (tmp_path / "tune").mkdir()
    (tmp_path / script).touch()
    assert runnable(command) == command


def test_a_path_below_the_working_directory_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_path(tmp_path / "results" / "a") == str(Path("results/a"))
    assert short_path(tmp_path.parent) == str(tmp_path.parent)
