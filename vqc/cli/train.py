"""``vqc train``: one detector, one configuration, one folder under ``results/``."""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vqc.data.dataset import Data
    from vqc.tracking.mlflow_client import RunStatus
    from vqc.training.run import Run

INTERRUPTED = 130
DRAIN_TIMEOUT_S = 60.0


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="configs/train_config.json; without a GPU train_config_cpu.json"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="photographs with train/ and val/, or an export (data, or the sample)"
    )
    parser.add_argument("--gpu", type=int, metavar="N", help="index of the GPU (0)")
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="of the CPU (those of the start; without a GPU one less than there are cores, and all of them are faster "
        "where nothing else runs)",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of the configuration's")
    parser.add_argument("--name", metavar="NAME", help="of the folder under results/ (the date and time)")
    parser.add_argument("--resume", action="store_true", help="continue the run NAME, or the latest")
    parser.add_argument(
        "--max-temperature", type=float, metavar="C", help="wait between epochs while the GPU is at C degrees or above"
    )
    parser.add_argument("--profile", action="store_true", help="write a profiler trace and figures for TensorBoard")
    parser.add_argument("--mlflow", metavar="URI", help="tracking server (results/mlflow.db)")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="where results go (results)"
    )


def run(args: argparse.Namespace) -> int:
    """Train a new run, or what is left of one; returns the exit status."""
    import torch

    from vqc.hardware.gpu import choose_gpu
    from vqc.hardware.memory import cap_vram
    from vqc.training.run import run_lock

    gpu, remark = choose_gpu(args.gpu)
    if remark:
        print(remark)
    _check_threads(args.threads)
    if gpu is not None:  # or Windows would lend system memory, slowly, instead of reporting that the GPU's is full
        cap_vram(None, share=1.0, device=torch.device("cuda", gpu))
    run, data = _resumed(args, gpu) if args.resume else _started(args, gpu)
    run = replace(run, threads=args.threads)
    threads = args.threads or run.info.threads
    if threads is not None or gpu is None:
        torch.set_num_threads(_threads(threads, available=torch.get_num_threads()))
    with run_lock(run):
        return _train(run, data, gpu, args)


def _check_threads(asked: int | None) -> None:
    from vqc.errors import ConfigError

    cores = os.cpu_count() or 1
    if asked is not None and not 1 <= asked <= cores:
        raise ConfigError("command line", [f"--threads: got {asked}, expected 1 to {cores}, which is every core"])


def _threads(asked: int | None, *, available: int) -> int:
    """Two threads that share a core with another process wait for each other: one core stays free, unless asked for.

    A run that is resumed on another machine may have asked for more cores than this one has.
    """
    cores = os.cpu_count() or 1
    return max(1, min(available, cores - 1)) if asked is None else min(asked, cores)


def _started(args: argparse.Namespace, gpu: int | None) -> tuple[Run, Data]:
    """A new run; all mistakes of the user are found before its folder is made."""
    from vqc.config import TrainConfig, load_record, parse_record, shipped_settings
    from vqc.data.dataset import load_with_warnings
    from vqc.data.findings import warning_lines
    from vqc.data.importers.choose import choose_data
    from vqc.hardware.precision import choose_precision
    from vqc.models.pretrained import resolve_weights
    from vqc.models.registry import detector_input
    from vqc.results import check_name, new_name
    from vqc.shell import short_path
    from vqc.training.run import start_run

    name = args.name or new_name("train-")
    check_name(name)
    path = args.config or shipped_settings("train_config.json" if gpu is not None else "train_config_cpu.json")
    if args.config is None and gpu is None:
        print(f"The CPU configuration is used ({short_path(path)}).")
    config = load_record(TrainConfig, path)
    if args.epochs is not None:
        config = parse_record(TrainConfig, {**config.model_dump(), "num_epochs": args.epochs}, source="--epochs")
    choose_precision(config, gpu=gpu)
    folder, remark = choose_data(args.data, args.results)
    data, findings = load_with_warnings(folder, inputs=[detector_input(config)])
    config, weights = resolve_weights(config, [category.name for category in data.categories])
    for line in filter(None, (remark, *warning_lines(findings), f"The detector starts from {weights}.")):
        print(line)
    command = shlex.join(["vqc", "train", *_typed_flags(args)])
    return start_run(args.results, name, config=config, data=data, command=command, threads=args.threads), data


