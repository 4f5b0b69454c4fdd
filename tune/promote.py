"""A search's best trial, measured again, as a bundle that can be used and signed; and whether it is the champion.

Called by ``tune.export_best``. Reads the journal and the trial's best checkpoint; writes
``results/promoted/<search>-<trial>/`` and a version of the model ``vqc-detector`` in MLflow's registry.
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

from tune.history import queries as outcome
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
from vqc.tracking.mlflow_client import ChampionInfo, Point, Tracker, TrackingError
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
    """What became of the newcomer in the registry, and why in one sentence.

    ``first``, ``better`` and ``forced`` made it the champion, ``already`` found that it is; ``kept`` and
    ``incomparable`` left the old champion; ``unregistered``: the registry could not be reached, or refused.
    """

    decision: Decision
    reason: str
    version: str | None = None

    @property
    def champion(self) -> bool:
        """Whether this detector bears the alias now."""
        return self.decision in ("first", "better", "forced", "already")


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """What was promoted, where it lies, and what the registry made of it."""

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
        bundle: folder of the bundle; None: ``promoted/<search>-<trial>`` in the results. A bundle there gives way.
        data_root: where the search's data lies now; None: where it was.
        force: make it the champion whatever the present one reached.
        command: that was typed, for the model card.
        on_step: is told in few words what happens next.

    Raises:
        SearchError: no finished trial, or the data or a figure is not what the journal says. Nothing is written.
        DataError: the data cannot be used.
        ModelError: the checkpoint is damaged, cannot be exported, or ONNX finds something else than torch.
    """
    table = read_table(journal_of(folder))
    trial = _best_trial(table, folder)
    on_step("reading the data")
    data = _same_data(table, folder, data_root)
    checkpoint = trial_folder(folder, trial.number) / "best.safetensors"
    model, info = load_model(checkpoint)
    _check_checkpoint(info, table, trial, checkpoint)
    bundle = _free(bundle or results / "promoted" / f"{folder.name}-{trial.number:03d}")
    draft = bundle.with_name(f".{bundle.name}.{uuid4().hex[:8]}.tmp")
    try:
        with one_core_spared():
            evidence = _measured(
                model,
                info,
                data,
                table,
                trial,
                folder=folder,
                draft=draft,
                results=results,
                command=command,
                on_step=on_step,
            )
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
    if best is None or not outcome.has_finished_trial(table):
        states = ", ".join(f"{count} {state}" for state, count in outcome.state_counts(table).items()) or "no trials"
        raise SearchError(
            f"{folder}: nothing to promote; expected a finished trial with a score, got {states}",
            command=outcome.resume_command(folder.name),
        )
    return best


def _free(bundle: Path) -> Path:
    """The absolute place of a bundle, which replaces nothing but another bundle."""
    # By two of its files: DVC removes those that it knows before it makes them again.
    if bundle.exists() and not any((bundle / name).is_file() for name in ("model_card.md", SCHEMA)):
        raise SearchError(f"{bundle}: holds something else than a bundle, expected a new folder")
    return bundle.absolute()


def _same_data(table: Table, folder: Path, data_root: Path | None) -> Data:
    root = data_root or Path(str(table.header.data["root"]))
    if not root.is_dir() and data_root is None:
        raise SearchError(
            f"{root}: the data of the search '{folder.name}' is no longer there",
            command=f"{outcome.export_command(folder.name)} --data DIR",
        )
    data = load_data(root)
    if data.fingerprint != table.header.data["fingerprint"]:
        raise SearchError(
            f"{root}: an image or annotation changed since the search '{folder.name}' began; expected fingerprint "
            f"{str(table.header.data['fingerprint'])[:12]}, got {data.fingerprint[:12]}",
            command=f"{outcome.export_command(folder.name)} --data DIR",
        )
    return data


def _check_checkpoint(info: ModelInfo, table: Table, trial: Trial, path: Path) -> None:
    """The file must be of this trial's best epoch; a search that was killed may have saved one that no one heard of."""
    epoch = trial.best(table.metric)[1]
    if info.fingerprint != table.header.data["fingerprint"] or info.config != trial.config:
        raise ModelError(
            f"{path}: is of another configuration or of other data than the journal's trial {trial.number}"
        )
    if info.epoch != epoch:
        raise ModelError(
            f"{path}: holds epoch {info.epoch}, expected the best one in the journal, {epoch}",
            command=outcome.resume_command(table.header.name),
        )


def _measured(
    model: nn.Module,
    info: ModelInfo,
    data: Data,
    table: Table,
    trial: Trial,
    *,
    folder: Path,
    draft: Path,
    results: Path,
    command: str,
    on_step: Callable[[str], None],
) -> Evidence:
    """All figures of the detector; its ONNX file is written into the draft on the way."""
    precision = choose_precision(info.config)
    exact = Precision(device=precision.device, dtype=torch.float32)
    cache = cache_folder(results)
    on_step(f"trial {trial.number} on {len(data.val.images)} val images")
    val = _scores(model, info, data, "val", precision=precision, cache=cache)
    _check_score(val, table, trial, precision)
    test = None
    if data.test is not None:
        on_step(f"trial {trial.number} on {len(data.test.images)} test images")
        test = _scores(model, info, data, "test", precision=exact, cache=cache)
    default = outcome.default_trial(table)
    default_val = None if default is None else outcome.best_scores(default, table.metric)
    default_test = test if default is trial else _default_test(default, folder, data, precision=exact, cache=cache)
    on_step("exporting to ONNX, comparing and timing")
    parity, latency = _exported(model, info, data, draft / "model.onnx", precision=precision, cache=cache)
    return Evidence(
        search=folder.name,
        table=table,
        trial=trial,
        info=info,
        data=data,
        val=val,
        test=test,
        default_val=default_val,
        default_test=default_test,
        precision=str(precision.dtype).removeprefix("torch."),
        parity=parity,
        latency=latency,
        onnx_bytes=(draft / "model.onnx").stat().st_size,
        versions={package: importlib.metadata.version(package) for package in MEASURED_BY},
        command=command,
    )


