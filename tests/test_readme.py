"""Every command line of the README is one that works: its flags are known, and each of ours runs in smoke form."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.images import write_data
from tests.models import write_models
from vqc.cli.main import COMMANDS, main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
GUIDE = README.partition("## The guide's commands")[2].partition("\n## ")[0]

# Named in the guide, row by row; each must be found in the table's first column.
PROMISED = (
    "nvcc --version",
    "nvidia-smi",
    "pip install -r requirements.txt",
    "pip install torch torchvision --index-url",
    "torch.cuda.is_available()",
    "python scripts/train.py --config configs/train_config.json --gpu 0",
    "mlflow ui",
    "nvidia-smi -l 1",
    "tensorboard --logdir=runs",
    "dvc init",
    "dvc add data/train",
    "dvc add data/val",
    "dvc repro",
    "python scripts/evaluate.py --model models/checkpoints/best_model.pth",
    "python scripts/calibrate_model.py",
)


def commands() -> list[str]:
    """Every command line of ours in the README: in blocks, between back quotes, and in the table's second column."""
    fenced = re.compile(r"```\w+\n(.*?)```", re.DOTALL)
    blocks = [
        part for block in fenced.findall(README) for line in block.splitlines() for part in re.split("&&|;", line)
    ]
    column = [row.split("|")[2] for row in GUIDE.splitlines() if row.startswith("|")]
    prose = [line for line in README.splitlines() if not (line.startswith("|") and line in GUIDE)]
    quoted = [part for line in (*prose, *column) for part in re.findall(r"`([^`]+)`", line)]
    return sorted({" ".join(part.split()) for part in blocks + quoted if part.strip().startswith("uv run ")})


OURS = commands()
VQC = [line for line in OURS if " vqc " in line]


def test_every_command_of_the_guide_has_its_row() -> None:
    column = "\n".join(row.split("|")[1] for row in GUIDE.splitlines() if row.startswith("|"))
    assert [line for line in PROMISED if line not in column] == []


def test_the_two_commands_come_first() -> None:
    first, second = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)[:2]
    assert first == "pip install uv && uv run python tune/search.py --trials 30"
    assert second == "pip install uv && uv run pytest -n 2"


def test_the_readme_names_every_command_of_ours() -> None:
    assert set(COMMANDS) <= {line.split(" vqc ")[1].split()[0] for line in VQC}


@pytest.mark.parametrize("line", VQC)
def test_flags_of_vqc_are_known(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What would take a GPU, minutes or a data set of one's own is parsed and not run."""
    words = shlex.split(line.split(" vqc ")[1])
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    assert caught.value.code == 0
    known = capsys.readouterr().out
    assert [word for word in words[1:] if word.startswith("-") and word not in known] == []


@pytest.mark.parametrize("line", [line for line in OURS if " tune/" in line])
def test_flags_of_the_search_are_known(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    from tune import export_best, search

    words = shlex.split(line.split(" tune/")[1])
    with pytest.raises(SystemExit) as caught:
        {"search.py": search, "export_best.py": export_best}[words[0]].main([*words[1:], "--help"])
    assert caught.value.code == 0
    known = capsys.readouterr().out
    assert [word for word in words[1:] if word.startswith("-") and word not in known] == []


@pytest.mark.parametrize("line", [*OURS, *re.findall(r"`(uv run [^`]+)`", CONTRIBUTING)])
def test_every_program_is_one_that_the_project_installs(line: str) -> None:
    """The rest: a tool's own command line, which needs a server, a browser or an extra, is named and not run."""
    words = [word for word in shlex.split(line.replace(" --extra pipeline", ""))[2:] if not word.startswith("-")]
    tools = {"mypy", "pytest", "ruff", "lint-imports"}
    assert words[0] in tools | {"python", "vqc", "mlflow", "tensorboard", "ray", "dvc"}


@pytest.mark.parametrize("text", [README.partition("## Map")[2], CONTRIBUTING], ids=["map", "contributing"])
def test_every_path_exists(text: str) -> None:
    paths = re.findall(r"`((?:vqc|tune|configs|tests|results)/[\w./]*)`", text)
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the README's: data/, and MODEL as a file."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("workplace")
    write_data(folder / "data", train=4, val=3, test=3)
    (folder / "promoted").mkdir()
    write_models(folder / "promoted")
    return folder


# Command -> what makes it short; the rest of its line is the README's.
SMOKE = {"check": [], "models": [], "predict": [], "explain": ["--masks", "4", "--detections", "1"]}


@pytest.mark.parametrize("name", SMOKE)
def test_ours_run_as_the_readme_has_them(name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    line = next(line for line in VQC if f" vqc {name}" in line)
    words = shlex.split(line.split(" vqc ")[1].replace("MODEL", "promoted/model.safetensors"))
    assert main([*words, *SMOKE[name]]) == 0


def test_the_sample_is_written_as_the_readme_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "--out", "data"]) == 0
    assert main(["check", "--data", "data"]) == 0


def test_the_check_of_cuda_is_python() -> None:
    (line,) = [line for line in OURS if "is_available" in line]
    done = subprocess.run([sys.executable, *shlex.split(line)[3:]], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("True", "False")
