"""A session of a search, ready to run: a new search from flags and files, or the continuation of a journal.

Everything a user can get wrong is found here, before anything is written.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from tune.execution.gpu_sharing import MOST_TOGETHER
from tune.execution.reviews import with_reviews
from tune.history.events import SearchResumed, SearchStarted
from tune.history.journal import Follower, Journal, now_ms, read_table, table_of
from tune.history.queries import resume_command, trials_text
from tune.history.table import Table
from tune.paths import find_search, journal_of
from tune.policy.portfolio import members_for
from tune.policy.warm_start import best_points, distinct_points
from tune.settings import Budget, SearchSettings, load_settings, scaled_to_data
from tune.tile_choices import detector_inputs, view_counts, with_useful_tiles
from vqc.config import shipped_settings
from vqc.data.dataset import Data, load_data, load_with_warnings
from vqc.data.defect_size import size_table
from vqc.data.findings import warning_lines
from vqc.data.importers.choose import choose_data
from vqc.errors import ConfigError, SearchError
from vqc.models.pretrained import check_initial_model, resolve_weights
from vqc.models.registry import check_model
from vqc.provenance import versions
from vqc.results import check_name
from vqc.shell import short_path

PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "albumentations", "pycocotools")
FLAG_OF = {
    "budget.trials": "--trials",
    "budget.hours": "--hours",
    "seed": "--seed",
    "gpus_per_trial": "--gpus-per-trial",
    "concurrent": "--concurrent",
    "vram_gb": "--vram-gb",
    "confirm": "--confirm",
    "train.num_epochs": "--epochs",
    "train.model": "--model",
    "data": "--data",
    "reviews": "--reviews",
    "config": "--config",
    "warm_start": "--warm-start",
}
RESUMABLE = ("budget.trials", "budget.hours", "gpus_per_trial", "concurrent", "vram_gb", "confirm")  # may change


@dataclass(frozen=True, kw_only=True)
class Session:
    """What is about to run.

    ``first_event``: to be written before all others; ``table``: what the journal holds before it, read from so many
    bytes; ``remarks``: sentences that the user should read before the plan.
    """

    folder: Path
    settings: SearchSettings
    data: Data
    table: Table
    first_event: SearchStarted | SearchResumed
    remarks: tuple[str, ...]
    journal_bytes: int

    @property
    def data_summary(self) -> dict[str, Any]:
        """The data as the journal's first line describes it, by its name alone."""
        begun = self.first_event if isinstance(self.first_event, SearchStarted) else self.table.header
        return {**begun.data, "root": self.data.root.resolve().name}

    def open_journal(self) -> Journal:
        """Write the first event; from here on the search exists. To be called with the search's lock held.

        Raises:
            SearchError: another process has written the journal since it was read.
        """
        if _bytes_of(journal_of(self.folder)) != self.journal_bytes:
            raise SearchError(
                f"{self.folder}: another process continued this search in the meantime",
                command=resume_command(self.folder.name),
            )
        journal = Journal(journal_of(self.folder))
        try:
            journal.append(self.first_event)
        except OSError:
            journal.close()
            raise
        self.table.apply(self.first_event)
        return journal


