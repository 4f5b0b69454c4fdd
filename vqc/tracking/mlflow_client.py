"""MLflow, as far as this project needs it: runs, metrics, artifacts and the registry of champions.

The only module that imports mlflow, and only inside functions: the import takes seconds. Everything goes through
``MlflowClient`` with explicit run ids; the fluent API keeps global state that two threads would share::

    without a server   sqlite:///results/mlflow.db, files below results/mlartifacts
    with a server      http://host:5000; it decides where files go
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias
from urllib.parse import unquote

from vqc.errors import UserError
from vqc.files import file_sha256

if TYPE_CHECKING:
    from mlflow.entities import Run

EXPERIMENT = "vqc-tune"
CHAMPION, CHALLENGER = "champion", "challenger"

RunStatus: TypeAlias = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

_FILES_TAG = "vqc.files_digest"
_METRIC_TAG = "metric."  # a model version has tags and no metrics
_POINTS_PER_CALL = 800  # MLflow takes 1000 metrics, parameters and tags together in a call
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",  # no warning where git is missing
    "MLFLOW_CONFIGURE_LOGGING": "false",  # its messages go to the program's own log
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the terminal belongs to the progress display
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server that is down is noticed in seconds; whoever calls decides when to try again.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class TrackingError(UserError):
    """MLflow cannot be reached or refused a call; the message holds no password."""


class Point(NamedTuple):
    """One value of a metric. Logging an equal point again changes nothing."""

    name: str
    value: float
    step: int
    at_ms: int


@dataclass(kw_only=True)
class KnownRun:
    """A run that exists in MLflow, as it was last seen; tags, status and files that it has are not written again."""

    tracker: Tracker
    run_id: str
    name: str
    status: str = "RUNNING"
    ended_ms: int | None = None
    tags: dict[str, str]
    changed: bool = False  # since it was found

    def log(
        self, *, points: Sequence[Point] = (), params: Mapping[str, str] = {}, tags: Mapping[str, str] = {}
    ) -> None:
        """``Tracker.log``, without the tags that the run has."""
        tags = {name: value for name, value in tags.items() if self.tags.get(name) != value}
        if points or params or tags:
            self.tracker.log(self.run_id, points=points, params=params, tags=tags)
            self.tags |= tags
            self.changed = True

    def set_status(self, status: RunStatus, *, end_ms: int | None = None) -> None:
        """``Tracker.set_status``, unless the run has it."""
        if (status, end_ms) != (self.status, self.ended_ms):
            self.tracker.set_status(self.run_id, status, end_ms=end_ms)
            self.status, self.ended_ms, self.changed = status, end_ms, True

    def attach(self, files: Sequence[Path]) -> None:
        """Copy those of the files that exist into the run, unless it has them as they are."""
        files = [file for file in files if file.is_file()]
        digest = hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()[:12]
        if files and self.tags.get(_FILES_TAG) != digest:
            for file in files:
                self.tracker.log_artifact(self.run_id, file)
            self.log(tags={_FILES_TAG: digest})


@dataclass(frozen=True, kw_only=True)
class ChampionInfo:
    """The registered model version with the alias ``champion``."""

    version: str
    run_id: str
    source: str
    metrics: dict[str, float]
    tags: dict[str, str]


def default_uri(results: Path) -> str:
    """The tracking URI of a folder of results: a SQLite file in it (the folder may be relative)."""
    # Three slashes and the path as it is are right for results, for /data/results and for D:/results.
    return f"sqlite:///{(results / 'mlflow.db').as_posix()}"


def default_artifacts(results: Path) -> Path:
    """Where the runs' files go without a server."""
    return results / "mlartifacts"


def redacted(uri: str) -> str:
    """The URI without user, password, or secrets in its query; safe to print.

    Everything up to the last ``@`` goes: a password may hold any character where it was not quoted.
    """
    if uri.startswith(("sqlite:", "file:")):
        return uri
    bare = re.sub(r"(?s)(?<=://).*@", "***@", uri)
    return re.sub(r"(?i)([?&][^=&]*(?:pass|pwd|token|secret|key|sig|auth|cred)[^=&]*=)[^&#]*", r"\1***", bare)


def metric_name(*parts: str) -> str:
    """``parts`` joined by slashes, with what MLflow forbids in a metric's name replaced by ``_``.

    A category may have any name; MLflow allows letters of any script, digits, ``_ - .`` and blanks.
    """
    return "/".join(re.sub(r"[^\w\- ]", "_", part) or "_" for part in parts)


