"""Command line of the search: ``python tune/search.py --trials 30``. Thin; every part has its own module.

flags -> session (settings, data, journal) -> controller -> Ray
                                              journal -> live display, MLflow, report
"""

from __future__ import annotations

import argparse
import errno
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from vqc.errors import SearchError, UserError
from vqc.shell import as_typed, runnable

if TYPE_CHECKING:
    from tune.execution.controller import Controller
    from tune.execution.resources import Machines
    from tune.execution.session import Session
    from tune.reporting.mlflow_sync import Mirror

INTERRUPTED = 130
SETTING = "settings."  # what the destination of a flag begins with that overrides a setting, before its path
DRAIN_TIMEOUT_S = 60.0
LEAST_BYTES = 2**20  # on the disk, or a search does not begin
UNWRITABLE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, getattr(errno, "EDQUOT", errno.ENOSPC)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run or resume a search; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        machines = _machines(arguments)
        session = _prepared(arguments, argv, gpus=machines.gpus)
        if arguments.dry_run:
            return _dry_run(session, machines)
        with _only_one(session.folder):
            return _run(session, machines, arguments)
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


def _run(session: Session, machines: Machines, arguments: argparse.Namespace) -> int:
    """Open the journal, show the plan, search, and leave everything written."""
    from tune.execution.controller import Controller
    from tune.execution.disk_retry import write_probe
    from tune.execution.log_redirect import quiet_environment
    from tune.execution.resources import resources_of
    from tune.paths import journal_of
    from tune.policy.portfolio import renew
    from tune.reporting import console
    from tune.reporting.live_display import Progress
    from tune.reporting.mlflow_sync import Mirror
    from vqc.results import cache_folder
    from vqc.tracking.mlflow_client import default_artifacts, default_uri

    results, settings, folder = arguments.results.resolve(), session.settings, session.folder
    uri, path = arguments.mlflow or default_uri(results), journal_of(folder)
    with ExitStack() as stack:
        stack.enter_context(_terminal_may_close())
        write_probe(folder, LEAST_BYTES)
        terminal = stack.enter_context(_terminal(folder))
        terminal.writelines(f"{remark}\n" for remark in session.remarks)
        mirror = Mirror(path, uri, artifacts=default_artifacts(results))
        quiet_environment(cluster=arguments.address is not None)  # before Ray is imported
        from tune.execution import ray_backend

        links = {"mlflow": _mlflow_command(uri), "dashboard": ray_backend.connect(arguments.address) or ""}
        stack.callback(shutil.rmtree, folder / "ray", ignore_errors=True)
        stack.callback(ray_backend.disconnect)
        journal = session.open_journal()  # not before: a cluster that cannot be joined leaves no search behind
        stack.callback(journal.close)
        if journal.torn_bytes:
            terminal.write(f"The last line of {path} was incomplete; its {journal.torn_bytes} bytes were removed.\n")
        plan = console.plan(settings, session.data_summary, links, checkpoints=_checkpoint_bytes(session))
        console.show(plan, terminal)
        controller = Controller(journal, session.table, folder=folder)
        stack.enter_context(_signals(controller))
        display = Progress(path, stream=terminal, extras=_extras(mirror, machines), trouble=lambda: controller.trouble)
        mirror.start()  # not before Ray: a new database takes MLflow seconds, which the first worker's start hides
        display.start()
        crashed = True
        try:
            resources, cache = resources_of(settings, machines), cache_folder(results)
            ray_backend.run(controller, session.data, resources=resources, folder=folder, cache=cache)
            crashed = False
        finally:
            _each(
                lambda: controller.close(crashed=crashed),
                display.stop,
                lambda: mirror.finish(_reported(path, folder, terminal)),
                lambda: console.show(console.summary(session.table, folder), terminal),
                lambda: None if crashed else renew(results),  # what was learnt here opens the next search
                lambda: _drain(mirror, folder, terminal),
            )
    if controller.fault is not None:
        raise controller.fault
    return INTERRUPTED if controller.interrupted else 0


