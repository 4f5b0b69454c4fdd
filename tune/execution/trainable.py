"""Ray's side of a worker: a Trainable that turns each step of a trial into one outcome."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Trainable

from tune.execution.outcomes import DataChanged, Failed, Infeasible, Measured, Outcome, Unwritable
from tune.execution.resources import Resources
from tune.paths import trial_folder
from tune.policy.rungs import rung_epochs
from tune.settings import SearchSettings
from vqc.config import TrainConfig
from vqc.data.dataset import Data
from vqc.errors import DataError, InfeasibleError, VqcError

if TYPE_CHECKING:
    from tune.execution.worker import Reports, Worker

TRIAL, AFTER_EPOCH, CONFIG, GPUS = "trial", "after_epoch", "config", "gpus"  # keys of a Ray trial's configuration
OUTCOME = "outcome"  # key of a Ray result


class WorkerRefusedError(VqcError):
    """A reused worker refuses its next trial: memory stayed behind, or the last trial failed in it."""


class TrialTrainable(Trainable):  # type: ignore[misc]
    """A worker process of Ray's, reused from trial to trial. Keeps its own checkpoints."""

    def setup(
        self,
        config: dict[str, Any],
        *,
        data: Data,
        settings: SearchSettings,
        resources: Resources,
        folder: Path,
        cache: Path,
        reports: Reports | None,
    ) -> None:
        # Nothing here may hang: a worker is watched from its first epoch on.
        self._data, self._settings, self._resources = data, settings, resources
        self._folder, self._cache, self._reports = folder, cache, reports
        self._worker: Worker | None = None
        self._next: dict[str, Any] | None = config
        self._failed = False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        from tune.execution.worker import KEPT_LIMIT_MB

        if self._failed:  # first: a GPU that failed refuses even to give memory back
            raise WorkerRefusedError("the trial before failed in it")
        kept_mb = self._worker.release() if self._worker is not None else 0.0
        if kept_mb > KEPT_LIMIT_MB:
            raise WorkerRefusedError(f"{kept_mb:.0f} MB of GPU memory stayed behind")
        self._next = new_config
        return True

    def step(self) -> dict[str, Any]:
        return {OUTCOME: self._outcome().model_dump_json()}

    def cleanup(self) -> None:
        if self._worker is not None:
            self._worker.release()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the worker keeps its own checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: a trial is resumed by its worker."""

    def _outcome(self) -> Outcome:
        from tune.execution.worker import UnwritableError

        try:
            return Measured(report=self._trial_worker().epoch())
        except UnwritableError as error:
            return Unwritable(reason=str(error), needed_bytes=error.needed_bytes)
        except InfeasibleError as error:
            return Infeasible(reason=str(error))
        except DataError as error:
            return DataChanged(reason=error.what)
        except Exception as error:  # noqa: BLE001  (the trial boundary: the journal keeps it, the search goes on)
            from vqc.hardware.memory import is_out_of_memory

            self._failed = True
            return Failed(
                reason=f"{type(error).__name__}: {error}".removesuffix(": "),
                out_of_memory=is_out_of_memory(error),
                traceback=traceback.format_exc(),
            )

    def _trial_worker(self) -> Worker:
        """The worker, with the trial that was given last."""
        from tune.execution.worker import Assignment, Worker

        config = self._next
        if self._worker is None:
            threads, vram_gb = self._resources.threads, self._resources.vram_gb
            share = (config or {}).get(GPUS, 0.0)
            self._worker = Worker(self._data, threads=threads, vram_gb=vram_gb, share=share, reports=self._reports)
        if config is not None:
            assignment = Assignment(
                config=TrainConfig.model_validate_json(config[CONFIG]),
                metric=self._settings.metric,
                after_epoch=config[AFTER_EPOCH],
                folder=trial_folder(self._folder, config[TRIAL]),
                cache=self._cache,
                decided_after=frozenset(rung_epochs(self._settings)),
                checkpoint_every_s=self._settings.checkpoint_every_s,
                max_temperature_c=self._settings.max_temperature_c,
            )
            self._worker.begin(assignment)
            self._next = None
        return self._worker
