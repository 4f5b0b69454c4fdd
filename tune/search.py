"""Command line of the search: ``python tune/search.py --trials 30``. Thin; every part has its own module.

flags -> sitting (settings, data, journal) -> conductor -> engine (Ray)
                                              journal -> progress, MLflow mirror, report
"""

from __future__ import annotations

import argparse
import errno
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vqc.errors import SearchError, UserError
from vqc.shell import as_typed, runnable

if TYPE_CHECKING:
    from tune.execution.controller import Conductor
    from tune.execution.session import Sitting
    from tune.reporting.mlflow_sync import Mirror

__all__ = ["main"]

INTERRUPTED = 130
MOST_TRIALS = 1000  # of a search that is bounded by hours alone
DRAIN_TIMEOUT_S = 60.0
LEAST_BYTES = 2**20  # on the disk, or a search does not begin
UNWRITABLE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, getattr(errno, "EDQUOT", errno.ENOSPC)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run or resume a search; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        sitting = _prepared(arguments, argv)
        if arguments.dry_run:
            return _rehearse(sitting)
        with _only_one(sitting.folder):
            return _run(sitting, arguments)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        where = error.filename or arguments.results.resolve()
        sys.stderr.write(f"{where}: cannot be written: {error.strerror}\n")
        return SearchError.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(sitting: Sitting, arguments: argparse.Namespace) -> int:
    """Open the journal, show the plan, search, and leave everything written."""
    from tune.execution.controller import Conductor
    from tune.execution.disk_retry import write_probe
    from tune.execution.log_redirect import quiet_environment
    from tune.execution.resources import resources_of, this_machine
    from tune.paths import cache_folder, journal_of
    from tune.policy.portfolio import renew
    from tune.reporting import console as briefing
    from tune.reporting.live_display import Progress
    from tune.reporting.mlflow_sync import Mirror
    from vqc.tracking.mlflow_client import default_uri

    results, settings = arguments.results.resolve(), sitting.settings
    uri = arguments.mlflow or default_uri(results)
    path = journal_of(sitting.folder)
    with ExitStack() as stack:
        stack.enter_context(_terminal_may_close())
        write_probe(sitting.folder, LEAST_BYTES)
        terminal = stack.enter_context(_terminal(sitting.folder))
        for remark in sitting.remarks:
            terminal.write(f"{remark}\n")
        mirror = Mirror(path, uri, artifacts=results / "mlartifacts")
        quiet_environment(cluster=arguments.address is not None)  # before Ray is imported
        from tune.execution import ray_backend as engine

        links = {"mlflow": _mlflow_command(uri), "dashboard": engine.connect(arguments.address) or ""}
        journal = sitting.open_journal()  # not before: a cluster that cannot be joined leaves no search behind
        stack.callback(journal.close)
        if journal.torn_bytes:
            terminal.write(f"The last line of {path} was torn, {journal.torn_bytes} bytes: it never counted.\n")
        briefing.show(briefing.plan(settings, sitting.data.summary(), links), terminal)
        conductor = Conductor(journal, sitting.table, settings=settings, folder=sitting.folder)
        stack.enter_context(_signals(conductor))
        progress = Progress(path, stream=terminal, extras=_extras(mirror), trouble=lambda: conductor.trouble)
        mirror.start()  # not before Ray: a new database takes MLflow seconds, which the first worker's start hides
        progress.start()
        crashed = True
        try:
            engine.run(
                conductor,
                sitting.data,
                settings=settings,
                resources=resources_of(settings, engine.machines() if arguments.address else this_machine()),
                folder=sitting.folder,
                cache=cache_folder(results),
            )
            crashed = False
        finally:
            conductor.close(crashed=crashed)
            progress.stop()
            mirror.finish(_reported(path, sitting.folder, terminal))
            briefing.show(briefing.summary(sitting.table, sitting.folder), terminal)
            if not crashed:
                with suppress(OSError):
                    renew(results)  # what was learnt here opens the next search
            _drain(mirror, sitting.folder, terminal)
            engine.disconnect()  # last: whatever goes wrong in it, everything is written and said
            shutil.rmtree(sitting.folder / "ray", ignore_errors=True)
    if conductor.fault is not None:
        raise conductor.fault
    return INTERRUPTED if conductor.interrupted else 0


def _drain(mirror: Mirror, folder: Path, terminal: TextIO) -> None:
    """Let the mirror catch up; where it cannot in time, say how it can later."""
    state = mirror.stop(DRAIN_TIMEOUT_S)
    if state.behind:
        terminal.write(f"MLflow: {state}\n  next: {as_typed('python -m tune.reporting.mlflow_sync')} {folder.name}\n")


def _reported(journal: Path, folder: Path, terminal: TextIO) -> list[Path]:
    """Write the report; its files, or none and a sentence where the disk is full: it can be written at any time."""
    from tune.reporting.html_report import write_report

    try:
        return [write_report(journal, folder), folder / "trials.csv"]
    except (OSError, SearchError) as error:
        terminal.write(
            f"No report: {error}\n  next: {as_typed('python -m tune.reporting.html_report')} {folder.name}\n"
        )
        return []