def _each(*steps: Callable[[], object]) -> None:
    """Call each step, also after an error of an earlier one; the errors are raised after the last step, as a chain."""
    if steps:
        try:
            steps[0]()
        finally:
            _each(*steps[1:])


def _drain(mirror: Mirror, folder: Path, terminal: TextIO) -> None:
    """Let the mirror catch up; where it cannot in time, say how it can later."""
    state = mirror.stop(DRAIN_TIMEOUT_S)
    if state.behind or state.error:
        terminal.write(f"MLflow: {state}\n  next: {as_typed('python -m tune.reporting.mlflow_sync')} {folder.name}\n")


def _reported(journal: Path, folder: Path, terminal: TextIO) -> list[Path]:
    """Write the report; its files, or none and a sentence where the disk is full: it can be written at any time."""
    from tune.reporting.html_report import write_report

    try:
        return [write_report(journal, folder), folder / "trials.csv"]
    except Exception as error:
        command = as_typed("python -m tune.reporting.html_report")
        terminal.write(f"No report: {error}\n  next: {command} {folder.name}\n")
        if isinstance(error, OSError | SearchError):
            return []
        raise


def _dry_run(session: Session, machines: Machines) -> int:
    """Measure what an epoch takes, print the plan with its hours, and write nothing."""
    import torch

    from tune.dry_run import epoch_costs
    from tune.execution.resources import resources_of
    from tune.reporting import console
    from tune.reporting.eta import whole_search

    torch.set_num_threads(resources_of(session.settings, machines).threads)
    for remark in session.remarks:
        sys.stdout.write(f"{remark}\n")
    costs = list(
        epoch_costs(
            session.settings,
            session.data,
            on_size=lambda size: sys.stderr.write(f"Measuring an epoch at {size} px.\n"),
        )
    )
    if all(cost.epoch_s is None for cost in costs):
        tried = ", ".join(f"{cost.image_size} px" for cost in costs)
        raise SearchError(
            f"no image size of the space fits into memory: tried {tried}",
            command="python tune/search.py --dry-run --config FILE",
        )
    expected = whole_search(session.settings, costs)
    checkpoints = _checkpoint_bytes(session)
    plan = console.plan(
        session.settings, session.data_summary, {}, costs=costs, expected=expected, checkpoints=checkpoints
    )
    console.show(plan, sys.stdout)
    return 0


def _checkpoint_bytes(session: Session) -> tuple[int, int] | None:
    """Bytes of a trial's state and weights; None where every epoch's are written, as for small detectors on a CPU."""
    if not session.settings.checkpoint_every_s:
        return None  # nor is torch imported here
    from vqc.training.state import checkpoint_bytes

    return checkpoint_bytes(session.settings.train, num_classes=len(session.data.categories))


def _share(text: str) -> float | str:
    """A share of a GPU, or 'auto'."""
    return text if text == "auto" else float(text)


def _machines(arguments: argparse.Namespace) -> Machines:
    """Those that the trials will run on; a dry run measures on this one.

    Raises:
        UserError: the cluster cannot be joined, or torch cannot use the GPU of this machine.
    """
    from tune.execution.log_redirect import quiet_environment
    from tune.execution.resources import this_machine

    if arguments.address is None or arguments.dry_run:
        return this_machine()
    quiet_environment(cluster=True)
    from tune.execution import ray_backend

    ray_backend.connect(arguments.address)  # for a moment: not all mistakes of the user have been found yet
    try:
        return ray_backend.machines()
    finally:
        ray_backend.disconnect()


