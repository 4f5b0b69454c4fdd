"""The promotion of a search's best trial: measured again, exported, and compared with the champion.

Reads the journal and the trial's best checkpoint; writes the bundle ``results/promoted/<search>-<trial>/`` and a
version of the model ``vqc-detector`` in MLflow's registry.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias
from uuid import uuid4

import torch
from torch import nn

from tune.history import queries
from tune.history.journal import read_table
from tune.history.table import Table, Trial
from tune.model_card import SCHEMA, Evidence, write_texts
from tune.paths import journal_of, trial_folder
from tune.policy.replication import best_trial
from tune.reporting.mlflow_sync import Mirror
from vqc.data.dataset import Data, load_data, read_image
from vqc.data.loader import FittedImages, evaluation_batches
from vqc.epoch import Scores
from vqc.errors import ModelError, SearchError
from vqc.evaluation.coco_metrics import coco_scores, detect
from vqc.hardware.precision import Precision, choose_precision
from vqc.inference.latency import Latency, measure_latency, one_core_spared
from vqc.inference.model_file import open_predictor
from vqc.inference.onnx_export import export_onnx
from vqc.inference.parity import ParityReport, check_parity
from vqc.inference.torch_backend import torch_predictor
from vqc.models.build import move_detector
from vqc.models.checkpoint import ModelInfo, load_model, save_model
from vqc.results import cache_folder
from vqc.tracking.mlflow_client import ChampionInfo, Point, Tracker, TrackingError, default_artifacts
from vqc.training.loop import backend_settings

MODEL_NAME = "vqc-detector"
PARITY_IMAGES = 20
LATENCY_IMAGES = 8
MEASURED_BY = ("torch", "torchvision", "onnx", "onnxruntime", "vqc-tune")

# The same weights on the same machine give the same scores: exactly on a CPU but for the order of sums, which the
# number of threads decides. On a GPU cuDNN chooses its algorithms by timing them, and half precision ties more often.
SAME_SCORE_CPU, SAME_SCORE_GPU = 1e-6, 5e-3

Decision: TypeAlias = Literal["first", "better", "forced", "kept", "incomparable", "already", "unregistered"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the newcomer is the champion now, and why, in one sentence.

    ``first``, ``better`` and ``forced`` made it the champion; ``already``: it was; ``kept`` and ``incomparable``: the
    old champion stays; ``unregistered``: the registry could not be reached, or refused.
    """

    decision: Decision
    reason: str
    version: str | None = None

    @property
    def champion(self) -> bool:
        """Whether this detector has the alias now."""
        return self.decision in ("first", "better", "forced", "already")


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """What was promoted, and where it is."""

    bundle: Path
    evidence: Evidence
    verdict: Verdict


def promote(
    folder: Path,
    *,
    results: Path,
    tracking_uri: str,
    bundle: Path | None = None,
    data_root: Path | None = None,
    force: bool = False,
    command: str = "",
    on_step: Callable[[str], None] = lambda text: None,
) -> Promotion:
    """Measure, export, bundle and register the best trial of a search.

    Args:
        folder: of the search.
        results: where the bundle, the fitted images and MLflow's files go.
        tracking_uri: of MLflow; may hold a password.
        bundle: folder of the bundle; None: ``promoted/<search>-<trial>`` in the results. A bundle there is replaced.
        data_root: where the search's data is now; None: where it was.
        force: make it the champion without a comparison.
        command: that was typed, for the model card.
        on_step: called with a few words before each step.

    Raises:
        SearchError: no finished trial, or the data or a figure is not what the journal says. Nothing is written.
        DataError: the data cannot be used.
        ModelError: the checkpoint is damaged, cannot be exported, or ONNX finds something else than torch.
    """
    table = read_table(journal_of(folder))
    trial = _best_trial(table, folder)
    on_step("reading the data")
    bench = _Bench(folder=folder, table=table, data=_same_data(table, folder, data_root), cache=cache_folder(results))
    model, info = bench.load(trial)
    bundle = _free(bundle or results / "promoted" / f"{folder.name}-{trial.number:03d}")
    draft = bundle.with_name(f".{bundle.name}.{uuid4().hex[:8]}.tmp")
    try:
        with one_core_spared():
            evidence = _measured(bench, trial, model, info, draft=draft, command=command, on_step=on_step)
        save_model(draft / "model.safetensors", model.cpu(), info)
        write_texts(draft, evidence)
        _put_in_place(draft, bundle)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    on_step("asking the registry")
    verdict = _register(bundle, evidence, folder=folder, results=results, uri=tracking_uri, force=force)
    return Promotion(bundle=bundle, evidence=evidence, verdict=verdict)


def _best_trial(table: Table, folder: Path) -> Trial:
    best = best_trial(table)
    if best is None or not queries.has_finished_trial(table):
        states = queries.states_text(queries.state_counts(table))
        raise SearchError(
            f"{folder}: nothing to promote; expected a finished trial with a score, got {states}",
            command=queries.resume_command(folder.name),
        )
    return best


