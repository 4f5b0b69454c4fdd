"""Trials share a GPU that Ray only believes in: real Ray, made-up epochs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import epoch_report
from tests.images import write_data
from tune.execution import ray_backend
from tune.execution.gpu_sharing import speedups
from tune.execution.worker import Assignment
from tune.history.journal import read_table
from vqc.data.dataset import Data
from vqc.epoch import EpochReport
from vqc.errors import SearchError

EPOCH_S = 3.0  # four of them are longer than a worker takes to start: company comes only then
SIZE = (64, 64)
SETTINGS = {
    "train": {"model": "fcos_tiny", "weights": "none", "image_size": SIZE, "num_epochs": 4, "batch_size": 4},
    "space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
    "rungs": [],
    "confirm": 0,
    "gpus_per_trial": "auto",
    "concurrent": 3,
    "budget": {"trials": 5},
}


def made_up(assignment: Assignment, data: Data) -> Iterator[EpochReport]:
    """Epochs that take the same time whatever runs beside them: company is for nothing."""
    for epoch in range(1, assignment.config.num_epochs + 1):
        time.sleep(EPOCH_S)
        yield epoch_report(epoch, ap50=0.1).model_copy(
            update={
                "train_s": EPOCH_S,
                "eval_s": 0.0,
                "images_per_s": 64.0,
                "measured_ms": time.time_ns() // 1_000_000,
                "peak_vram_gb": 0.5,
            }
        )


def search(folder: Path) -> None:
    """Run by the test in a process of its own: Ray's warnings and threads stay there."""
    import ray

    from tune.execution import ray_backend
    from tune.execution.controller import Controller
    from tune.execution.resources import Machines, resources_of
    from tune.execution.session import new_session

    session = new_session(
        name="packed", results=folder, data_folder=folder / "data", config=folder / "settings.json", flags={},
        command="", gpus=True,
    )  # fmt: skip
    journal = session.open_journal()
    ray.init(num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
    controller = Controller(journal, session.table, folder=session.folder)
    ray_backend.run(
        controller,
        session.data,
        resources=resources_of(session.settings, Machines(count=1, cpus=4, gpus=True, gpu_gb=6.0)),
        folder=session.folder,
        cache=folder / "cache",
        reports=made_up,
    )
    controller.close()
    journal.close()
    ray_backend.disconnect()


@pytest.mark.parametrize(
    "said",
    ["The current node timed out during startup.", "\nThe last 20 lines of dashboard.log (the error message):\nx"],
)
def test_a_machine_too_busy_for_rays_processes_is_told_in_a_sentence(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise Exception(said)  # as Ray does, of no class of its own

    monkeypatch.setattr(ray_backend.ray, "init", init)
    with pytest.raises(SearchError, match=f"did not start.*{said.split()[1]}"):
        ray_backend.connect(None)


@pytest.mark.slow
def test_trials_run_alone_then_in_company_as_long_as_it_pays(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    code = (
        "from tune.execution.log_redirect import quiet_environment; quiet_environment(); "  # before Ray is imported
        "from pathlib import Path; from tests.tune.execution.test_ray_backend import search; "
        f"search(Path({str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False, timeout=300)
    assert done.returncode == 0
    table = read_table(tmp_path / "packed" / "journal.jsonl")
    assert [trial.state for trial in table.trials.values()] == ["completed"] * 5
    assert speedups(table, SIZE)[2] == pytest.approx(2, rel=0.1)
