"""The only module that talks to Ray: thin adapters between its classes and the conductor.

Ray keeps the workers, the GPU's shares, the dashboard and, with an address, the cluster. It decides nothing: its
searcher asks the conductor for the next trial, its scheduler asks whether a trial goes on, and its callback says
which worker took a trial or lost it. A trial of the journal may be several of Ray's, one for each time it was
given to a worker.
"""

from __future__ import annotations

import gc
import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune as ray_tune
from ray.air.execution import _internal as ray_execution
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, Trainable, TuneConfig, Tuner
from ray.tune.execution import tune_controller as ray_controller
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from tune.execution.controller import Conductor, Task
from tune.execution.gpu_sharing import Packer
from tune.execution.lost_workers import Watch
from tune.execution.ray_link import Line, RayLostError
from tune.execution.ray_processes import none_left_behind
from tune.execution.resources import Machines, Resources
from tune.paths import trial_folder
from tune.policy.early_stopping import judged_epochs
from tune.policy.propose import warm_up
from tune.settings import SearchSettings
from vqc.config import TrainConfig
from vqc.data.dataset import Data
from vqc.epoch import EpochReport
from vqc.errors import DataError, InfeasibleError, SearchError, VqcError
from vqc.hardware.gpu import read_gpu

if TYPE_CHECKING:
    from tune.execution.worker import Assignment, Reports, Worker

__all__ = ["TrialActor", "WorkerSpentError", "connect", "disconnect", "machines", "run"]

TRIAL, OUTCOME, GPUS = "trial", "outcome", "gpus"
SPENT = "WorkerSpentError"
STDERR = 2


class WorkerSpentError(VqcError):
    """A reused worker refuses its next trial: memory stayed behind, or the last trial failed in it."""


def connect(address: str | None) -> str | None:
    """Start Ray here, or join the cluster at ``address``; returns the dashboard's address if there is one.

    Raises:
        SearchError: the cluster cannot be joined, or this machine is too busy for a new one.
    """
    threading.Thread(target=warm_up, daemon=True).start()  # seconds that the start of Ray's processes hides
    own = {} if address else {"include_dashboard": True, "dashboard_host": "127.0.0.1"}
    try:
        # "local", not None: that joins whatever cluster was last started on this machine, or waits for a dead one.
        context = ray.init(address=address or "local", log_to_driver=False, **own)
    except Exception as error:
        if address is None and "timed out" in str(error):  # of no class of its own
            raise SearchError(
                "Ray's processes did not start within half a minute; expected a machine that has a core and 2 GB of "
                f"memory to spare ({str(error).splitlines()[0]}); the same command will do when it has"
            ) from None
        if address is None or not isinstance(error, ConnectionError | ValueError | RayError):
            raise
        raise SearchError(
            f"--address {address}: no Ray cluster could be joined there; expected the address of a head node that "
            f"runs, and its token in ~/.ray/auth_token of this machine too ({str(error).splitlines()[0]})",
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
    conductor: Conductor,
    data: Data,
    *,
    settings: SearchSettings,
    resources: Resources,
    folder: Path,
    cache: Path,
    reports: Reports | None = None,
) -> None:
    """Give out trials until the conductor has finished; returns when all workers are gone.

    Args:
        reports: where a trial's epochs come from, by default from training; benchmarks give their own.

    Raises:
        SearchError: Ray is gone; the search can be resumed.
    """
    line = Line(conductor, _packer(conductor, settings, resources))
    watch = Watch(lambda trial: line().patience_s(trial.config[TRIAL]), ray.kill, spent=SPENT)
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(
            TrialActor,
            data=data,
            settings=settings,
            resources=resources,
            folder=folder,
            cache=cache,
            reports=reports,
        ),
        partial(_asked, resources),
    )
    tuner = Tuner(
        trainable,
        tune_config=TuneConfig(
            num_samples=-1,
            search_alg=_Searcher(line, resources.gpus),
            scheduler=_Scheduler(line, watch),
            reuse_actors=True,
            trial_name_creator=_short_name,
            trial_dirname_creator=_short_name,
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder),
            verbose=0,
            failure_config=FailureConfig(max_failures=0),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),  # workers keep their own
            callbacks=[_Callback(line, watch)],
        ),
    )
    try:
        with _every_loss_told():
            tuner.fit()
    except RayLostError as error:
        raise SearchError(
            f"{folder}: Ray's {error} ended, so the search cannot go on here; nothing that was measured is lost",
            command=f"python tune/search.py --name {folder.name} --resume",
        ) from None