def _resumed(args: argparse.Namespace, gpu: int | None) -> tuple[Run, Data]:
    """The named run, or the latest, with its own configuration, data and threads."""
    from vqc.data.dataset import load_data
    from vqc.errors import ConfigError
    from vqc.hardware.precision import choose_precision
    from vqc.training.run import find_run

    given = [flag for flag in ("config", "data", "epochs") if getattr(args, flag) is not None]
    if given:
        expected = "expected it without --resume: a run continues with its own configuration and data"
        raise ConfigError("command line", [f"--{flag}: {expected}" for flag in given])
    run = find_run(args.results, args.name)
    choose_precision(run.config, gpu=gpu)
    print(f"Resuming '{run.info.name}': {len(run.reports())} of {run.config.num_epochs} epochs are done.")
    return run, load_data(Path(run.info.data["root"]))


def _typed_flags(args: argparse.Namespace) -> list[str]:
    """The flags that were given, without secrets."""
    from vqc.tracking.mlflow_client import redacted

    words = []
    for flag in ("config", "data", "gpu", "threads", "epochs", "name", "max_temperature"):
        if (value := getattr(args, flag)) is not None:
            words += [f"--{flag.replace('_', '-')}", str(value)]
    return words + (["--mlflow", redacted(args.mlflow)] if args.mlflow else [])


def _train(run: Run, data: Data, gpu: int | None, args: argparse.Namespace) -> int:
    """Train what is left, with MLflow beside it, and print the summary."""
    from vqc.reporting.live_display import run_summary
    from vqc.shell import as_typed
    from vqc.tracking.mlflow_client import default_artifacts, default_uri, redacted
    from vqc.tracking.mlflow_run import RunMirror

    uri = args.mlflow or default_uri(args.results)
    mirror = RunMirror(run, uri, artifacts=default_artifacts(args.results))
    mirror.start()
    print(f"Run {run.folder}; for MLflow, in another terminal:")
    print(f"  {as_typed(f'mlflow ui --backend-store-uri {redacted(uri)}')}")
    status: RunStatus = "FAILED"
    try:
        status = "FINISHED" if _train_epochs(run, data, gpu, args) else "KILLED"
    except KeyboardInterrupt:
        status = "KILLED"
    except Exception as error:
        run.log(f"ended: {type(error).__name__}: {error}")
        raise
    finally:
        behind = mirror.stop(status, DRAIN_TIMEOUT_S)
    print(run_summary(run))
    if behind:
        print(f"MLflow is behind: {behind}\n  next: {as_typed(run.resume_command)}")
    return 0 if status == "FINISHED" else INTERRUPTED


def _train_epochs(run: Run, data: Data, gpu: int | None, args: argparse.Namespace) -> bool:
    """Train epoch by epoch; True when all are done, False when the user stopped it."""
    import torch

    from vqc.hardware.gpu import gpu_uuid
    from vqc.hardware.thermal import ThermalGuard
    from vqc.reporting.live_display import TrainDisplay, epoch_line
    from vqc.results import cache_folder
    from vqc.tracking.profiling import Profiler
    from vqc.training.run import train_run

    reports = run.reports()
    uuid = None if gpu is None else gpu_uuid(torch.device("cuda", gpu))
    run.log(f"{'resumed' if reports else 'started'}: {run.config.model}, {run.config.num_epochs} epochs, {data.root}")

    def say(text: str) -> None:
        run.log(text)
        display.say(text)

    def on_step(step: int, steps: int) -> None:
        display.on_step(step, steps)
        profiler.on_step()

    with ExitStack() as stack:
        stopping = stack.enter_context(_stop_signals())
        profiler = stack.enter_context(Profiler(run.profile if args.profile else None))
        display = stack.enter_context(
            TrainDisplay(
                run.info.name, run.config, reports=reports, gpu=uuid, stream=sys.stdout, stopping=stopping.is_set
            )
        )
        guard = ThermalGuard(uuid=uuid, limit_c=args.max_temperature, pause=stopping.wait, say=say)
        for report in train_run(run, data, cache=cache_folder(args.results), gpu=gpu, on_step=on_step):
            reports.append(report)
            run.log(epoch_line(reports, run.config))
            display.on_epoch(report)
            profiler.on_epoch(report)
            if report.epoch < run.config.num_epochs:
                guard.after_epoch(None if report.machine is None else report.machine.gpu_temperature_c)
                if stopping.is_set():
                    run.log("stopped by the user")
                    return False
    run.log("completed")
    return True


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """The first Ctrl-C lets the running epoch finish and be saved; the second ends at once. A closed terminal does not
    end a training.
    """
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
