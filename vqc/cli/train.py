"""``vqc train``: one detector, one configuration, one folder under ``results/``.

configuration + data -> run (folder) -> ``fit()`` -> reports, checkpoints, log
                                                  -> terminal, MLflow (followers; neither can stop a training)
"""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vqc.config import TrainConfig
    from vqc.data.dataset import Data
    from vqc.epoch import EpochReport
    from vqc.errors import UserError
    from vqc.reporting.live_display import TrainProgress
    from vqc.tracking.mlflow_client import RunStatus
    from vqc.tracking.mlflow_run import RunMirror
    from vqc.training.run import Run

__all__ = ["add_flags", "run"]

INTERRUPTED = 130
DRAIN_TIMEOUT_S = 60.0
PROFILE = "profile"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="configs/train_config.json; without a GPU train_config_cpu.json"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with train/ and val/ (data, or the sample)")
    parser.add_argument("--gpu", type=int, metavar="N", help="index of the GPU (0)")
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of the configuration's")
    parser.add_argument("--name", metavar="NAME", help="of the folder under results/ (the date and time)")
    parser.add_argument("--resume", action="store_true", help="go on with the run NAME, or with the latest")
    parser.add_argument(
        "--max-temperature", type=float, metavar="C", help="wait between epochs while the GPU is at C degrees or above"
    )
    parser.add_argument("--profile", action="store_true", help="write a profiler trace and figures for TensorBoard")
    parser.add_argument("--mlflow", metavar="URI", help="tracking server (results/mlflow.db)")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="where results go (results)"
    )


def run(args: argparse.Namespace) -> int:
    from vqc.training.run import only_one

    sitting = _resumed(args) if args.resume else _begun(args)
    for remark in sitting.remarks:
        print(remark)
    with only_one(sitting.run):
        return _train(sitting, args)


@dataclass(frozen=True, kw_only=True)
class _Sitting:
    """A run that is about to train, with all that it needs; ``remarks``: sentences to read before."""

    run: Run
    data: Data
    gpu: int | None
    remarks: tuple[str, ...]


def _begun(args: argparse.Namespace) -> _Sitting:
    """A new run; everything that a user can get wrong is found before its folder is made."""
    from datetime import datetime

    from vqc.config import TrainConfig, load_record, parse_record, shipped_settings
    from vqc.data.dataset import load_with_warnings
    from vqc.data.findings import warning_lines
    from vqc.data.synthetic import choose_data
    from vqc.hardware.precision import choose_precision
    from vqc.models.pretrained import resolve_weights
    from vqc.results import check_name, new_name
    from vqc.shell import short_path
    from vqc.training.run import begin_run

    name = args.name or new_name(datetime.now(), "train-")
    check_name(name)
    gpu, remarks = _choose_gpu(args.gpu)
    path = args.config or shipped_settings("train_config.json" if gpu is not None else "train_config_cpu.json")
    if args.config is None and gpu is None:
        remarks.append(f"The CPU configuration is used ({short_path(path)}).")
    config = load_record(TrainConfig, path)
    if args.epochs is not None:
        config = parse_record(TrainConfig, {**config.model_dump(), "num_epochs": args.epochs}, source="--epochs")
    choose_precision(config, gpu=gpu)
    folder, said = choose_data(args.data, args.results)
    data, findings = load_with_warnings(folder, image_sizes=[config.image_size])
    config, weights = resolve_weights(config)
    remarks += [said, *warning_lines(findings), f"The detector starts from {weights}."]
    command = shlex.join(["vqc", "train", *_words(args)])
    run = begin_run(args.results, name, config=config, data=data, command=command)
    return _Sitting(run=run, data=data, gpu=gpu, remarks=tuple(filter(None, remarks)))


def _resumed(args: argparse.Namespace) -> _Sitting:
    """The named run, or the latest, with its own configuration and data."""
    from vqc.data.dataset import load_data
    from vqc.errors import ConfigError
    from vqc.hardware.precision import choose_precision
    from vqc.training.run import find_run

    given = [flag for flag in ("config", "data", "epochs") if getattr(args, flag) is not None]
    if given:
        expected = "expected it without --resume: a run goes on with its own configuration and data"
        raise ConfigError("command line", [f"--{flag}: {expected}" for flag in given])
    run = find_run(args.results, args.name)
    gpu, remarks = _choose_gpu(args.gpu)
    choose_precision(run.config, gpu=gpu)
    done = len(run.reports())
    remarks.append(f"Going on with '{run.info.name}': {done} of {run.config.num_epochs} epochs are done.")
    return _Sitting(run=run, data=load_data(Path(run.info.data["root"])), gpu=gpu, remarks=tuple(remarks))


