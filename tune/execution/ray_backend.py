"""The search on Ray: thin adapters between Ray Tune's classes and the controller.

Ray keeps the workers, the GPU's shares, the dashboard and, with an address, the cluster. It decides nothing: its
searcher asks the controller for the next trial, its scheduler passes outcomes on, and its callback says which worker
took a trial. A trial of the journal may be several of Ray's, one for each time it was given to a worker.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune as ray_tune
from ray.air.execution import _internal as ray_execution
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.execution import tune_controller as ray_controller
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from tune.execution.controller import Controller, Task
from tune.execution.gpu_sharing import Packer
from tune.execution.outcomes import OUTCOME as OUTCOMES
from tune.execution.outcomes import Failed
from tune.execution.ray_processes import RayLostError, VitalProcesses, none_left_behind, started_deaf_to_ctrl_c
from tune.execution.resources import Machines, Resources
from tune.execution.trainable import AFTER_EPOCH, CONFIG, GPUS, OUTCOME, TRIAL, TrialTrainable, WorkerRefusedError
from tune.execution.watchdog import Watchdog, epoch_limit_s
from tune.history.queries import resume_command
from tune.policy.propose import preload
from vqc.data.dataset import Data
from vqc.errors import SearchError

if TYPE_CHECKING:
    from tune.execution.worker import Reports

STDERR = 2


def connect(address: str | None) -> str | None:
    """Start Ray here, or join the cluster at ``address``; returns the dashboard's address if there is one.

    Raises:
        SearchError: the cluster cannot be joined, or this machine is too busy for a new one.
    """
    threading.Thread(target=preload, daemon=True).start()  # seconds that the start of Ray's processes hides
    own = {} if address else {"include_dashboard": True, "dashboard_host": "127.0.0.1"}
    try:
        # "local", not None: that joins whatever cluster was last started on this machine, or waits for a dead one.
        with started_deaf_to_ctrl_c():
            context = ray.init(address=address or "local", log_to_driver=False, **own)
    except Exception as error:
        said = str(error).strip()
        if address is None and ("timed out" in said or "dashboard" in said):  # of no class of its own
            raise SearchError(
                "Ray's processes did not start within half a minute; expected a machine that has a core and 2 GB of "
                f"memory to spare ({said.splitlines()[0]}); the same command will do when it has"
            ) from None
        if address is None or not isinstance(error, ConnectionError | ValueError | RayError):
            raise
        raise SearchError(
            f"--address {address}: no Ray cluster could be joined there; expected the address of a head node that "
            f"runs, and its token in ~/.ray/auth_token of this machine too ({said.splitlines()[0]})",
            command="ray start --head",
        ) from None
    url = context.dashboard_url
    return f"http://{url}" if url else None


def machines() -> Machines:
    """The cluster's machines with a GPU, or all that have cores if none has one."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    equipped = [node for node in nodes if node.get("GPU")] or nodes
    cpus = int(min((node["CPU"] for node in equipped), default=1))
    return Machines(count=max(1, len(equipped)), cpus=cpus, gpus=any(node.get("GPU") for node in equipped))


def run(
    controller: Controller,
    data: Data,
    *,
    resources: Resources,
    folder: Path,
    cache: Path,
    reports: Reports | None = None,
) -> None:
    """Give out trials until the controller has finished; returns when all workers are gone.

    Args:
        reports: where a trial's epochs come from, by default from training; benchmarks give their own.

    Raises:
        SearchError: Ray is gone; the search can be resumed.
    """
    link = _Link(controller, _packer(controller, resources))
    watchdog = Watchdog(  # pickled by Ray too, so it asks through the link
        lambda trial: _epoch_limit_s(link.controller, trial),
        ray.kill,
        refused=WorkerRefusedError.__name__,
        clock_s=lambda: link.controller.clock_s(),
    )
    parameters = {"data": data, "settings": controller.settings, "resources": resources, "folder": folder}
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(TrialTrainable, **parameters, cache=cache, reports=reports),
        partial(_request, resources),
    )
    tune_config = TuneConfig(
        num_samples=-1,
        search_alg=_Searcher(link, resources.gpus),
        scheduler=_Scheduler(link, watchdog),
        reuse_actors=True,
        trial_name_creator=_short_name,
        trial_dirname_creator=_short_name,
    )
    run_config = RunConfig(
        name="ray",
        storage_path=str(folder),
        verbose=0,
        failure_config=FailureConfig(max_failures=0),
        checkpoint_config=CheckpointConfig(checkpoint_at_end=False),  # workers keep their own
        callbacks=[_Callback(link, watchdog)],
    )
    try:
        with _every_loss_reported():
            Tuner(trainable, tune_config=tune_config, run_config=run_config).fit()
    except RayLostError as error:
        raise SearchError(
            f"{folder}: Ray's {error} ended, so the search cannot go on here; nothing that was measured is lost",
            command=resume_command(folder.name),
        ) from None


def _epoch_limit_s(controller: Controller, trial: Any) -> float:
    return epoch_limit_s(controller.table, controller.table.trials[trial.config[TRIAL]])


