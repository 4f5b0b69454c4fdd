"""The only module that talks to Ray: thin adapters between its classes and the conductor.

Ray keeps the workers, the GPU's shares, the dashboard and, with an address, the cluster. It decides nothing: its
searcher asks the conductor for the next trial, its scheduler asks whether a trial goes on, and its callback says
which worker took a trial or lost it. A trial of the journal may be several of Ray's, one for each time it was
given to a worker.
"""

from __future__ import annotations

import gc
import threading
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune as ray_tune
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, Trainable, TuneConfig, Tuner
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from tune.conductor import Conductor, Task
from tune.packing import Packer
from tune.propose import warm_up
from tune.results import trial_folder
from tune.settings import SearchSettings
from tune.stop import judged_epochs
from vqc.coco import Data
from vqc.config import TrainConfig
from vqc.epoch import EpochReport
from vqc.errors import InfeasibleError, VqcError
from vqc.gpu import read_gpu
from vqc.memory_book import MemoryBook

if TYPE_CHECKING:
    from tune.worker import Reports

__all__ = ["Resources", "TrialActor", "WorkerSpentError", "connect", "disconnect", "run"]

TRIAL, OUTCOME, GPUS = "trial", "outcome", "gpus"
SPENT = "WorkerSpentError"


class WorkerSpentError(VqcError):
    """A reused worker refuses its next trial: memory stayed behind, or the last trial failed in it."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial gets: CPU cores, a share of a GPU, torch threads, and its share of so much GPU memory."""

    cpus: float
    gpus: float
    threads: int
    vram_gb: float | None = None


def connect(address: str | None) -> str | None:
    """Start Ray here, or join the cluster at ``address``; returns the dashboard's address if there is one."""
    threading.Thread(target=warm_up, daemon=True).start()  # seconds that the start of Ray's processes hides
    own = {} if address else {"include_dashboard": True, "dashboard_host": "127.0.0.1"}
    # "local": with no address Ray joins whatever cluster was last started on this machine, or waits for a dead one.
    context = ray.init(address=address or "local", log_to_driver=False, **own)
    url = context.dashboard_url
    return f"http://{url}" if url else None


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
    """
    line = _Line(conductor, _packer(conductor, settings, resources, cache))
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
    Tuner(
        trainable,
        tune_config=TuneConfig(
            num_samples=-1,
            search_alg=_Searcher(line, resources.gpus),
            scheduler=_Scheduler(line),
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
            callbacks=[_Callback(line)],
        ),
    ).fit()


def _packer(conductor: Conductor, settings: SearchSettings, resources: Resources, cache: Path) -> Packer | None:
    """Where shares are left to us and there is a GPU; else each trial gets that of ``resources``."""
    if settings.gpus_per_trial != "auto" or not resources.gpus:
        return None
    gpu = read_gpu()
    budget_gb = resources.vram_gb or (gpu.total_gb if gpu is not None else 0.0)
    gpus = float(ray.cluster_resources().get("GPU", 1.0))
    return Packer(conductor.table, MemoryBook(cache), budget_gb=budget_gb, gpus=gpus)


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
        from tune.worker import Worker

        self._settings, self._folder, self._cache = settings, folder, cache
        self._failed = False
        self._worker = Worker(
            data,
            threads=resources.threads,
            vram_gb=resources.vram_gb,
            share=config[GPUS] or 1.0,
            reports=reports,
        )
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        from tune.worker import KEPT_LIMIT_MB

        kept_mb = self._worker.release()
        if self._failed:
            raise WorkerSpentError("the trial before failed in it")
        if kept_mb > KEPT_LIMIT_MB:
            raise WorkerSpentError(f"{kept_mb:.0f} MB of GPU memory stayed behind")
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        from tune.worker import UnwritableError

        try:
            return {OUTCOME: "measured", "report": self._worker.epoch().model_dump_json()}
        except UnwritableError as error:
            return {OUTCOME: "unwritable", "reason": str(error), "needed_bytes": error.needed_bytes}
        except InfeasibleError as error:
            return {OUTCOME: "infeasible", "reason": str(error)}
        except Exception as error:  # noqa: BLE001  (the trial boundary: the journal keeps it, the search goes on)
            traceback.print_exc()
            self._failed = True
            return {OUTCOME: "failed", "reason": f"{type(error).__name__}: {error}"}

    def cleanup(self) -> None:
        self._worker.release()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the worker keeps its own checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: a trial is resumed by its worker."""

    def _begin(self, config: dict[str, Any]) -> None:
        from tune.worker import Assignment

        self._worker.begin(
            Assignment(
                config=TrainConfig.model_validate_json(config["config"]),
                metric=self._settings.metric,
                after_epoch=config["after_epoch"],
                folder=trial_folder(self._folder, config[TRIAL]),
                cache=self._cache,
                judged_after=judged_epochs(self._settings),
            )
        )


class _Line:
    """The adapters' line to the conductor.

    Ray pickles its searcher, scheduler and callbacks into snapshots of its own; nobody reads them, because a search is
    resumed from the journal, so the line is left out.
    """

    def __init__(self, conductor: Conductor | None, packer: Packer | None) -> None:
        self._conductor, self.packer = conductor, packer

    def __call__(self) -> Conductor:
        if self._conductor is None:
            raise RuntimeError("this adapter was restored from a snapshot of Ray's; use --resume")
        return self._conductor

    def __reduce__(self) -> tuple[type[_Line], tuple[None, None]]:
        return _Line, (None, None)


class _Searcher(Searcher):  # type: ignore[misc]
    """Asks the conductor for the next trial."""

    def __init__(self, line: _Line, share: float) -> None:
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
    """Asks the conductor whether a trial goes on."""

    def __init__(self, line: _Line) -> None:
        super().__init__()
        self._line = line

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = trial.config[TRIAL]
        if result[OUTCOME] == "infeasible":
            self._line().infeasible(number, result["reason"])
        elif result[OUTCOME] == "failed":
            self._line().failed(number, result["reason"])
        elif result[OUTCOME] == "unwritable":
            self._line().unwritable(number, result["reason"], needed_bytes=result["needed_bytes"])
        elif self._line().measured(number, EpochReport.model_validate_json(result["report"])):
            return str(FIFOScheduler.CONTINUE)
        return str(FIFOScheduler.STOP)


class _Callback(Callback):  # type: ignore[misc]
    """Tells the conductor which worker took a trial, and which were lost."""

    def __init__(self, line: _Line) -> None:
        self._line = line

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        worker = trial.temporary_state.ray_actor  # its process is not known before the first result
        self._line().started(trial.config[TRIAL], worker=f"actor {worker._actor_id.hex()[:12]}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        message = str(trial.get_error())
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        spent = [line for line in lines if SPENT in line]
        if spent:
            self._line().worker_spent(trial.config[TRIAL], spent[-1].partition(": ")[2])
        else:
            self._line().failed(trial.config[TRIAL], lines[-1] if lines else "the worker was lost")


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
    Ray ends the whole process, so what is left is collected first and nothing meanwhile.
    """
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()
