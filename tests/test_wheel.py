"""The wheel has all that a checkout has, and its commands work where there is no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from tests.serving import jpeg, process, write_bundle

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(shutil.which("uv") is None, reason="uv builds the wheel")


def run(*words: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """What a program printed, once it has ended well. Nothing of the environment that runs the tests is found by it."""
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "UV_RUN_RECURSION_DEPTH")}
    done = subprocess.run(
        [*map(str, words)],
        cwd=cwd,
        env={**kept, "PYTHONUTF8": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run("uv", "build", "--quiet", "--wheel", "--out-dir", folder)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_has_the_settings_files_the_templates_and_the_page(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    settings = {f"vqc/configs/{path.name}" for path in (ROOT / "configs").iterdir()}
    others = {
        path.relative_to(ROOT).as_posix()
        for package in ("vqc", "tune")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {".j2", ".js", ".css"} <= {PurePosixPath(name).suffix for name in others}
    assert settings | others == {name for name in names if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of a new environment lie that holds the wheel and what it needs, from uv's cache."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    place = {"UV_PROJECT_ENVIRONMENT": str(environment), "UV_PYTHON": sys.executable}
    run("uv", "sync", "--quiet", "--offline", "--no-dev", "--no-install-project", **place)
    run("uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", environment, wheel)
    return environment / ("Scripts" if sys.platform == "win32" else "bin")


@pytest.mark.slow
def test_every_command_works_in_an_empty_folder(bin_folder: Path, tmp_path: Path) -> None:
    """Also the next commands that they print are ones that an installed wheel has."""
    said = run(bin_folder / "vqc", "sample", "--out", "data", cwd=tmp_path)
    said += run(bin_folder / "vqc", "train", "--epochs", "1", "--name", "one", cwd=tmp_path)
    said += run(bin_folder / "vqc-search", "--trials", "2", "--epochs", "1", "--name", "two", cwd=tmp_path)
    said += run(bin_folder / "vqc-export-best", cwd=tmp_path)
    assert "tune/" not in said
    assert "vqc-export-best two" in said
    (card,) = (tmp_path / "results/promoted").glob("*/model_card.md")
    assert "vqc-search --trials 2 --epochs 1" in card.read_text(encoding="utf-8")
    config = json.loads((card.parent / "train_config.json").read_text(encoding="utf-8"))
    assert (card.parent / config["$schema"]).is_file()
    html = (tmp_path / "results/two/report.html").read_text(encoding="utf-8")
    assert "vqc-export-best two" in html


@pytest.mark.slow
def test_the_server_needs_no_more_than_its_image_has(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    place = {"UV_PROJECT_ENVIRONMENT": str(environment), "UV_PYTHON": sys.executable}
    run("uv", "sync", "--quiet", "--offline", "--only-group", "serve", **place)
    run("uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", environment, wheel)
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    bundle = write_bundle(tmp_path / "promoted" / "first")
    with process(str(bundle), "--store", str(tmp_path / "store"), python=str(python)) as (_, client):
        inspection = client.inspect(jpeg(1)).json
        assert client.get("/v1/operating-curve").status == 200
        assert client.ask("POST", f"/v1/inspections/{inspection['id']}/explanations").status == 202