def _prepared(arguments: argparse.Namespace, argv: Sequence[str] | None, *, gpus: bool) -> Session:
    from tune.execution.session import new_session, resumed_session
    from vqc.results import new_name
    from vqc.tracking.mlflow_client import redacted

    results = arguments.results.resolve()
    words = [redacted(word) for word in (sys.argv[1:] if argv is None else argv)]
    given = {key: value for key, value in vars(arguments).items() if key.startswith(SETTING) and value is not None}
    flags = {key.removeprefix(SETTING): value for key, value in given.items()}
    command = runnable(shlex.join(["python", "tune/search.py", *words]))
    if arguments.resume:
        flags |= {
            name: None for name in ("data", "reviews", "config", "warm_start") if getattr(arguments, name) is not None
        }
        return resumed_session(name=arguments.name, results=results, flags=flags, command=command)
    return new_session(
        name=arguments.name or new_name(),
        results=results,
        data_folder=arguments.data,
        reviews=arguments.reviews,
        config=arguments.config,
        flags=flags,
        command=command,
        gpus=gpus,
        warm_start=arguments.warm_start,
    )


def _extras(mirror: Mirror, machines: Machines) -> Callable[[], Mapping[str, str]]:
    """What the terminal shows beside the journal's figures."""
    from vqc.hardware.gpu import read_gpu
    from vqc.hardware.monitor import gpu_text

    def read() -> dict[str, str]:
        shown = {"MLflow": str(mirror.state)}
        for index, uuid in enumerate(machines.gpu_uuids):
            if (gpu := read_gpu(uuid=uuid)) is not None:
                shown[f"GPU {index}"] = gpu_text(gpu)
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
def _signals(controller: Controller) -> Iterator[None]:
    """Once: the running epoch is finished and saved. Twice: at once."""

    def on_signal(number: int, frame: object) -> None:
        if controller.interrupted:
            raise KeyboardInterrupt
        controller.interrupted = True

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Search for the best detector on the data.")
    flag = parser.add_argument

    def setting(name: str, path: str, metavar: str, text: str, kind: Callable[[str], object] = str) -> None:
        flag(name, dest=SETTING + path, type=kind, metavar=metavar, help=text)

    setting("--trials", "budget.trials", "N", "configurations to try (30; on a GPU for at most 8 h)", int)
    setting("--hours", "budget.hours", "H", "search for so long, however many trials that is", float)
    flag("--dry-run", action="store_true", help="measure an epoch, print the plan and its hours, and stop")
    flag(
        "--data",
        type=Path,
        metavar="DIR",
        help="photographs with train/, val/ and test/, or an export (data, or the sample)",
    )
    flag(
        "--reviews",
        type=Path,
        metavar="DIR",
        help="add what operators reviewed: the --store of vqc serve, or a folder that vqc import fetched from it",
    )
    flag("--config", type=Path, metavar="FILE", help="search settings (configs/search.json, or search_cpu.json)")
    flag("--name", metavar="NAME", help="of the folder under results/ (the date and time)")
    flag("--resume", action="store_true", help="continue the search NAME, or the latest")
    setting("--seed", "seed", "N", "of all random choices (0)", int)
    setting("--model", "train.model", "NAME", "detector; 'vqc models' lists them")
    setting("--epochs", "train.num_epochs", "N", "of a full training", int)
    flag("--warm-start", metavar="NAME", help="try first what was best in that search on the same data")
    setting("--confirm", "confirm", "N", "best configurations to train again at the end (2)", int)
    setting("--gpus-per-trial", "gpus_per_trial", "SHARE", "0.5 runs two on one GPU, or auto (1)", _share)
    setting("--vram-gb", "vram_gb", "GB", "GPU memory for all trials together (what it has)", float)
    setting("--concurrent", "concurrent", "N", "trials at a time (1)", int)
    flag("--mlflow", metavar="URI", help="tracking server (results/mlflow.db)")
    flag("--address", metavar="HOST:PORT", help="of a Ray cluster to join")
    flag("--results", type=Path, default=Path("results"), metavar="DIR", help="where results go (results)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