def new_session(
    *,
    name: str,
    results: Path,
    data_folder: Path | None,
    reviews: Path | None = None,
    config: Path | None,
    flags: Mapping[str, Any],
    command: str,
    gpus: bool,
    warm_start: str | None = None,
) -> Session:
    """Prepare a new search.

    Args:
        gpus: whether the machines that the trials will run on have some.
        warm_start: name of an earlier search whose best configurations are tried first; without one, the portfolio's.
        data_folder: in the guide's layout or an export; None takes ``data/`` where there is one, else the sample.
        reviews: folder of an inspection server, or of its exported reviews: what to add to train and val.
        config: search settings; None takes those for a GPU, or those for a CPU where there is no GPU.
        flags: settings given on the command line, by their path in the settings, such as ``train.model``.

    Raises:
        UserError: with everything that is wrong; nothing has been written but the sample or a folder in results/data.
    """
    check_name(name)
    folder, journal_bytes = results / name, _bytes_of(journal_of(results / name))
    if journal_bytes and _has_first_line(journal_of(folder)):
        raise SearchError(f"{folder}: a search of this name exists", command=resume_command(name))
    settings, settings_remark = _settings(config, flags, gpus=gpus)
    chosen, data_remarks = _chosen_data(data_folder, reviews, results)
    data, findings = load_with_warnings(chosen, inputs=detector_inputs(settings))
    settings, tiles_remark = with_useful_tiles(settings, data)
    views = view_counts(settings, data)
    train, weights = resolve_weights(settings.train, [category.name for category in data.categories])
    settings = _concurrent(settings.model_copy(update={"train": train}), gpus=gpus)
    if "train.num_epochs" not in flags:
        settings = scaled_to_data(settings, views[str(settings.train.tile_px)][0])
    settings, points_remark = _with_initial_points(settings, warm_start, results=results, data=data)
    remarks = [settings_remark, *data_remarks, f"Trials start from {weights}.", points_remark, tiles_remark]
    started = SearchStarted(
        at_ms=now_ms(),
        awake_s=0.0,
        name=name,
        search_id=uuid4().hex,
        settings=settings.model_dump(mode="json", exclude={"budget"}),
        budget=settings.budget,
        data=_described(data, settings, views),
        versions=versions(PACKAGES),
        command=command,
    )
    return Session(
        folder=folder,
        settings=settings,
        data=data,
        table=Table(),
        first_event=started,
        remarks=tuple(filter(None, [*remarks, *warning_lines(findings)])),
        journal_bytes=journal_bytes,
    )


def _chosen_data(folder: Path | None, reviews: Path | None, results: Path) -> tuple[Path, list[str]]:
    """The folder to search on, and sentences about it."""
    chosen, remark = choose_data(folder, results)
    if reviews is None:
        return chosen, [remark]
    chosen, added = with_reviews(chosen, reviews, results)
    return chosen, [remark, added]