class Tracker:
    """One experiment at one tracking URI.

    Args:
        uri: of a database or of an MLflow server; may hold a password.
        artifacts: folder for the files of runs where no server stores them; used when the experiment is created.
        experiment: its name; created, or restored when it was deleted, where needed.

    Raises:
        TrackingError: from here and from every method, when MLflow cannot be reached or refuses.
    """

    def __init__(self, uri: str, *, artifacts: Path | None = None, experiment: str = EXPERIMENT) -> None:
        self.uri = uri
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        with self._calling():
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            self._experiment = self._find_experiment(experiment, artifacts)

    def runs(self, tags: Mapping[str, str]) -> list[KnownRun]:
        """All runs with these tags, without deleted ones."""
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found: list[Run] = []
        token: str | None = ""
        with self._calling():
            while token is not None:
                page = self._client.search_runs([self._experiment], wanted, max_results=1000, page_token=token or None)
                found += page
                token = page.token or None
        return [
            KnownRun(
                tracker=self,
                run_id=run.info.run_id,
                name=run.info.run_name or "",
                status=run.info.status,
                ended_ms=run.info.end_time,
                tags=dict(run.data.tags),
            )
            for run in found
        ]

    def create(self, name: str, *, tags: Mapping[str, str], start_ms: int) -> str:
        """A new run with status RUNNING; its id."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError, ImportError):  # a container without an entry for its user
            user = "unknown"
        tags = {"mlflow.user": user, "mlflow.source.type": "LOCAL", **tags}
        with self._calling():
            run = self._client.create_run(self._experiment, start_time=start_ms, run_name=name, tags=tags)
        return str(run.info.run_id)

    def log(
        self,
        run_id: str,
        *,
        points: Sequence[Point] = (),
        params: Mapping[str, str] = {},
        tags: Mapping[str, str] = {},
    ) -> None:
        """Write points, then parameters and tags: a reader that sees the tags can rely on the points."""
        with self._calling():
            from mlflow.entities import Metric, Param, RunTag

            metrics = [Metric(point.name, point.value, point.at_ms, point.step) for point in points]
            while len(metrics) > _POINTS_PER_CALL:
                self._client.log_batch(run_id, metrics=metrics[:_POINTS_PER_CALL])
                del metrics[:_POINTS_PER_CALL]
            self._client.log_batch(
                run_id,
                metrics=metrics,
                params=[Param(name, value) for name, value in params.items()],
                tags=[RunTag(name, value) for name, value in tags.items()],
            )

    def set_status(self, run_id: str, status: RunStatus, *, end_ms: int | None = None) -> None:
        """Set the status, and the time of the end for all but RUNNING."""
        with self._calling():
            if status == "RUNNING":
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status=status, end_time=end_ms)

    def log_artifact(self, run_id: str, file: Path) -> None:
        """Copy one file into the run, over a file of the same name."""
        with self._calling():
            self._client.log_artifact(run_id, str(file))

    def register(
        self,
        bundle: Path,
        *,
        name: str,
        run_id: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        champion: bool = True,
    ) -> str:
        """Copy the folder ``bundle`` into the run and make it a version of the model ``name``; the version's number.

        With ``champion`` it gets that alias, else ``challenger``, last, so that a failure before leaves the old one.
        """
        # A folder of its own for each: the files of an earlier version stay as they were registered.
        folder = f"bundle-{datetime.now(timezone.utc):%Y%m%d-%H%M%S-%f}"
        figures = {f"{_METRIC_TAG}{key}": repr(float(value)) for key, value in metrics.items()}
        with self._calling():
            self._client.log_artifacts(run_id, str(bundle), folder)
            if not self._client.search_registered_models(f"name = '{name}'"):
                self._client.create_registered_model(name)
            source = f"{self._client.get_run(run_id).info.artifact_uri}/{folder}"
            version = self._client.create_model_version(name, source, run_id=run_id, tags={**tags, **figures}).version
            alias = CHAMPION if champion else CHALLENGER
            self._client.set_registered_model_alias(name, alias, str(version))
        return str(version)

    def download(self, source: str, folder: Path) -> Path:
        """Copy the files of a model version into a folder; where they are then."""
        with self._calling():
            from mlflow.artifacts import download_artifacts

            return Path(download_artifacts(artifact_uri=source, dst_path=str(folder), tracking_uri=self.uri))

    def champion(self, name: str) -> ChampionInfo | None:
        """The champion of a registered model; None where there is none."""
        with self._calling():
            models = self._client.search_registered_models(f"name = '{name}'")
            if not models or CHAMPION not in models[0].aliases:
                return None
            found = self._client.get_model_version_by_alias(name, CHAMPION)
        figures = {key: float(value) for key, value in found.tags.items() if key.startswith(_METRIC_TAG)}
        return ChampionInfo(
            version=str(found.version),
            run_id=found.run_id or "",
            source=found.source or "",
            metrics={key.removeprefix(_METRIC_TAG): value for key, value in figures.items()},
            tags={key: value for key, value in found.tags.items() if key not in figures},
        )

    def _find_experiment(self, name: str, artifacts: Path | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            local = artifacts is not None and not self.uri.startswith(("http:", "https:"))
            location = artifacts.resolve().as_uri() if local and artifacts else None
            return str(self._client.create_experiment(name, artifact_location=location))
        if found.lifecycle_stage == "deleted":  # its name stays taken, so a new one cannot be created
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Turn every exception of MLflow and the libraries below it into one sentence."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (requests, SQLAlchemy, alembic and MLflow share no ancestor)
            raise TrackingError(_sentence(error, self.uri)) from None


def _sentence(error: Exception, uri: str) -> str:
    """What went wrong, on one line and without secrets."""
    causes: list[BaseException] = [error]
    while (deeper := causes[-1].__cause__ or causes[-1].__context__) is not None and deeper not in causes:
        causes.append(deeper)
    for cause in causes:
        # "Connection refused" is enough; the messages above it repeat the URL, password included.
        if isinstance(cause, OSError) and cause.strerror:
            return f"cannot reach MLflow at {redacted(uri)}: {cause.strerror}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"MLflow at {redacted(uri)}: {_scrubbed(lines[0], uri)[:300]}"


def _scrubbed(text: str, uri: str) -> str:
    """``text`` without the secrets of ``uri``, in whatever form a library wrote them."""
    text = re.sub(r"(?<=://)[^\s/]*@", "***@", text.replace(uri, redacted(uri)))
    if redacted(uri) == uri:
        return text
    login = re.findall(r"(?s)://(.*)@", uri)
    passwords = [pair.partition(":")[2] for pair in login] + re.findall(r"[?&][^=&]*=([^&#]*)", uri)
    for secret in sorted({*login, *passwords, *map(unquote, passwords)} - {""}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