def _choose_gpu(asked: int | None) -> tuple[int | None, list[str]]:
    """The CUDA device to train on, None for the CPU, and what the user should know of the choice.

    Raises:
        ConfigError: there are GPUs, but not the one asked for.
    """
    import os

    import torch

    from vqc.errors import ConfigError
    from vqc.hardware.gpu import gpu_count

    count = torch.cuda.device_count()
    if count:
        if asked is not None and not 0 <= asked < count:
            raise ConfigError("--gpu", [f"got {asked}, expected 0 to {count - 1}"])
        return asked or 0, []
    # Two threads that share a core with something else wait for each other; one thread less has a core to itself.
    torch.set_num_threads(min(torch.get_num_threads(), max(1, (os.cpu_count() or 1) - 1)))
    if gpu_count():
        return None, [
            "There is a GPU, but this build of torch cannot use it, so the CPU trains.\n"
            "  next: uv pip install --reinstall torch torchvision --torch-backend=auto"
        ]
    return None, ["No GPU found: the CPU trains" + (f" instead of GPU {asked}." if asked is not None else ".")]


def _words(args: argparse.Namespace) -> list[str]:
    """The flags that were given, without secrets."""
    from vqc.tracking.mlflow_client import redacted

    words = []
    for flag in ("config", "data", "gpu", "epochs", "name", "max_temperature"):
        if (value := getattr(args, flag)) is not None:
            words += [f"--{flag.replace('_', '-')}", str(value)]
    return words + (["--mlflow", redacted(args.mlflow)] if args.mlflow else [])


def _train(sitting: _Sitting, args: argparse.Namespace) -> int:
    """Train what is left, tell everyone, and leave everything written."""
    from vqc.shell import as_typed
    from vqc.tracking.mlflow_client import default_uri, redacted
    from vqc.tracking.mlflow_run import RunMirror

    run, uri = sitting.run, args.mlflow or default_uri(args.results)
    mirror = RunMirror(run, uri, artifacts=args.results / "mlartifacts")
    mirror.start()
    print(
        f"Run {run.folder}; MLflow, in another terminal: {as_typed(f'mlflow ui --backend-store-uri {redacted(uri)}')}"
    )
    status: RunStatus = "FAILED"
    try:
        status = "FINISHED" if _epochs(sitting, args, mirror) else "KILLED"
    except KeyboardInterrupt:
        status = "KILLED"
    except Exception as error:
        run.log(f"ended: {type(error).__name__}: {error}")
        if (mendable := _mendable(error, run.config)) is not None:
            raise mendable from None
        raise
    finally:
        behind = mirror.stop(status, DRAIN_TIMEOUT_S)
    print(_summary(run))
    if behind:
        print(f"MLflow is behind: {behind}\n  next: {as_typed(f'vqc train --name {run.info.name} --resume')}")
    return 0 if status == "FINISHED" else INTERRUPTED


def _epochs(sitting: _Sitting, args: argparse.Namespace, mirror: RunMirror) -> bool:
    """Train epoch by epoch; True when all are done, False when the user asked to stop."""
    import torch

    from vqc.hardware.gpu import gpu_uuid
    from vqc.hardware.memory import cap_vram
    from vqc.reporting.live_display import TrainProgress, epoch_line
    from vqc.results import cache_folder
    from vqc.training.run import epochs_of

    run, gpu = sitting.run, sitting.gpu
    uuid = None if gpu is None else gpu_uuid(torch.device("cuda", gpu))
    if gpu is not None:  # or Windows would lend system memory, slowly, instead of saying that it is full
        cap_vram(None, share=1.0, device=torch.device("cuda", gpu))
    reports = run.reports()
    run.log(
        f"{'resumed' if reports else 'began'}: {run.config.model}, {run.config.num_epochs} epochs, {sitting.data.root}"
    )
    with ExitStack() as stack:
        stopping = stack.enter_context(_signals())
        progress = TrainProgress(
            run.info.name, run.config, reports=reports, gpu=uuid, stream=sys.stdout, stopping=stopping.is_set
        )
        on_step, on_report = _profiling(run, progress.on_step, stack) if args.profile else (progress.on_step, None)
        stack.enter_context(progress)
        guard = _Guard(run, progress, stopping, uuid=uuid, limit_c=args.max_temperature)
        for report in epochs_of(run, sitting.data, cache=cache_folder(args.results), gpu=gpu, on_step=on_step):
            reports.append(report)
            run.log(epoch_line(reports, run.config))
            progress.on_epoch(report)
            mirror.notify()
            if on_report is not None:
                on_report(report)
            if report.epoch < run.config.num_epochs:
                guard.after(report)
                if stopping.is_set():
                    run.log("stopped by the user")
                    return False
    run.log("completed")
    return True


