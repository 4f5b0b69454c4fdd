"""The champion in MLflow's registry, and whether a promoted trial replaces it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from tune.model_card import Evidence
from tune.reporting.mlflow_sync import Mirror
from vqc.data.dataset import Data, Split
from vqc.errors import ModelError
from vqc.evaluation.comparison import Comparison, compare
from vqc.evaluation.evaluate import Evaluated, check_categories, detections_on
from vqc.evaluation.intervals import percent
from vqc.inference.calibration import Calibration
from vqc.inference.detections import Detections
from vqc.inference.model_file import open_predictor
from vqc.inference.predictor import Predictor
from vqc.tracking.mlflow_client import ChampionInfo, Point, Tracker, TrackingError, default_artifacts

MODEL_NAME = "vqc-detector"

Decision: TypeAlias = Literal["first", "better", "forced", "kept", "incomparable", "already", "unregistered"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """What a detector found on each image of a split, with the scores that its thresholds are for."""

    split: Split
    detections: tuple[Detections, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the newcomer is the champion now, and why, in one sentence.

    ``first``, ``better`` and ``forced`` made it the champion; ``already``: it was; ``kept`` and ``incomparable``: the
    old champion stays; ``unregistered``: the registry could not be reached, or refused.
    """

    decision: Decision
    reason: str
    version: str | None = None
    comparison: Comparison | None = None  # on test
    week: Comparison | None = None  # on what operators reviewed in the newest week

    @property
    def champion(self) -> bool:
        """Whether this detector has the alias now."""
        return self.decision in ("first", "better", "forced", "already")


@dataclass(frozen=True, kw_only=True, eq=False)
class Newcomer:
    """A promoted trial as the gate sees it."""

    search_id: str
    trial: int
    data: Data
    calibration: Calibration
    tested: Evaluated | None  # on test; None without a test split
    week: Judged | None = None  # on the newest reviewed week; None where nothing of it was held out


def judge(newcomer: Newcomer, tracker: Tracker, *, force: bool) -> Verdict:
    """Whether the newcomer becomes champion: where there is none, or where it is better on the same test images.

    The champion is taken from the registry and run on the newcomer's test split. A tie keeps it, and so do more escapes
    of the newcomer on the newest reviewed week, which shows how parts look now.

    Raises:
        TrackingError: the registry cannot be reached.
    """
    champion = tracker.champion(MODEL_NAME)
    if champion is None:
        return Verdict(decision="first", reason="there was no champion yet")
    identity = (newcomer.search_id, str(newcomer.trial))
    if (champion.tags.get("vqc.search_id"), champion.tags.get("vqc.trial")) == identity:
        return Verdict(decision="already", reason="it is the champion already", version=champion.version)
    verdict = _compared(newcomer, champion, tracker)
    if force and verdict.decision != "better":
        return replace(verdict, decision="forced", reason=f"--force replaced version {champion.version}: "
                       f"{verdict.reason}")  # fmt: skip
    return verdict


def _compared(newcomer: Newcomer, champion: ChampionInfo, tracker: Tracker) -> Verdict:
    tested, version = newcomer.tested, f"version {champion.version}"
    if tested is None:
        return _incomparable("there is no test split to compare on")
    with tempfile.TemporaryDirectory() as folder:
        path = tracker.download(champion.source, Path(folder)) / "model.safetensors"
        try:
            predictor = open_predictor(path)
            check_categories(path, predictor, newcomer.data)
        except ModelError as error:
            what = error.what.replace(f"{path.parent}{os.sep}", "")  # the copy is gone by the time somebody reads it
            return _incomparable(f"{version} cannot be used: {what}")
        theirs = predictor.calibration
        if theirs is None:
            return _incomparable(f"{version} has no operating point")
        asked, promised = newcomer.calibration.operating_point, theirs.operating_point
        thresholds = tested.thresholds, theirs.thresholds
        found = judged_on(predictor, newcomer.data, tested.split).detections
        comparison = compare(tested.split, tested.detections, found, thresholds=thresholds)
        week = None
        if (ours := newcomer.week) is not None:
            found = judged_on(predictor, newcomer.data, ours.split).detections
            week = compare(ours.split, ours.detections, found, thresholds=thresholds)
    figures = comparison.reason if week is None else f"{comparison.reason}; {_week_reason(week)}"
    reason = f"{version}: {figures}"
    better = comparison.better and not (week is not None and week.escape_worse)
    if asked.max_escape > promised.max_escape:
        better = False
        looser = f"it promises {percent(asked.max_escape)} escapes, {version} {percent(promised.max_escape)}"
        reason = f"{looser}; {figures}"
    return Verdict(decision="better" if better else "kept", reason=reason, comparison=comparison, week=week)