def _packer(controller: Controller, resources: Resources) -> Packer | None:
    """Where shares are left to us and there is a GPU; else each trial gets that of ``resources``."""
    if controller.settings.gpus_per_trial != "auto" or not resources.gpus:
        return None
    known_gb = [gb for gb in (resources.vram_gb, resources.gpu_gb) if gb is not None]
    gpus = float(ray.cluster_resources().get("GPU", 1.0))
    return Packer(controller.table, budget_gb=min(known_gb, default=0.0), gpus=gpus)


def _request(resources: Resources, config: dict[str, Any]) -> dict[str, float]:
    """What Ray must have free to start the trial; a worker is used again for trials that ask for the same."""
    return {"cpu": resources.cpus, "gpu": config[GPUS]}


class _Link:
    """The adapters' way to the controller.

    Ray pickles its searcher, scheduler and callbacks into snapshots of its own; nobody reads them, because a search is
    resumed from the journal, so the controller is left out.
    """

    def __init__(self, controller: Controller | None, packer: Packer | None) -> None:
        self._controller, self.packer = controller, packer
        self._vital = VitalProcesses()

    @property
    def controller(self) -> Controller:
        if self._controller is None:
            raise RuntimeError("this adapter was restored from a snapshot of Ray's; use --resume")
        return self._controller

    def check_ray(self) -> None:
        """Ray takes a quarter of a minute to notice what it has lost, and then ends this process without a word."""
        ended = self._vital.ended
        if ended is not None:
            raise RayLostError(ended)

    def __reduce__(self) -> tuple[type[_Link], tuple[None, None]]:
        return _Link, (None, None)


class _Searcher(Searcher):  # type: ignore[misc]
    """Asks the controller for the next trial."""

    def __init__(self, link: _Link, share: float) -> None:
        super().__init__(metric="value", mode="max")
        self._link, self._share = link, share

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        packer = self._link.packer
        if packer is not None and not packer.has_room:
            return None
        task = self._link.controller.next_task()
        if task is None:
            return str(Searcher.FINISHED) if self._link.controller.finished else None
        return _ray_config(task, self._share if packer is None else packer.take(trial_id, task.trial.config))

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Its share is free; the controller knows from the scheduler."""
        if self._link.packer is not None:
            self._link.packer.give_back(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is what a search is resumed from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class _Scheduler(FIFOScheduler):  # type: ignore[misc]
    """Passes outcomes on to the controller, and its decision back to Ray."""

    def __init__(self, link: _Link, watchdog: Watchdog) -> None:
        super().__init__()
        self._link, self._watchdog = link, watchdog

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        outcome = OUTCOMES.validate_json(result[OUTCOME])
        if isinstance(outcome, Failed):
            with suppress(OSError):  # the search's log; its disk may be full
                os.write(STDERR, outcome.traceback.encode("utf-8", "backslashreplace"))
        decision = self._link.controller.record(trial.config[TRIAL], outcome)
        return str(FIFOScheduler.CONTINUE if decision == "continue" else FIFOScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._link.controller.record(trial.config[TRIAL], self._watchdog.lost(trial))


class _Callback(Callback):  # type: ignore[misc]
    """Tells the controller which worker took a trial, and the watchdog which of them gave a sign of life."""

    def __init__(self, link: _Link, watchdog: Watchdog) -> None:
        self._link, self._watchdog = link, watchdog

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        """Called in every turn of Ray's loop, ten times a second while nothing happens."""
        self._link.check_ray()

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._watchdog.started(trial)
        worker = trial.temporary_state.ray_actor  # its process is not known before the first result
        self._link.controller.started(trial.config[TRIAL], worker=f"actor {worker._actor_id.hex()[:12]}")

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self._watchdog.reported(trial)

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        self._watchdog.check(trials)


class _Manager(ray_execution.RayActorManager):  # type: ignore[misc]
    """Ray's own knows two kinds of error; any other, such as a worker ended by the memory monitor, ends the search."""

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=str(exception))
        super()._actor_task_failed(tracked_actor_task, exception)


@contextmanager
def _every_loss_reported() -> Iterator[None]:
    """Within it, Ray's loop uses the manager above."""
    before = ray_controller.RayActorManager
    ray_controller.RayActorManager = _Manager
    try:
        yield
    finally:
        ray_controller.RayActorManager = before


def _ray_config(task: Task, gpus: float) -> dict[str, Any]:
    return {
        GPUS: gpus,
        TRIAL: task.trial.number,
        AFTER_EPOCH: task.after_epoch,
        CONFIG: task.trial.config.model_dump_json(),
    }


def _short_name(trial: Any) -> str:
    """Ray's own folder names hold the whole configuration, which breaks on Windows."""
    return f"{trial.config[TRIAL]}-{trial.trial_id}"


def disconnect() -> None:
    """Stop Ray where ``connect`` started it, and leave a cluster that it joined.

    Handles of actors call Ray when they are collected. If another thread's collection does that while Ray goes down,
    Ray ends the whole process, so what is left is collected first and nothing meanwhile. Without its GCS, Ray leaves
    processes behind.
    """
    gc.collect()
    gc.disable()
    try:
        with none_left_behind():
            ray.shutdown()
    finally:
        gc.enable()