def _profiling(
    run: Run, on_step: Callable[[int, int], None], stack: ExitStack
) -> tuple[Callable[[int, int], None], Callable[[EpochReport], None]]:
    """``on_step`` with the profiler behind it, and what writes each report for TensorBoard."""
    from vqc.tracking.profiling import profiled, scalars

    trace = stack.enter_context(profiled(run.folder / PROFILE))

    def both(step: int, steps: int) -> None:
        on_step(step, steps)
        trace()

    return both, stack.enter_context(scalars(run.folder / PROFILE))


class _Guard:
    """Warns when the GPU runs hot, and waits between epochs where the user set a limit."""

    def __init__(
        self, run: Run, progress: TrainProgress, stopping: threading.Event, *, uuid: str | None, limit_c: float | None
    ) -> None:
        self._run, self._progress, self._stopping = run, progress, stopping
        self._uuid, self._limit_c, self._warned = uuid, limit_c, False

    def after(self, report: EpochReport) -> None:
        """Look at the epoch's highest temperature, then wait if need be."""
        from vqc.hardware.thermal import HOT_C, cool_down, heat_warning

        peak_c = None if report.machine is None else report.machine.gpu_temperature_c
        warning = heat_warning(peak_c, warned=self._warned)
        if warning is not None:
            self._tell(warning)
        self._warned = peak_c is not None and peak_c > HOT_C
        if self._limit_c is not None and self._uuid is not None:
            waited_s = cool_down(
                self._temperature_c,
                limit_c=self._limit_c,
                pause=self._stopping.wait,
                on_wait=lambda at_c: self._tell(f"The GPU is at {at_c:.0f} °C: waiting until it is cooler."),
            )
            if waited_s:
                self._tell(f"Waited {waited_s:.0f} s for the GPU to cool.")

    def _temperature_c(self) -> float | None:
        from vqc.hardware.gpu import read_gpu

        reading = read_gpu(uuid=self._uuid)
        return None if reading is None else reading.temperature_c

    def _tell(self, text: str) -> None:
        self._run.log(text)
        self._progress.say(text)


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Once: the running epoch is finished and saved. Twice: at once. A closed terminal does not end a training."""
    stopping = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    if hasattr(signal, "SIGHUP"):
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _mendable(error: Exception, config: TrainConfig) -> UserError | None:
    """What the user can change when a configuration cannot work; None where it is not the configuration."""
    import torch

    from vqc.errors import ConfigError, NonFiniteLossError

    if isinstance(error, NonFiniteLossError):
        return ConfigError("learning_rate", [f"{error}; expected a lower one"])
    if isinstance(error, torch.OutOfMemoryError):
        size = f"{config.image_size[0]}x{config.image_size[1]}"
        asked = f"got {config.batch_size} images of {size}, which the GPU's memory does not hold"
        return ConfigError("batch_size", [f"{asked}; expected fewer, with more gradient_accumulation_steps"])
    return None


def _summary(run: Run) -> str:
    """What came of it: the best epoch, the files, the next command."""
    from vqc.reporting.terminal import duration
    from vqc.shell import as_typed
    from vqc.training.run import METRIC, best_of

    reports = run.reports()
    best, name, asked = best_of(reports), run.info.name, run.config.num_epochs
    lines = [""]
    if best is None:
        lines.append("No epoch was finished.")
    else:
        scores = best.scores
        figures = {METRIC.upper(): scores.ap50, "AP": scores.ap, "AP75": scores.ap75, "AR": scores.ar}
        told = ", ".join(f"{label} {value:.3f}" for label, value in figures.items() if value is not None)
        spent_s = sum(report.train_s + report.eval_s for report in reports)
        lines += [
            f"Best on val: {told or 'cannot be told, val has no boxes'}, after epoch {best.epoch} of {asked}",
            f"  time   {duration(spent_s)}",
            f"  model  {run.best}",
            f"  log    {run.folder / 'training.log'}",
        ]
    if (run.folder / PROFILE).is_dir():
        lines.append(f"  profile, in another terminal: {as_typed(f'tensorboard --logdir {run.folder / PROFILE}')}")
    if len(reports) < asked:
        lines.append(f"go on with: {as_typed(f'vqc train --name {name} --resume')}")
    else:
        data = Path(run.info.data["root"])
        lines.append(f"next: {as_typed(f'vqc evaluate --model {run.best} --data {data}')}")
    return "\n".join(lines)