def _described(data: Data, settings: SearchSettings, views: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """The data as the journal's first line has it."""
    sizes = size_table(data.defects, detector_inputs(settings))
    return {
        **data.summary(),
        "root": str(data.root.resolve()),
        "views": views,
        "defect_sizes": [one.model_dump(mode="json") for one in sizes],
    }


def _settings(config: Path | None, flags: Mapping[str, Any], *, gpus: bool) -> tuple[SearchSettings, str]:
    """The settings from a file and flags, and a sentence where those for a CPU were taken."""
    path = config or shipped_settings("search.json" if gpus else "search_cpu.json")
    with _spelled_as_flags(flags, str(path)):
        settings = load_settings(path, flags)
    check_model(settings.train.model)
    return settings, "" if gpus or config else f"No GPU found: the CPU settings are used ({short_path(path)})."


def resumed_session(*, name: str | None, results: Path, flags: Mapping[str, Any], command: str) -> Session:
    """Prepare to continue a search, the latest where no name is given; its own settings hold.

    Args:
        flags: settings given on the command line, by their path in the settings.

    Raises:
        SearchError: there is no such search, a flag cannot change in a search that has begun, its hours are used up, or
            its data is not what it was: results would not be comparable.
    """
    folder = find_search(results, name)
    journal_bytes = _bytes_of(journal_of(folder))
    follower = Follower(journal_of(folder))
    table = table_of(follower.poll(), follower.path)
    if follower.upgrade is not None:
        raise SearchError(
            f"{folder}: version 1 of this program wrote the search; it can be shown and promoted, but not resumed",
            command=f"python tune/search.py --warm-start {folder.name}",
        )
    fixed = [FLAG_OF.get(key, key) for key in flags if key not in RESUMABLE]
    if fixed:
        raise SearchError(
            f"{', '.join(fixed)}: cannot change in a search that has begun; expected with --resume only "
            f"{', '.join(FLAG_OF[key] for key in RESUMABLE)}",
            command=resume_command(folder.name),
        )
    data = load_data(Path(table.header.data["root"]))
    if data.fingerprint != table.header.data["fingerprint"]:
        known = table.header.data.get("parts", data.parts)
        changed = [name for name in {**known, **data.parts} if known.get(name) != data.parts.get(name)]
        raise SearchError(
            f"{data.root}: {', '.join(changed) or 'the data'} changed since the search '{folder.name}' began; "
            "the results would not be comparable",
            command=f"python tune/search.py --data {data.root}",
        )
    resumed = SearchResumed(
        at_ms=now_ms(),
        awake_s=table.awake_s,
        command=command,
        budget=_remaining(table, trials=flags.get("budget.trials"), hours=flags.get("budget.hours")),
        settings={key: value for key, value in flags.items() if not key.startswith("budget.")},
    )
    after = copy.copy(table)  # the event changes no trial
    after.apply(resumed)
    with _spelled_as_flags(flags, str(folder)):
        settings = after.settings
    check_initial_model(settings.train)
    done = sum(trial.state in ("completed", "stopped", "infeasible", "failed") for trial in table.searched)
    return Session(
        folder=folder,
        settings=settings,
        data=data,
        table=table,
        first_event=resumed,
        remarks=(f"Continuing '{folder.name}': {done} of {trials_text(after.budget)} are done.",),
        journal_bytes=journal_bytes,
    )


def _remaining(table: Table, *, trials: int | None, hours: float | None) -> Budget:
    """What a resumed search may use: what was given now, which is validated later, else what its budget leaves.

    Raises:
        SearchError: the hours are used up, and nothing new was given.
    """
    if hours is None and table.budget.hours is not None:
        left_s = table.left_s()
        if left_s > 0:
            hours = left_s / 3600
        elif trials is None:
            raise SearchError(
                f"{table.header.name}: its {table.budget.hours:g} h are used up; say how many more it may take",
                command=f"{resume_command(table.header.name)} --hours 2",
            )
    return Budget.model_construct(trials=table.budget.trials if trials is None else trials, hours=hours)


def _has_first_line(journal: Path) -> bool:
    """Without one, the process that began the search was killed before it wrote anything."""
    with journal.open("rb") as file:
        return file.readline().endswith(b"\n")


def _bytes_of(journal: Path) -> int:
    return journal.stat().st_size if journal.exists() else 0


def _concurrent(settings: SearchSettings, *, gpus: bool) -> SearchSettings:
    """As many trials at a time as their share of the GPU asks for, unless the settings say how many."""
    share = settings.gpus_per_trial
    if "concurrent" in settings.model_fields_set or (share == "auto" and not gpus):
        return settings
    together = MOST_TOGETHER if share == "auto" else max(1, int(1 / share))
    return settings.model_copy(update={"concurrent": together})


def _with_initial_points(
    settings: SearchSettings, warm_start: str | None, *, results: Path, data: Data
) -> tuple[SearchSettings, str]:
    """The settings with what is tried right after the default, and a sentence about it."""
    if warm_start is not None:
        earlier = read_table(journal_of(find_search(results, warm_start)))
        points, origin = best_points(earlier, settings, data), "warm start"
        said = f"Starts with the best configurations of '{warm_start}'."
    elif settings.initial_points:
        return settings, ""
    else:
        members, said = members_for(settings.train.model, results, fields=settings.space)
        points, origin = distinct_points(members, settings), "portfolio"
        if members and not points:
            said = "Earlier searches found nothing better than the default: points spread over the space come next."
    return settings.model_copy(update={"initial_points": points, "initial_points_origin": origin}), said


@contextmanager
def _spelled_as_flags(flags: Mapping[str, Any], source: str) -> Iterator[None]:
    """Within it, mistakes in settings that came from a flag are spelled as the flag."""
    try:
        yield
    except ConfigError as error:
        spelled = []
        for problem in error.problems:
            key, colon, rest = problem.partition(":")
            spelled.append(f"{FLAG_OF[key] if key in flags and key in FLAG_OF else key}{colon}{rest}")
        only_flags = all(problem.startswith("--") for problem in spelled)
        raise ConfigError(
            "command line" if only_flags else source, spelled, command="python tune/search.py --help"
        ) from None
