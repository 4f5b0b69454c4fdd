"""What the project needs of others: the reason beside each dependency, and names of Ray's that it does not promise."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import re
from pathlib import Path

import pytest
from ray.actor import ActorHandle
from ray.air.execution import _internal as ray_execution
from ray.tune.execution import tune_controller
from ray.tune.experiment import Trial

from tune.execution.log_redirect import quiet_environment

ROOT = Path(__file__).parent.parent
REASONS = dict(
    re.findall(r'^    "([\w-]+)[^"]*",\s*# (.+)', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
)
IMPORTED_BY_TORCH = {"onnxscript", "tensorboard"}
BY_MODULE = {name: reason for name, reason in REASONS.items() if re.search(r"\b(vqc|tune)\.", reason)}


@pytest.mark.parametrize("name", BY_MODULE)
def test_a_dependency_is_used_where_its_comment_says(name: str) -> None:
    provided = [module for module, names in importlib.metadata.packages_distributions().items() if name in names]
    uses = re.compile(rf"^\s*(?:import|from) (?:{'|'.join(provided)})\b", re.MULTILINE)
    for module in re.findall(r"\b(?:vqc|tune)(?:\.\w+)+", BY_MODULE[name]):
        text = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        assert name in IMPORTED_BY_TORCH or uses.search(text), f"{module} does not import {name}"


def test_ray_has_an_upper_bound() -> None:
    (bound,) = [line for line in importlib.metadata.requires("vqc-tune") or [] if line.startswith("ray[")]
    assert "<" in bound


# Private names of Ray that tune.execution relies on.


def test_ray_takes_its_actor_manager_from_where_ours_takes_its_place() -> None:
    assert tune_controller.RayActorManager is ray_execution.RayActorManager
    assert "RayActorManager" in tune_controller.TuneController.__init__.__code__.co_names


def test_ray_tells_its_actor_manager_of_a_lost_task() -> None:
    told = inspect.signature(ray_execution.RayActorManager._actor_task_failed)
    assert list(told.parameters) == ["self", "tracked_actor_task", "exception"]


def test_a_trial_names_its_worker_and_its_error() -> None:
    assert isinstance(ActorHandle._actor_id, property)
    assert isinstance(Trial.error_file, property)
    trial = Trial("anything", stub=True)
    assert trial.temporary_state.ray_actor is None
    assert isinstance(trial.trial_id, str)


def test_ray_still_reads_every_variable_that_is_set_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    quiet_environment()
    folder = Path(inspect.getfile(tune_controller)).parents[2]  # ray/
    parts = (folder / part for part in ("_private", "_common", "tune", "train", "air"))
    sources = "".join(path.read_text(encoding="utf-8") for part in parts for path in part.rglob("*.py"))
    ours = {name for name in os.environ if name.startswith(("RAY_", "TUNE_"))}
    assert {name for name in ours if name.removeprefix("RAY_") not in sources} == set()
