"""One training run on the disk: ``results/<name>/``.

::

    run.json                what it is: id, command, data, versions
    train_config.json       its configuration, resolved; ``vqc train --config`` takes it again
    reports.jsonl           one EpochReport a line: ``--resume`` and every reader rely on it
    last.safetensors        all that is needed to continue after the last of these lines
    best_model.safetensors  the weights of the best epoch, by AP50 on val
    training.log            the same for people, with what else happened
    profile/                with ``--profile``: a trace, and figures for TensorBoard
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pydantic import Field, ValidationError

from vqc.config import Record, TrainConfig, load_record
from vqc.epoch import EpochReport
from vqc.errors import ConfigError, DataError, ModelError, nearest
from vqc.files import LineFile, whole_lines, write_atomically
from vqc.provenance import versions

if TYPE_CHECKING:
    from vqc.data.dataset import Data
    from vqc.training.loop import OnStep
    from vqc.training.state import Snapshot

METRIC = "ap50"
INFO = "run.json"
PACKAGES = ("torch", "torchvision", "albumentations", "pycocotools")


class RunInfo(Record):
    """The description of a run; never changed after its start."""

    run_id: str = Field(description="unique; MLflow finds the run by it")
    name: str = Field(description="of its folder")
    started_ms: int = Field(ge=0, description="Unix time in milliseconds")
    command: str = Field(description="as it was typed")
    data: dict[str, Any] = Field(description="root, fingerprint and counts")
    versions: dict[str, str] = Field(description="package -> version")
    threads: int | None = Field(None, ge=1, description="of the CPU, where --threads was given")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run and its files."""

    folder: Path
    info: RunInfo
    config: TrainConfig
    threads: int | None = None  # of the CPU, as given for this session: at the start, or later

    @property
    def reports_file(self) -> Path:
        return self.folder / "reports.jsonl"

    @property
    def last(self) -> Path:
        return self.folder / "last.safetensors"

    @property
    def best(self) -> Path:
        return self.folder / "best_model.safetensors"

    @property
    def log_file(self) -> Path:
        return self.folder / "training.log"

    @property
    def profile(self) -> Path:
        return self.folder / "profile"

    @property
    def resume_command(self) -> str:
        """It takes the threads of the start; other ones have to be given again."""
        given = "" if self.threads in (None, self.info.threads) else f" --threads {self.threads}"
        return f"vqc train --name {self.info.name} --resume{given}"

    def reports(self) -> list[EpochReport]:
        """The reports of the finished epochs, in their order.

        Raises:
            ModelError: a line is not a report: someone edited the file.
        """
        return [self._report(number, line) for number, line in enumerate(whole_lines(self.reports_file), start=1)]

    def log(self, text: str) -> None:
        """One line in ``training.log``, with the time."""
        with self.log_file.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")

    def _report(self, number: int, line: bytes) -> EpochReport:
        try:
            report = EpochReport.model_validate_json(line)
        except ValidationError:
            raise ModelError(f"{self.reports_file}, line {number}: not the report of an epoch") from None
        if report.epoch != number:
            raise ModelError(f"{self.reports_file}, line {number}: got epoch {report.epoch}, expected {number}")
        return report


def start_run(
    results: Path, name: str, *, config: TrainConfig, data: Data, command: str, threads: int | None = None
) -> Run:
    """Make the folder of a new run; ``threads``: of the CPU, where the user gave them; a resumed run takes them too.

    Raises:
        ConfigError: the name is taken.
    """
    folder = results / name
    info = RunInfo(
        run_id=uuid4().hex,
        name=name,
        started_ms=time.time_ns() // 1_000_000,
        command=command,
        data={**data.summary(), "root": str(data.root.resolve())},
        versions=versions(PACKAGES),
        threads=threads,
    )
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        resume = f"vqc train --name {name} --resume" if (folder / INFO).exists() else None
        raise ConfigError("--name", [f"got '{name}', but {folder} exists already"], command=resume) from None
    _write_json(folder / "train_config.json", config.model_dump(mode="json"))
    _write_json(folder / INFO, info.model_dump(mode="json"))  # last: a folder without it is no run
    return Run(folder=folder, info=info, config=config)


def run_names(results: Path) -> list[str]:
    """Names of all training runs, the one that was trained last at the end."""
    found = {path.parent: path.stat().st_mtime for path in results.glob(f"*/{INFO}")}
    for folder in found:
        for path in folder.glob("reports.jsonl"):
            found[folder] = max(found[folder], path.stat().st_mtime)
    return [folder.name for folder in sorted(found, key=lambda folder: (found[folder], folder.name))]


def find_run(results: Path, name: str | None) -> Run:
    """The named run, or the one that was trained last.

    Raises:
        ConfigError: there is none of that name, none at all, or its files are broken.
    """
    names = run_names(results)
    if not names:
        raise ConfigError("--resume", [f"no training run in {results}"], command="vqc train")
    if name is not None and name not in names:
        raise ConfigError("--name", [f"got '{name}', no training run in {results} has that name{nearest(name, names)}"])
    folder = results / (name or names[-1])
    info, config = load_record(RunInfo, folder / INFO), load_record(TrainConfig, folder / "train_config.json")
    return Run(folder=folder, info=info, config=config)


def best_of(reports: Sequence[EpochReport]) -> EpochReport | None:
    """The best epoch by ``METRIC`` on val, of equal ones the latest; where nothing can be scored the last."""
    return max(reports, key=lambda report: (report.scores.value(METRIC), report.epoch), default=None)


def train_run(run: Run, data: Data, *, cache: Path, gpu: int | None, on_step: OnStep | None) -> Iterator[EpochReport]:
    """Train what is left of a run; before a report is yielded, its checkpoints and its line are on the disk.

    Raises:
        DataError: the data changed since the run started.
        ModelError: a file of the run is damaged.
        InfeasibleError: the configuration cannot work.
    """
    from vqc.training.loop import fit
    from vqc.training.state import read_report, snapshot_of

    if data.fingerprint != run.info.data["fingerprint"]:
        raise DataError(f"{data.root}: changed since the run '{run.info.name}' started", command="vqc train")
    reports = run.reports()
    resume_from = run.last if reports or run.last.exists() else None
    with LineFile(run.reports_file) as lines:
        if resume_from is not None and (saved := read_report(resume_from)).epoch > len(reports):
            lines.append(saved.model_dump_json())  # killed between the checkpoint and the line
            reports.append(saved)
            yield saved
        if len(reports) == run.config.num_epochs:
            return
        for epoch in fit(run.config, data, resume_from=resume_from, cache=cache, gpu=gpu, on_step=on_step):
            reports.append(epoch.report)
            _save(run, snapshot_of(epoch.state, epoch.report), is_best=best_of(reports) is epoch.report)
            lines.append(epoch.report.model_dump_json())
            yield epoch.report


def _save(run: Run, snapshot: Snapshot, *, is_best: bool) -> None:
    if is_best:
        snapshot.write_model(run.best)
    snapshot.write_state(run.last)


@contextmanager
def run_lock(run: Run) -> Iterator[None]:
    """Hold the run's lock; the system releases it whatever happens to this process.

    Raises:
        ConfigError: another process trains this run.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(run.folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError("--name", [f"another process trains '{run.info.name}'"]) from None
    with lock:
        yield


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