def _packer(conductor: Conductor, settings: SearchSettings, resources: Resources) -> Packer | None:
    """Where shares are left to us and there is a GPU; else each trial gets that of ``resources``."""
    if settings.gpus_per_trial != "auto" or not resources.gpus:
        return None
    gpu = read_gpu()
    budget_gb = resources.vram_gb or (gpu.total_gb if gpu is not None else 0.0)
    gpus = float(ray.cluster_resources().get("GPU", 1.0))
    return Packer(conductor.table, budget_gb=budget_gb, gpus=gpus)


def _asked(resources: Resources, config: dict[str, Any]) -> dict[str, float]:
    """What Ray must have free to start the trial; a worker is used again for trials that ask for the same."""
    return {"cpu": resources.cpus, "gpu": config[GPUS]}


class TrialActor(Trainable):  # type: ignore[misc]
    """Ray's side of a worker: turns each epoch into a result, and each end of a trial into an outcome."""

    def setup(
        self,
        config: dict[str, Any],
        *,
        data: Data,
        settings: SearchSettings,
        resources: Resources,
        folder: Path,
        cache: Path,
        reports: Any,
    ) -> None:
        # Nothing here may hang: a worker is watched from its first epoch on.
        self._settings, self._folder, self._cache = settings, folder, cache
        share = config[GPUS] or 1.0
        self._make_worker = partial(_worker, data, resources=resources, share=share, reports=reports)
        self._worker: Worker | None = None
        self._next: dict[str, Any] | None = config
        self._failed = False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        from tune.execution.worker import KEPT_LIMIT_MB

        if self._failed:  # first: a GPU that failed refuses even to give memory back
            raise WorkerSpentError("the trial before failed in it")
        kept_mb = self._worker.release() if self._worker is not None else 0.0
        if kept_mb > KEPT_LIMIT_MB:
            raise WorkerSpentError(f"{kept_mb:.0f} MB of GPU memory stayed behind")
        self._next = new_config
        return True

    def step(self) -> dict[str, Any]:
        from tune.execution.worker import UnwritableError

        try:
            return {OUTCOME: "measured", "report": self._begun().epoch().model_dump_json()}
        except UnwritableError as error:
            return {OUTCOME: "unwritable", "reason": str(error), "needed_bytes": error.needed_bytes}
        except InfeasibleError as error:
            return {OUTCOME: "infeasible", "reason": str(error)}
        except DataError as error:
            return {OUTCOME: "data changed", "reason": error.what}
        except Exception as error:  # noqa: BLE001  (the trial boundary: the journal keeps it, the search goes on)
            self._failed = True
            return {
                OUTCOME: "failed",
                "reason": _said(error),
                "out_of_memory": _is_out_of_memory(error),
                "traceback": traceback.format_exc(),
            }

    def cleanup(self) -> None:
        if self._worker is not None:
            self._worker.release()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the worker keeps its own checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: a trial is resumed by its worker."""

    def _begun(self) -> Worker:
        """The worker, which has begun the trial that was given last."""
        if self._worker is None:
            self._worker = self._make_worker()
        if self._next is not None:
            self._worker.begin(self._assignment(self._next))
            self._next = None
        return self._worker

    def _assignment(self, config: dict[str, Any]) -> Assignment:
        from tune.execution.worker import Assignment

        return Assignment(
            config=TrainConfig.model_validate_json(config["config"]),
            metric=self._settings.metric,
            after_epoch=config["after_epoch"],
            folder=trial_folder(self._folder, config[TRIAL]),
            cache=self._cache,
            judged_after=judged_epochs(self._settings),
        )


def _worker(data: Data, *, resources: Resources, share: float, reports: Reports | None) -> Worker:
    from tune.execution.worker import Worker

    return Worker(data, threads=resources.threads, vram_gb=resources.vram_gb, share=share, reports=reports)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _is_out_of_memory(error: Exception) -> bool:
    from vqc.hardware.memory import is_out_of_memory

    return is_out_of_memory(error)


class _Searcher(Searcher):  # type: ignore[misc]
    """Asks the conductor for the next trial."""

    def __init__(self, line: Line, share: float) -> None:
        super().__init__(metric="value", mode="max")
        self._line, self._share = line, share

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        packer = self._line.packer
        if packer is not None and not packer.has_room:
            return None
        task = self._line().next_task()
        if task is None:
            return str(Searcher.FINISHED) if self._line().finished else None
        return _told(task, self._share if packer is None else packer.take(trial_id, task.trial.config))

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Its share is free; the conductor knows from the scheduler."""
        if self._line.packer is not None:
            self._line.packer.give_back(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is what a search is resumed from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class _Scheduler(FIFOScheduler):  # type: ignore[misc]
    """Asks the conductor whether a trial goes on, and tells it what was lost."""

    def __init__(self, line: Line, watch: Watch) -> None:
        super().__init__()
        self._line, self._watch = line, watch

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = trial.config[TRIAL]
        if result[OUTCOME] == "infeasible":
            self._line().infeasible(number, result["reason"])
        elif result[OUTCOME] == "data changed":
            self._line().data_changed(number, result["reason"])
        elif result[OUTCOME] == "failed":
            self._line().failed(number, result["reason"], out_of_memory=result["out_of_memory"])
            with suppress(OSError):  # the search's log; its disk may be full
                os.write(STDERR, result["traceback"].encode("utf-8", "backslashreplace"))
        elif result[OUTCOME] == "unwritable":
            self._line().unwritable(number, result["reason"], needed_bytes=result["needed_bytes"])
        elif self._line().measured(number, EpochReport.model_validate_json(result["report"])):
            return str(FIFOScheduler.CONTINUE)
        return str(FIFOScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        loss = self._watch.lost(trial)
        if loss.innocent:
            self._line().worker_spent(trial.config[TRIAL], loss.reason)
        else:
            self._line().failed(trial.config[TRIAL], loss.reason, out_of_memory=loss.out_of_memory)


class _Callback(Callback):  # type: ignore[misc]
    """Tells the conductor which worker took a trial, and looks after those that give no sign of life."""

    def __init__(self, line: Line, watch: Watch) -> None:
        self._line, self._watch = line, watch

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        """Several times a second."""
        self._line.check()
        self._line().tick()

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._watch.started(trial)
        worker = trial.temporary_state.ray_actor  # its process is not known before the first result
        self._line().started(trial.config[TRIAL], worker=f"actor {worker._actor_id.hex()[:12]}")

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self._watch.heard(trial)

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Called in every turn of Ray's loop, ten times a second while nothing happens."""
        self._watch.turn(trials)


class _Manager(ray_execution.RayActorManager):  # type: ignore[misc]
    """Ray's own knows two kinds of error; any other, such as a worker ended by the memory monitor, ends the search."""

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=str(exception))
        super()._actor_task_failed(tracked_actor_task, exception)


@contextmanager
def _every_loss_told() -> Iterator[None]:
    """Within it, Ray's loop uses the manager above."""
    before = ray_controller.RayActorManager
    ray_controller.RayActorManager = _Manager
    try:
        yield
    finally:
        ray_controller.RayActorManager = before


def _told(task: Task, gpus: float) -> dict[str, Any]:
    return {
        GPUS: gpus,
        TRIAL: task.trial.number,
        "after_epoch": task.after_epoch,
        "config": task.trial.config.model_dump_json(),
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