def _week_reason(week: Comparison) -> str:
    """Only more escapes count there: the photographs are few, and were chosen because they are unsure."""
    figures = f"on {week.split} escapes {week.escape}, overkill {week.overkill}"
    return (
        f"{figures}: more escapes than chance explains (p = {week.escape.more_p:.3f})" if week.escape_worse else figures
    )


def judged_on(predictor: Predictor, data: Data, split: Split) -> Judged:
    """What a detector finds on a split that has the data's categories."""
    raw = detections_on(predictor, replace(data, test=split), split.name)
    return Judged(split=split, detections=tuple(predictor.calibrated(one) for one in raw))


def _incomparable(why: str) -> Verdict:
    return Verdict(
        decision="incomparable",
        reason=f"{why}, so the two cannot be compared; --force makes this one the champion all the same",
    )


def register(
    bundle: Path, verdict: Verdict, tracker: Tracker, *, run_id: str, metrics: Mapping[str, float],
    tags: Mapping[str, str],
) -> Verdict:  # fmt: skip
    """Make the bundle a version of the model, and last of all the champion where the verdict says so.

    Raises:
        TrackingError: the registry cannot be reached; the old champion stands.
    """
    version = tracker.register(bundle, name=MODEL_NAME, run_id=run_id, metrics=metrics,
                               tags={**tags, "vqc.decision": verdict.decision}, champion=verdict.champion)  # fmt: skip
    return replace(verdict, version=version)


@dataclass(frozen=True, kw_only=True)
class Registry:
    """MLflow's registry, as the promotion uses it: asked before the bundle is finished, written after."""

    uri: str
    results: Path
    journal: Path

    def judge(self, evidence: Evidence, *, week: Judged | None, force: bool) -> Verdict:
        """``judge``, or ``unregistered`` where the registry cannot be reached."""
        newcomer = Newcomer(
            search_id=evidence.table.header.search_id,
            trial=evidence.trial.number,
            data=evidence.data,
            calibration=evidence.calibration,
            tested=evidence.tested,
            week=week,
        )
        try:
            return judge(newcomer, self._tracker(), force=force)
        except TrackingError as error:
            return Verdict(decision="unregistered", reason=error.what)

    def register(self, bundle: Path, evidence: Evidence, verdict: Verdict) -> Verdict:
        """The bundle as a version of the model, and as champion where the verdict says so."""
        if verdict.decision in ("already", "unregistered"):
            return verdict
        header = evidence.table.header
        tags = {
            "vqc.search": evidence.search,
            "vqc.search_id": header.search_id,
            "vqc.trial": str(evidence.trial.number),
            "vqc.data_fingerprint": evidence.data.fingerprint,
        }
        try:
            # The server may have been away during the search: now the trial's run exists.
            Mirror(self.journal, self.uri, artifacts=default_artifacts(self.results)).catch_up(cut_short=False)
            tracker = self._tracker()
            runs = tracker.runs({name: tags[name] for name in ("vqc.search_id", "vqc.trial")})
            _log_test_figures(tracker, runs[0].run_id, evidence)
            return register(bundle, verdict, tracker, run_id=runs[0].run_id, metrics=evidence.figures(), tags=tags)
        except TrackingError as error:
            return replace(verdict, decision="unregistered", reason=error.what)

    def _tracker(self) -> Tracker:
        return Tracker(self.uri, artifacts=default_artifacts(self.results))


def _log_test_figures(tracker: Tracker, run_id: str, evidence: Evidence) -> None:
    """Test figures in the trial's run, at a fixed time, so that a second promotion adds nothing."""
    at_ms = evidence.table.header.at_ms + round(1000 * (evidence.trial.ended_s or evidence.table.awake_s))
    points = [
        Point(name.replace("test_", "test/"), value, evidence.info.epoch, at_ms)
        for name, value in evidence.figures().items()
        if name.startswith("test_")
    ]
    with suppress(TrackingError):  # the registry's own call comes next and reports an outage
        tracker.log(run_id, points=points, params={}, tags={})
