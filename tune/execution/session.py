"""A sitting of a search, ready to run: a new one from flags and files, or the continuation of a journal.

Everything a user can get wrong is found here, before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from tune.execution.gpu_sharing import MOST_TOGETHER
from tune.history.journal import Event, Journal, SearchResumed, SearchStarted, Table, now_ms, read_table
from tune.paths import check_name, find_search, journal_of
from tune.policy.portfolio import members_for
from tune.policy.warm_start import best_of, distinct
from tune.settings import SearchSettings, load_settings
from vqc.config import parse_record, shipped_settings
from vqc.data.dataset import Data, load_data, load_with_warnings
from vqc.data.findings import warning_lines
from vqc.data.synthetic import choose_data
from vqc.errors import ConfigError, SearchError
from vqc.hardware.gpu import gpu_count
from vqc.models.registry import check_model
from vqc.provenance import versions
from vqc.shell import short_path

__all__ = ["Sitting", "begin", "resume"]

PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "albumentations", "pycocotools")
FLAG_OF = {
    "trials": "--trials",
    "hours": "--hours",
    "seed": "--seed",
    "gpus_per_trial": "--gpus-per-trial",
    "concurrent": "--concurrent",
    "vram_gb": "--vram-gb",
    "policy": "--policy",
    "confirm": "--confirm",
    "train.num_epochs": "--epochs",
    "train.model": "--model",
}


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """What is about to run.

    ``opening``: the event to write first; ``table``: what the journal holds before it, read from so many bytes;
    ``remarks``: sentences that the user should read before the plan.
    """

    folder: Path
    settings: SearchSettings
    data: Data
    table: Table
    opening: SearchStarted | SearchResumed
    remarks: tuple[str, ...]
    journal_bytes: int

    def open_journal(self) -> Journal:
        """Write the opening event; from here on the search exists. To be called with the search's lock held.

        Raises:
            SearchError: another process has written the journal since it was read.
        """
        if _bytes_of(journal_of(self.folder)) != self.journal_bytes:
            raise SearchError(
                f"{self.folder}: another process went on with this search in the meantime",
                command=f"python tune/search.py --name {self.folder.name} --resume",
            )
        journal = Journal(journal_of(self.folder))
        event: Event = self.opening
        try:
            journal.append(event)
        except OSError:
            journal.close()
            raise
        self.table.apply(event)
        return journal


def begin(
    *,
    name: str,
    results: Path,
    data_folder: Path | None,
    config: Path | None,
    flags: Mapping[str, Any],
    command: str,
    warm_start: str | None = None,
) -> Sitting:
    """Prepare a new search.

    Args:
        warm_start: name of an earlier search on the same data whose best configurations are tried first; without one
            the portfolio's are, unless the settings bring an opening of their own.
        data_folder: in the guide's layout; None takes ``data/`` where there is one, else the generated sample.
        config: search settings; None takes those for a GPU, or those for a CPU where there is no GPU.
        flags: settings given on the command line, by their path in the settings, such as ``train.model``.

    Raises:
        UserError: with everything that is wrong; nothing has been written but the sample.
    """
    from vqc.models.pretrained import resolve_weights

    check_name(name)
    folder = results / name
    journal_bytes = _bytes_of(journal_of(folder))
    if journal_bytes and _has_first_line(journal_of(folder)):
        raise SearchError(
            f"{folder}: a search of this name was begun already",
            command=f"python tune/search.py --name {name} --resume",
        )
    gpus = gpu_count()
    path = config or shipped_settings("search.json" if gpus else "search_cpu.json")
    remarks = [] if gpus or config else [f"No GPU found: the CPU settings are used ({short_path(path)})."]
    settings = _with_flags(path, flags)
    check_model(settings.train.model)
    chosen, said = choose_data(data_folder, results)
    data, findings = load_with_warnings(chosen)
    train, weights = resolve_weights(settings.train)
    settings = settings.model_copy(update={"train": train})
    settings = _side_by_side(settings, gpus=gpus)
    settings, opens = _opened(settings, warm_start, results=results, data=data)
    opening = SearchStarted(
        at_ms=now_ms(),
        name=name,
        search_id=uuid4().hex,
        settings=settings.model_dump(mode="json"),
        data={**data.summary(), "root": str(data.root.resolve())},
        versions=versions(PACKAGES),
        command=command,
    )
    remarks += [said, f"Trials start from {weights}.", opens, *warning_lines(findings)]
    return Sitting(
        folder=folder,
        settings=settings,
        data=data,
        table=Table(),
        opening=opening,
        remarks=tuple(filter(None, remarks)),
        journal_bytes=journal_bytes,
    )


def resume(*, name: str | None, results: Path, trials: int | None, hours: float | None, command: str) -> Sitting:
    """Prepare to go on with a search, the latest where no name is given; its own settings hold.

    Raises:
        SearchError: there is no such search, or its data is not what it was: results would not be comparable.
    """
    folder = find_search(results, name)
    journal_bytes = _bytes_of(journal_of(folder))
    table = read_table(journal_of(folder))
    wanted = {"trials": trials or table.trials_asked, "hours": hours}
    settings = parse_record(SearchSettings, {**table.header.settings, **wanted}, source="command line")
    data = load_data(Path(table.header.data["root"]))
    if data.fingerprint != table.header.data["fingerprint"]:
        known = table.header.data.get("parts", data.parts)
        changed = [name for name in {**known, **data.parts} if known.get(name) != data.parts.get(name)]
        raise SearchError(
            f"{data.root}: {', '.join(changed) or 'the data'} changed since the search '{folder.name}' began; "
            "the results would not be comparable",
            command=f"python tune/search.py --data {data.root}",
        )
    done = sum(trial.state in ("completed", "stopped", "infeasible", "failed") for trial in table.searched)
    remark = f"Going on with '{folder.name}': {done} of {settings.trials} trials are done."
    opening = SearchResumed(at_ms=now_ms(), command=command, trials=settings.trials)
    return Sitting(
        folder=folder,
        settings=settings,
        data=data,
        table=table,
        opening=opening,
        remarks=(remark,),
        journal_bytes=journal_bytes,
    )


def _has_first_line(journal: Path) -> bool:
    """Without one, whoever wanted to begin the search was killed over it."""
    with journal.open("rb") as file:
        return file.readline().endswith(b"\n")


def _bytes_of(journal: Path) -> int:
    return journal.stat().st_size if journal.exists() else 0


def _side_by_side(settings: SearchSettings, *, gpus: int) -> SearchSettings:
    """As many trials at a time as their share of the GPU asks for, unless the settings say how many."""
    share = settings.gpus_per_trial
    if "concurrent" in settings.model_fields_set or (share == "auto" and not gpus):
        return settings
    together = MOST_TOGETHER if share == "auto" else max(1, int(1 / share))
    return settings.model_copy(update={"concurrent": together})


def _opened(
    settings: SearchSettings, warm_start: str | None, *, results: Path, data: Data
) -> tuple[SearchSettings, str]:
    """The settings with what is tried right after the default, and a sentence about it."""
    if warm_start is not None:
        earlier = read_table(journal_of(find_search(results, warm_start)))
        points, said = best_of(earlier, settings, data), f"Opens with the best configurations of '{warm_start}'."
    elif settings.opening or settings.policy != "race":
        return settings, ""
    else:
        members, said = members_for(settings.train.model, results, fields=settings.space)
        points = distinct(members, settings)
    return settings.model_copy(update={"opening": points}), said


def _with_flags(path: Path, flags: Mapping[str, Any]) -> SearchSettings:
    """Settings of the file with the flags over them; mistakes in a flag are spelled as the flag."""
    train = {key.partition(".")[2]: value for key, value in flags.items() if key.startswith("train.")}
    own = {key: value for key, value in flags.items() if not key.startswith("train.")}
    try:
        return load_settings(path, own, train)
    except ConfigError as error:
        keys = {key: FLAG_OF[key] for key in flags if key in FLAG_OF}
        spelled = [_spelled(problem, keys) for problem in error.problems]
        source = "command line" if all(problem.startswith("--") for problem in spelled) else str(path)
        raise ConfigError(source, spelled, command="python tune/search.py --help") from None


def _spelled(problem: str, keys: Mapping[str, str]) -> str:
    key, colon, rest = problem.partition(":")
    return f"{keys.get(key, key)}{colon}{rest}"