def _free(bundle: Path) -> Path:
    """The absolute path of a bundle, which replaces nothing but another bundle."""
    # By two of its files: DVC removes those that it knows before it makes them again.
    if bundle.exists() and not any((bundle / name).is_file() for name in ("model_card.md", SCHEMA)):
        raise SearchError(f"{bundle}: is not a bundle and will not be replaced, expected a new folder")
    return bundle.absolute()


def _same_data(table: Table, folder: Path, data_root: Path | None) -> Data:
    root, command = data_root or Path(str(table.header.data["root"])), queries.export_command(folder.name)
    if not root.is_dir() and data_root is None:
        raise SearchError(
            f"{root}: the data of the search '{folder.name}' is no longer there", command=f"{command} --data DIR"
        )
    data, expected = load_data(root), str(table.header.data["fingerprint"])
    if data.fingerprint != expected:
        raise SearchError(
            f"{root}: an image or annotation changed since the search '{folder.name}' started; expected fingerprint "
            f"{expected[:12]}, got {data.fingerprint[:12]}",
            command=f"{command} --data DIR",
        )
    return data


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What measures the trials of a search."""

    folder: Path
    table: Table
    data: Data
    cache: Path

    def load(self, trial: Trial) -> tuple[nn.Module, ModelInfo]:
        """The trial's best checkpoint.

        Raises:
            ModelError: it is missing or damaged, or of another epoch than the journal's best: a search that was killed
                may have saved one that is not in the journal.
        """
        path = trial_folder(self.folder, trial.number) / "best.safetensors"
        model, info = load_model(path)
        if info.fingerprint != self.table.header.data["fingerprint"] or info.config != trial.config:
            raise ModelError(
                f"{path}: is of another configuration or of other data than the journal's trial {trial.number}"
            )
        epoch = trial.best(self.table.metric)[1]
        if info.epoch != epoch:
            raise ModelError(
                f"{path}: holds epoch {info.epoch}, expected the best one in the journal, {epoch}",
                command=queries.resume_command(self.table.header.name),
            )
        return model, info

    def scores(self, model: nn.Module, info: ModelInfo, split: str, *, precision: Precision) -> Scores:
        """As training scores val: the same batches, so that equal weights give equal figures."""
        config = info.config
        images = FittedImages(self.data, split, size=config.image_size, cache=self.cache)
        move_detector(model, precision.device)
        with backend_settings(config):
            batches = evaluation_batches(images, batch_size=config.batch_size, threads=config.num_workers)
            found = detect(model, batches, images.split, size=config.image_size, precision=precision)
        return coco_scores(images.split, found)

    def export(
        self, model: nn.Module, info: ModelInfo, path: Path, *, precision: Precision
    ) -> tuple[ParityReport, Mapping[str, Latency]]:
        """Write the ONNX file, compare it with torch, and time both.

        Raises:
            ModelError: they do not find the same.
        """
        fitted = FittedImages(self.data, "val", size=info.config.image_size, cache=self.cache)
        pictures = [read_image(record) for record in self.data.val.images[:LATENCY_IMAGES]]
        on_torch = measure_latency(torch_predictor(model, info, precision=precision), pictures)
        export_onnx(model.cpu(), info, path)
        exported, exact = open_predictor(path), Precision(device=torch.device("cpu"), dtype=torch.float32)
        images = [fitted[index] for index in range(min(PARITY_IMAGES, len(fitted)))]
        parity = check_parity(torch_predictor(model, info, precision=exact), exported, images)
        if not parity.passed:
            raise ModelError(
                f"the ONNX file does not find what torch finds on {parity.images} val images: {parity.unmatched} of "
                f"{parity.detections} detections without a partner, scores {parity.worst_score_difference or 0:.2g} "
                "apart"
            )
        on_onnx = measure_latency(exported, pictures)
        return parity, {f"torch, {on_torch.device}": on_torch, f"onnxruntime, {on_onnx.device}": on_onnx}


def _measured(
    bench: _Bench,
    trial: Trial,
    model: nn.Module,
    info: ModelInfo,
    *,
    draft: Path,
    command: str,
    on_step: Callable[[str], None],
) -> Evidence:
    """All figures of the detector; its ONNX file is written into the draft on the way."""
    data, table = bench.data, bench.table
    precision = choose_precision(info.config)
    exact = Precision(device=precision.device, dtype=torch.float32)
    on_step(f"trial {trial.number} on {len(data.val.images)} val images")
    val = bench.scores(model, info, "val", precision=precision)
    _check_score(val, table, trial, precision)
    test = None
    if data.test is not None:
        on_step(f"trial {trial.number} on {len(data.test.images)} test images")
        test = bench.scores(model, info, "test", precision=exact)
    default, default_test = queries.default_trial(table), None
    if default is trial:
        default_test = test
    elif default is not None and data.test is not None:
        on_step(f"the default configuration, trial {default.number}, on {len(data.test.images)} test images")
        try:
            default_test = bench.scores(*bench.load(default), "test", precision=exact)
        except ModelError as error:  # such as of a search by version 1, which did not keep it
            on_step(f"  not measured: {error.what}")
    on_step("exporting to ONNX, comparing and timing")
    parity, latency = bench.export(model, info, draft / "model.onnx", precision=precision)
    return Evidence(
        search=bench.folder.name,
        table=table,
        trial=trial,
        info=info,
        data=data,
        val=val,
        test=test,
        default_val=None if default is None else queries.best_scores(default, table.metric),
        default_test=default_test,
        precision=str(precision.dtype).removeprefix("torch."),
        parity=parity,
        latency=latency,
        onnx_bytes=(draft / "model.onnx").stat().st_size,
        versions={package: importlib.metadata.version(package) for package in MEASURED_BY},
        command=command,
    )


def _check_score(val: Scores, table: Table, trial: Trial, precision: Precision) -> None:
    expected, got = trial.best(table.metric)[0], val.value(table.metric)
    allowed = SAME_SCORE_CPU if precision.device.type == "cpu" else SAME_SCORE_GPU
    if abs(got - expected) > allowed:
        name = queries.metric_name(table.metric)
        raise SearchError(
            f"trial {trial.number}: expected {name} {expected:.6f} on val as in the journal, got {got:.6f} from its "
            "best checkpoint; promote it on the machine, and with the versions, that ran the search"
        )


def _put_in_place(draft: Path, bundle: Path) -> None:
    """Rename the finished folder; an old bundle is moved away before, and comes back if that fails."""
    if not bundle.exists():
        draft.rename(bundle)
        return
    old = bundle.with_name(f".{bundle.name}.{uuid4().hex[:8]}.old")
    bundle.rename(old)
    try:
        draft.rename(bundle)
    except OSError:
        old.rename(bundle)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _register(bundle: Path, evidence: Evidence, *, folder: Path, results: Path, uri: str, force: bool) -> Verdict:
    """Make the bundle a version of the model, and the champion where ``judge`` says so."""
    header = evidence.table.header
    try:
        # The server may have been away during the search: now the trial's run exists.
        Mirror(journal_of(folder), uri, artifacts=default_artifacts(results)).catch_up(cut_short=False)
        tracker = Tracker(uri, artifacts=default_artifacts(results))
        runs = tracker.runs({"vqc.search_id": header.search_id, "vqc.trial": str(evidence.trial.number)})
        verdict = judge(evidence, tracker.champion(MODEL_NAME), force=force)
        if verdict.decision == "already":
            return verdict
        _log_test_figures(tracker, runs[0].run_id, evidence)
        version = tracker.register(
            bundle,
            name=MODEL_NAME,
            run_id=runs[0].run_id,
            metrics=evidence.figures(),
            tags={
                "vqc.search": evidence.search,
                "vqc.search_id": header.search_id,
                "vqc.trial": str(evidence.trial.number),
                "vqc.data_fingerprint": evidence.data.fingerprint,
                "vqc.decision": verdict.decision,
            },
            champion=verdict.champion,
        )
    except TrackingError as error:
        return Verdict(decision="unregistered", reason=error.what)
    return Verdict(decision=verdict.decision, reason=verdict.reason, version=version)


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


def judge(evidence: Evidence, champion: ChampionInfo | None, *, force: bool) -> Verdict:
    """Whether the newcomer becomes champion: where there is none, or where it is better on the same test images.

    A tie keeps the champion. Figures of other data prove nothing, and neither do those of val, which chose both.
    """
    if champion is None:
        return Verdict(decision="first", reason="there was no champion yet")
    identity = (evidence.table.header.search_id, str(evidence.trial.number))
    if (champion.tags.get("vqc.search_id"), champion.tags.get("vqc.trial")) == identity:
        return Verdict(decision="already", reason="it is the champion already", version=champion.version)
    if force:
        return Verdict(decision="forced", reason=f"--force replaced version {champion.version} by it")
    name, key = queries.metric_name(evidence.metric), f"test_{evidence.metric}"
    ours, theirs = evidence.figures().get(key), champion.metrics.get(key)
    same_data = champion.tags.get("vqc.data_fingerprint") == evidence.data.fingerprint
    if not same_data or ours is None or theirs is None:
        why = (
            f"there is no {name} on test for both"
            if same_data
            else f"version {champion.version} was measured on other data"
        )
        return Verdict(
            decision="incomparable",
            reason=f"{why}, so the two cannot be compared; --force makes this one the champion all the same",
        )
    figures = f"{name} {ours:.4f} on test against {theirs:.4f} of version {champion.version}"
    if ours > theirs:
        return Verdict(decision="better", reason=figures)
    return Verdict(decision="kept", reason=f"{figures}: not better")
