"""The model that answers: opened, verified, swapped while photographs are looked at, and swapped back.

``model.json`` in the server's folder says which bundle is served, which was before it, and the threshold that a
person set. It is written after the new model was verified. A bundle that is broken, or that finds something else on
its golden images than when it was made, is refused, and the model that answers goes on.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from vqc.config import Record
from vqc.data.tiles.views import TilePlan
from vqc.errors import ConfigError, ModelError, UserError
from vqc.files import file_sha256, write_atomically
from vqc.hardware.heap import give_back
from vqc.inference.bundle import MANIFEST, champion_of, check_bundle
from vqc.inference.model_file import open_predictor
from vqc.inference.predictor import Predictor
from vqc.inference.thresholds import resolve_thresholds
from vqc.serving.history import room_needed
from vqc.serving.inspection import ModelVersion

STATE = "model.json"
MODEL = "model.onnx"
TRADE_OFF = "trade_off.json"


class State(Record):
    """The content of ``model.json``."""

    bundle: str = Field(description="absolute path of the bundle that is served")
    previous: str | None = Field(None, description="absolute path of the one before")
    threshold: float | None = Field(
        None, ge=0, le=1, description="set by a person, for this bundle; none: the bundle's"
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedModel:
    """A model that was verified, with the thresholds that are in force."""

    folder: Path
    version: ModelVersion
    predictor: Predictor
    thresholds: Mapping[int, float]  # label in 1..C -> lowest score that rejects a part
    threshold_given: float | None  # by a person; None: the bundle's
    trade_off: Mapping[str, Any] | None  # escapes and overkill by threshold on test; None without a test split
    loaded_at: datetime

    @property
    def threshold(self) -> float:
        """The lowest score that rejects, of all classes."""
        return min(self.thresholds.values())


class Category(Record):
    """A class of defects."""

    id: int
    name: str


class ModelReport(Record):
    """The content of ``GET /v1/model``."""

    version: str
    sha256: str
    name: str = Field(description="of the architecture")
    categories: tuple[Category, ...]
    input_size: tuple[int, int] = Field(description="height and width in pixels")
    tile_plan: TilePlan | None = Field(description="how photographs are cut; null: not at all")
    threshold: float = Field(description="the lowest score that rejects, of all classes")
    thresholds: dict[str, float] = Field(description="the same of each category, by its name")
    threshold_source: str = Field(description="a sentence")
    loaded_at: datetime
    previous: str | None = Field(description="version that a rollback would bring back")
    challenger: dict[str, Any] | None = None


def open_model(folder: Path, *, threads: int | None, golden: bool, threshold: float | None = None) -> ServedModel:
    """Open a bundle and check its hashes and, with ``golden``, what it finds on its golden images.

    Raises:
        ModelError: it is not whole, or finds something else than when it was made.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ModelError(f"{folder}: no bundle of a promoted detector, expected {MANIFEST} in it",
                         command="python tune/export_best.py")  # fmt: skip
    sha256 = file_sha256(manifest)
    predictor = open_predictor(folder / MODEL, threads=threads)
    if golden:
        check_bundle(folder, predictor)
    thresholds, _ = resolve_thresholds(predictor, given=threshold)
    return ServedModel(
        folder=folder,
        version=ModelVersion(version=folder.name, sha256=sha256),
        predictor=predictor,
        thresholds=thresholds,
        threshold_given=threshold,
        trade_off=_trade_off(folder / TRADE_OFF),
        loaded_at=datetime.now(timezone.utc),
    )


