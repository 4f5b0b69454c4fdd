"""The pipeline of the guide: stages that name what is there, and a repetition that does nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from vqc.cli.main import main

ROOT = Path(__file__).parent.parent
PARAMS = json.loads((ROOT / "configs/pipeline.json").read_text(encoding="utf-8"))
PIPELINE = yaml.safe_load(
    re.sub(r"\$\{(\w+)\}", lambda found: str(PARAMS[found.group(1)]), (ROOT / "dvc.yaml").read_text(encoding="utf-8"))
)
STAGES: dict[str, dict[str, Any]] = PIPELINE["stages"]


def made(stage: dict[str, Any]) -> list[str]:
    """Paths of everything that a stage writes."""
    return [next(iter(out)) for key in ("outs", "metrics") for out in stage.get(key, [])]


def test_the_guides_stages_are_there() -> None:
    assert set(STAGES) == {"sample", "check", "search", "export", "calibrate", "evaluate"}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_needs_what_is_there_or_made_before_it(name: str) -> None:
    earlier = [path for other, stage in STAGES.items() if other != name for path in made(stage)]
    needed = STAGES[name]["deps"]
    assert [path for path in needed if not (ROOT / path).exists() and path not in earlier] == []


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_writes_below_results_and_copies_nothing(name: str) -> None:
    outs = [out for key in ("outs", "metrics") for out in STAGES[name].get(key, [])]
    assert outs
    assert all(path.startswith("results/") for out in outs for path in out)
    assert all(options == {"cache": False} for out in outs for options in out.values())


def test_no_two_stages_write_the_same() -> None:
    every = [path for stage in STAGES.values() for path in made(stage)]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("name", STAGES)
def test_flags_of_a_stage_are_known(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from tune import export_best, search

    words = shlex.split(STAGES[name]["cmd"].partition(" > ")[0])
    program, flags = (main, words[1:]) if words[0] == "vqc" else (
        {"tune/search.py": search.main, "tune/export_best.py": export_best.main}[words[1]], words[2:]
    )  # fmt: skip
    with pytest.raises(SystemExit) as caught:
        program([*flags, "--help"])
    assert caught.value.code == 0
    known = capsys.readouterr().out
    assert [word for word in flags if word.startswith("-") and word not in known] == []


def test_dvc_reports_nothing_home() -> None:
    config = (ROOT / ".dvc/config").read_text(encoding="utf-8")
    assert "analytics = false" in config
    assert "check_update = false" in config


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("dvc") is None, reason="DVC is an extra: uv sync --extra pipeline")
def test_it_runs_from_a_clean_checkout_and_a_repetition_does_nothing(tmp_path: Path) -> None:
    """All stages for real, with one short trial."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    for name in listed.stdout.splitlines():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "configs/pipeline.json").write_text(json.dumps({**PARAMS, "trials": 1}), encoding="utf-8")
    first = repro(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert [path for stage in STAGES.values() for path in made(stage) if not (tmp_path / path).exists()] == []
    second = repro(tmp_path)
    assert second.returncode == 0
    assert "Running stage" not in second.stdout
    assert second.stdout.count("didn't change, skipping") == len(STAGES)


def repro(folder: Path) -> subprocess.CompletedProcess[str]:
    """``dvc repro`` with this Python, on the code in the folder."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    return subprocess.run(
        ["dvc", "repro"], cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
    )