def _rehearse(sitting: Sitting) -> int:
    """Measure what an epoch takes, print the plan with its hours, and write nothing."""
    import torch

    from tune.dry_run import epoch_costs
    from tune.execution.resources import resources_of, this_machine
    from tune.reporting import console as briefing
    from tune.reporting.eta import whole_search

    torch.set_num_threads(resources_of(sitting.settings, this_machine()).threads)
    for remark in sitting.remarks:
        sys.stdout.write(f"{remark}\n")
    costs = list(
        epoch_costs(
            sitting.settings,
            sitting.data,
            on_size=lambda size: sys.stderr.write(f"Measuring an epoch at {size} px.\n"),
        )
    )
    if all(cost.epoch_s is None for cost in costs):
        tried = ", ".join(f"{cost.image_size} px" for cost in costs)
        raise SearchError(
            f"no image size of the space fits into memory: tried {tried}",
            command="python tune/search.py --dry-run --config FILE",
        )
    expected = whole_search(sitting.settings, costs)
    plan = briefing.plan(sitting.settings, sitting.data.summary(), {}, costs=costs, expected=expected)
    briefing.show(plan, sys.stdout)
    return 0


def _share(text: str) -> float | str:
    """A share of a GPU, or 'auto'."""
    return text if text == "auto" else float(text)


def _prepared(arguments: argparse.Namespace, argv: Sequence[str] | None) -> Sitting:
    from datetime import datetime

    from tune.execution.session import begin, resume
    from tune.paths import new_name
    from vqc.tracking.mlflow_client import redacted

    results = arguments.results.resolve()
    words = [redacted(word) for word in (sys.argv[1:] if argv is None else argv)]
    command = runnable(shlex.join(["python", "tune/search.py", *words]))
    if arguments.resume:
        return resume(
            name=arguments.name, results=results, trials=arguments.trials, hours=arguments.hours, command=command
        )
    return begin(
        name=arguments.name or new_name(datetime.now()),
        results=results,
        data_folder=arguments.data,
        config=arguments.config,
        flags=_settings_of(arguments),
        command=command,
        warm_start=arguments.warm_start,
    )


def _settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags that are settings, by their path in the settings; those not given are left out."""
    given = {
        "trials": MOST_TRIALS if arguments.hours and arguments.trials is None else arguments.trials,
        "hours": arguments.hours,
        "policy": arguments.policy,
        "confirm": arguments.confirm,
        "seed": arguments.seed,
        "gpus_per_trial": arguments.gpus_per_trial,
        "vram_gb": arguments.vram_gb,
        "concurrent": arguments.concurrent,
        "train.model": arguments.model,
        "train.num_epochs": arguments.epochs,
    }
    return {key: value for key, value in given.items() if value is not None}


def _extras(mirror: Mirror) -> Callable[[], Mapping[str, str]]:
    """What the terminal shows beside the journal's figures."""
    from vqc.hardware.gpu import read_gpu

    def read() -> dict[str, str]:
        gpu = read_gpu()
        shown = {"MLflow": str(mirror.state)}
        if gpu is not None:
            shown["GPU"] = f"{gpu.used_gb:.1f} of {gpu.total_gb:.1f} GB"
            if gpu.temperature_c is not None:
                shown["GPU"] += f", {gpu.temperature_c:.0f} °C"
        return shown

    return read


def _mlflow_command(uri: str) -> str:
    from vqc.tracking.mlflow_client import redacted

    return as_typed(f"mlflow ui --backend-store-uri {redacted(uri)}")


@contextmanager
def _terminal(folder: Path) -> Iterator[TextIO]:
    from tune.execution.log_redirect import library_noise_to

    folder.mkdir(parents=True, exist_ok=True)
    with library_noise_to(folder / "search.log") as terminal:
        yield terminal


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the search's lock; the system lets go of it whatever happens to this process."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise SearchError(
            f"{folder}: another process is running this search", command="python tune/search.py --name OTHER"
        ) from None
    with lock:
        yield


@contextmanager
def _terminal_may_close() -> Iterator[None]:
    """A closed terminal ends neither this search nor the processes that it starts from here on."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def _signals(conductor: Conductor) -> Iterator[None]:
    """Once: the running epoch is finished and saved. Twice: at once."""

    def on_signal(number: int, frame: object) -> None:
        if conductor.interrupted:
            raise KeyboardInterrupt
        conductor.interrupted = True

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Search for the best detector on the data.")
    parser.add_argument("--trials", type=int, metavar="N", help="configurations to try (30)")
    parser.add_argument("--hours", type=float, metavar="H", help="search for so long, however many trials that is")
    parser.add_argument(
        "--dry-run", action="store_true", help="measure an epoch, print the plan and its hours, and stop"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with train/, val/ and test/ (data, or the sample)"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="search settings (configs/search.json, or search_cpu.json)"
    )
    parser.add_argument("--name", metavar="NAME", help="of the folder under results/ (the date and time)")
    parser.add_argument("--resume", action="store_true", help="go on with the search NAME, or with the latest")
    parser.add_argument("--seed", type=int, metavar="N", help="of all random choices (0)")
    parser.add_argument("--model", metavar="NAME", help="detector; 'vqc models' lists them")
    parser.add_argument("--epochs", type=int, metavar="N", help="of a full training")
    parser.add_argument("--policy", metavar="NAME", help="race, or to compare with: random, i-epoch, stock (race)")
    parser.add_argument("--warm-start", metavar="NAME", help="try first what was best in that search on the same data")
    parser.add_argument("--confirm", type=int, metavar="N", help="best configurations to run again at the end (2)")
    parser.add_argument("--gpus-per-trial", type=_share, metavar="SHARE", help="0.5 runs two on one GPU, or auto (1)")
    parser.add_argument("--vram-gb", type=float, metavar="GB", help="GPU memory for all trials together (what it has)")
    parser.add_argument("--concurrent", type=int, metavar="N", help="trials at a time (1)")
    parser.add_argument("--mlflow", metavar="URI", help="tracking server (results/mlflow.db)")
    parser.add_argument("--address", metavar="HOST:PORT", help="of a Ray cluster to join")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="where results go (results)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