def _trade_off(path: Path) -> Mapping[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not a trade-off: {error}") from None


class ModelSlot:
    """Holds the model that answers. Whoever looks at a photograph takes ``current`` once and keeps it for that one."""

    current: ServedModel

    def __init__(self, *, store: Path, promoted: Path, threads: int | None, golden: bool = True) -> None:
        self._state_file = store / STATE
        self._promoted = promoted
        self._threads, self._golden = threads, golden
        self._previous: Path | None = None
        self._changing = threading.Lock()

    def open(self, bundle: Path | None = None) -> list[str]:
        """Load the first model: the bundle that is named, else the one that was served last, else the champion.

        Returns:
            Sentences on what could not be used and what is served instead.

        Raises:
            UserError: there is none, or the one that was named cannot be used.
        """
        state, warnings = self._read_state()
        if bundle is not None:
            folder = bundle.absolute()
            same = state is not None and Path(state.bundle) == folder
            kept = state if same else State(bundle=str(folder), previous=state.bundle if state else None)
            self._take(self._opened(folder, kept.threshold if kept else None), kept)
            return warnings
        champion = self._champion_or_none(warnings)
        served = [Path(path) for path in (state.bundle, state.previous) if path] if state else []
        for folder in dict.fromkeys([*served, *([champion] if champion else [])]):
            threshold = state.threshold if state and Path(state.bundle) == folder else None
            try:
                model = self._opened(folder, threshold)
            except UserError as error:
                warnings.append(error.what)
                continue
            previous = state.previous if state and Path(state.bundle) == folder else None
            self._take(model, State(bundle=str(folder), previous=previous, threshold=threshold))
            if champion and champion != folder:
                warnings.append(f"The champion is {champion.name}; {folder.name} is served until a reload.")
            return warnings
        raise ModelError("\n".join(warnings) or f"{self._promoted}: no champion yet, expected the folder of a bundle",
                         command="python tune/export_best.py")  # fmt: skip

    def reload(self, name: str | None = None) -> ServedModel:
        """Load the champion, or the bundle of this name in the folder of promoted ones, and put it in the place of the
        current one.

        Raises:
            UserError: there is none, or it cannot be used; the current one goes on.
            StorageFullError: there is no room to write down which one is served; the current one goes on.
        """
        folder = champion_of(self._promoted) if name is None else self._named(name)
        return self._swap(folder.absolute())

    def rollback(self) -> ServedModel:
        """Load the model before the current one; that becomes the one before.

        Raises:
            UserError: there was none, or it cannot be used any more; the current one goes on.
        """
        if self._previous is None:
            raise ModelError("no model was served before this one")
        return self._swap(self._previous)

    def set_threshold(self, threshold: float | None) -> ServedModel:
        """Reject from this score on, for all classes; None: as the bundle says. Another bundle begins with its own."""
        with self._changing:
            thresholds, _ = resolve_thresholds(self.current.predictor, given=threshold)
            model = replace(self.current, thresholds=thresholds, threshold_given=threshold)
            self._take(model, self._state_of(model, self._previous))
            return model

    def report(self) -> ModelReport:
        """What is served."""
        model = self.current
        predictor = model.predictor
        _, source = resolve_thresholds(predictor, given=model.threshold_given)
        return ModelReport(
            version=model.version.version,
            sha256=model.version.sha256,
            name=predictor.architecture,
            categories=tuple(Category(id=id_, name=name) for id_, name in predictor.categories),
            input_size=predictor.image_size,
            tile_plan=predictor.tiles,
            threshold=model.threshold,
            thresholds={predictor.category(label)[1]: value for label, value in model.thresholds.items()},
            threshold_source=source,
            loaded_at=model.loaded_at,
            previous=self._previous.name if self._previous else None,
        )

    def _swap(self, folder: Path) -> ServedModel:
        with self._changing:
            model = self._opened(folder, None)
            before = self.current.folder
            self._take(model, self._state_of(model, before if before != folder else self._previous))
            return model

    def _opened(self, folder: Path, threshold: float | None) -> ServedModel:
        model = open_model(folder, threads=self._threads, golden=self._golden, threshold=threshold)
        give_back()  # the file's bytes, and what the golden images took
        return model

    def _take(self, model: ServedModel, state: State | None) -> None:
        """The model answers from now on, and after a restart."""
        state = state or self._state_of(model, None)
        with room_needed(self._state_file.parent):
            write_atomically(self._state_file, (state.model_dump_json(indent=1) + "\n").encode())
        self._previous = Path(state.previous) if state.previous else None
        self.current = model

    def _state_of(self, model: ServedModel, previous: Path | None) -> State:
        before = str(previous) if previous else None
        return State(bundle=str(model.folder), previous=before, threshold=model.threshold_given)

    def _read_state(self) -> tuple[State | None, list[str]]:
        try:
            return State.model_validate_json(self._state_file.read_text(encoding="utf-8")), []
        except FileNotFoundError:
            return None, []
        except (OSError, ValueError, ValidationError):
            return None, [f"{self._state_file}: does not say which model was served last; it is written anew."]

    def _champion_or_none(self, warnings: list[str]) -> Path | None:
        try:
            return champion_of(self._promoted).absolute()
        except ModelError as error:
            warnings.append(error.what)
            return None

    def _named(self, name: str) -> Path:
        folder = self._promoted / name
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or not folder.is_dir():
            raise ConfigError("bundle", [f"got {name!r:.120}, expected the name of a folder in {self._promoted}"])
        return folder