def _scores(model: nn.Module, info: ModelInfo, data: Data, split: str, *, precision: Precision, cache: Path) -> Scores:
    """As training scores val: the same batches, so that equal weights give equal figures."""
    config = info.config
    images = FittedImages(data, split, size=config.image_size, cache=cache)
    move_detector(model, precision.device)
    with backend_settings(config):
        batches = evaluation_batches(images, batch_size=config.batch_size, threads=config.num_workers)
        found = detect(model, batches, images.split, size=config.image_size, precision=precision)
    return coco_scores(images.split, found)


def _check_score(val: Scores, table: Table, trial: Trial, precision: Precision) -> None:
    expected, got = trial.best(table.metric)[0], getattr(val, table.metric) or 0.0
    allowed = SAME_SCORE_CPU if precision.device.type == "cpu" else SAME_SCORE_GPU
    if abs(got - expected) > allowed:
        name = outcome.metric_name(table.metric)
        raise SearchError(
            f"trial {trial.number}: expected {name} {expected:.6f} on val as in the journal, got {got:.6f} from its "
            "best checkpoint; promote it on the machine, and with the versions, that ran the search"
        )


def _default_test(
    default: Trial | None, folder: Path, data: Data, *, precision: Precision, cache: Path
) -> Scores | None:
    """The default configuration on test, where its checkpoint is still there: only the leaders' are kept."""
    if default is None or data.test is None:
        return None
    try:
        model, info = load_model(trial_folder(folder, default.number) / "best.safetensors")
    except ModelError:
        return None
    return _scores(model, info, data, "test", precision=precision, cache=cache)


def _exported(
    model: nn.Module, info: ModelInfo, data: Data, path: Path, *, precision: Precision, cache: Path
) -> tuple[ParityReport, Mapping[str, Latency]]:
    fitted = FittedImages(data, "val", size=info.config.image_size, cache=cache)
    pictures = [read_image(record) for record in data.val.images[:LATENCY_IMAGES]]
    on_torch = measure_latency(torch_predictor(model, info, precision=precision), pictures)
    export_onnx(model.cpu(), info, path)
    exported, exact = open_predictor(path), Precision(device=torch.device("cpu"), dtype=torch.float32)
    images = [fitted[index] for index in range(min(PARITY_IMAGES, len(fitted)))]
    parity = check_parity(torch_predictor(model, info, precision=exact), exported, images)
    if not parity.passed:
        raise ModelError(
            f"the ONNX file does not find what torch finds on {parity.images} val images: {parity.unmatched} of "
            f"{parity.detections} detections without a partner, scores {parity.worst_score_difference or 0:.2g} apart"
        )
    on_onnx = measure_latency(exported, pictures)
    return parity, {f"torch, {on_torch.device}": on_torch, f"onnxruntime, {on_onnx.device}": on_onnx}


def _put_in_place(draft: Path, bundle: Path) -> None:
    """Rename the finished folder; one that is there already gives way first, and comes back if that fails."""
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
    """Make the bundle a version of the model, and the champion where it deserves it."""
    header = evidence.table.header
    try:
        # The trial's run exists, whatever the tracking server went through during the search.
        Mirror(journal_of(folder), uri, artifacts=results / "mlartifacts").catch_up(cut_short=False)
        tracker = Tracker(uri, artifacts=results / "mlartifacts")
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
    with suppress(TrackingError):  # the registry's own call comes next and tells of an outage
        tracker.log(run_id, points=points, params={}, tags={})


def judge(evidence: Evidence, champion: ChampionInfo | None, *, force: bool) -> Verdict:
    """Whether the newcomer becomes champion: where there is none, or where it is better on the same test images.

    A tie keeps the champion. Figures of other data, or of val, which chose both, prove nothing.
    """
    name, key = outcome.metric_name(evidence.metric), f"test_{evidence.metric}"
    if champion is None:
        return Verdict(decision="first", reason="there was no champion yet")
    identity = (evidence.table.header.search_id, str(evidence.trial.number))
    if (champion.tags.get("vqc.search_id"), champion.tags.get("vqc.trial")) == identity:
        return Verdict(decision="already", reason="it is the champion already", version=champion.version)
    if force:
        return Verdict(decision="forced", reason=f"--force put it in the place of version {champion.version}")
    ours, theirs = evidence.figures().get(key), champion.metrics.get(key)
    if champion.tags.get("vqc.data_fingerprint") != evidence.data.fingerprint:
        why = f"version {champion.version} was measured on other data, so the two cannot be compared"
        return Verdict(decision="incomparable", reason=f"{why}; --force takes this one all the same")
    if ours is None or theirs is None:
        why = f"there is no {name} on test for both, so the two cannot be compared"
        return Verdict(decision="incomparable", reason=f"{why}; --force takes this one all the same")
    figures = f"{name} {ours:.4f} on test against {theirs:.4f} of version {champion.version}"
    if ours > theirs:
        return Verdict(decision="better", reason=figures)
    return Verdict(decision="kept", reason=f"{figures}: not better")
