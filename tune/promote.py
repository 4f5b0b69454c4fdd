"""The promotion of a search's best trial: measured again, calibrated, exported, and compared with the champion.

Reads the journal and the trial's best checkpoint; writes the bundle ``results/promoted/<search>-<trial>/`` and a
version of the model ``vqc-detector`` in MLflow's registry. Val chooses the operating point, test is measured once.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import torch
from torch import nn

from tune.champion import Judged, Registry, Verdict, judged_on
from tune.history import queries
from tune.history.journal import read_table
from tune.history.table import Table, Trial
from tune.model_card import SCHEMA, Evidence, write_texts
from tune.paths import journal_of, trial_folder
from tune.policy.replication import best_trial
from tune.reporting.conclusions import resume_command
from vqc.data.dataset import Data, load_data, read_to_fit
from vqc.data.loader import FittedImages, evaluation_batches
from vqc.data.splitting.corrections import reviewed_week
from vqc.epoch import Scores
from vqc.errors import ModelError, SearchError
from vqc.evaluation.calibrate import fit_calibration
from vqc.evaluation.coco_metrics import coco_scores, detect
from vqc.evaluation.evaluate import evaluate
from vqc.evaluation.operating_point import Goal, check_parts, usual_goal
from vqc.evaluation.sign_off import detections_content
from vqc.files import write_atomically, write_json
from vqc.hardware.precision import Precision, choose_precision
from vqc.inference.bundle import (
    REFERENCE,
    choose_golden,
    name_challenger,
    name_champion,
    reference_stats,
    write_golden,
    write_manifest,
)
from vqc.inference.calibration import save_calibration
from vqc.inference.latency import LATENCY_IMAGES, Latency, measure_latency, one_core_spared
from vqc.inference.model_file import open_predictor
from vqc.inference.onnx_export import export_onnx
from vqc.inference.parity import ParityReport, check_parity
from vqc.inference.torch_backend import torch_predictor
from vqc.models.build import move_detector
from vqc.models.checkpoint import ModelInfo, load_model, save_model
from vqc.reporting.sign_off_page import sign_off_page
from vqc.results import cache_folder
from vqc.tracking.mlflow_model import write_mlflow_model
from vqc.training.loop import backend_settings

PARITY_IMAGES = 20
MEASURED_BY = ("torch", "torchvision", "onnx", "onnxruntime", "vqc-tune")

# The same weights on the same machine give the same scores: exactly on a CPU but for the order of sums, which the
# number of threads decides. On a GPU cuDNN chooses its algorithms by timing them, and half precision ties more often.
SAME_SCORE_CPU, SAME_SCORE_GPU = 1e-6, 5e-3


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
    goal: Goal | None = None,
    force: bool = False,
    command: str = "",
    on_step: Callable[[str], None] = lambda text: None,
) -> Promotion:
    """Measure, calibrate, export, compare, bundle and register the best trial of a search, in this order.

    Args:
        folder: of the search.
        results: where the bundle, the fitted images and MLflow's files go.
        tracking_uri: of MLflow; may hold a password.
        bundle: folder of the bundle; None: ``promoted/<search>-<trial>`` in the results. A bundle there is replaced.
        data_root: where the search's data is now; None: where it was.
        goal: the escape rate to promise; None: the usual one, or the lowest that val can promise.
        force: make it the champion whatever the comparison says.
        command: that was typed, for the model card.
        on_step: called with a few words before each step.

    Raises:
        SearchError: no finished trial, or the data or a figure is not what the journal says. Nothing is written.
        DataError: the data cannot be used, or val has too few defective parts for the goal.
        ModelError: the checkpoint is damaged, cannot be exported, or ONNX finds something else than torch.
    """
    table = read_table(journal_of(folder))
    trial = _best_trial(table, folder)
    on_step("reading the data")
    bench = _Bench(folder=folder, table=table, data=_same_data(table, folder, data_root), cache=cache_folder(results))
    goal = goal or usual_goal(bench.data.val)
    check_parts(bench.data.val, goal, command=queries.export_command(folder.name))
    model, info = bench.load(trial)
    bundle = _free(bundle or results / "promoted" / f"{folder.name}-{trial.number:03d}")
    draft = bundle.with_name(f".{bundle.name}.{uuid4().hex[:8]}.tmp")
    registry = Registry(uri=tracking_uri, results=results, journal=journal_of(folder))
    try:
        with one_core_spared():
            evidence = _measured(bench, trial, model, info, goal=goal, draft=draft, command=command, on_step=on_step)
            on_step("comparing with the champion")
            verdict = registry.judge(evidence, week=_on_the_newest_week(draft, bench.data), force=force)
            _write_rest(draft, evidence, verdict)
        _put_in_place(draft, bundle)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    on_step("registering")
    verdict = registry.register(bundle, evidence, verdict)
    if verdict.champion:
        name_champion(results / "promoted", bundle)
    elif verdict.version is not None:
        name_challenger(results / "promoted", bundle)
    return Promotion(bundle=bundle, evidence=evidence, verdict=verdict)


def _best_trial(table: Table, folder: Path) -> Trial:
    best = best_trial(table)
    if best is None or not queries.has_finished_trial(table):
        states = queries.states_text(queries.state_counts(table))
        raise SearchError(
            f"{folder}: nothing to promote; expected a finished trial with a score, got {states}",
            command=resume_command(table),
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
        config = info.config
        if trial.shortened:  # perhaps after its best epoch
            config = config.model_copy(update={"num_epochs": trial.config.num_epochs})
        if info.fingerprint != self.table.header.data["fingerprint"] or config != trial.config:
            raise ModelError(
                f"{path}: is of another configuration or of other data than the journal's trial {trial.number}"
            )
        epoch = trial.best(self.table.metric)[1]
        if info.epoch != epoch:
            raise ModelError(
                f"{path}: holds epoch {info.epoch}, expected the best one in the journal, {epoch}",
                command=resume_command(self.table),
            )
        return model, info

    def scores(self, model: nn.Module, info: ModelInfo, split: str, *, precision: Precision) -> Scores:
        """As training scores val: the same batches, so that equal weights give equal figures."""
        config = info.config
        images = FittedImages(self.data, split, size=config.image_size, cache=self.cache, tiles=info.tiles)
        move_detector(model, precision.device)
        with backend_settings(config):
            batches = evaluation_batches(images, batch_size=config.batch_size, threads=config.num_workers)
            found = detect(model, batches, images, precision=precision)
        return coco_scores(images.split, found)

    def export(self, model: nn.Module, info: ModelInfo, path: Path) -> tuple[ParityReport, Latency]:
        """Write the ONNX file, compare it with torch, and time it.

        Raises:
            ModelError: they do not find the same.
        """
        fitted = FittedImages(self.data, "val", size=info.config.image_size, cache=self.cache, tiles=info.tiles)
        export_onnx(model.cpu(), info, path)
        exported, exact = open_predictor(path), Precision(device=torch.device("cpu"), dtype=torch.float32)
        images = [fitted[index] for index in range(min(PARITY_IMAGES, len(fitted)))]
        del fitted  # it may hold photographs
        parity = check_parity(torch_predictor(model, info, precision=exact), exported, images)
        if not parity.passed:
            raise ModelError(
                f"the ONNX file does not find what torch finds on {parity.images} val images: {parity.unmatched} of "
                f"{parity.detections} detections without a partner, scores {parity.worst_score_difference or 0:.2g} "
                "apart"
            )
        pictures = [read_to_fit(record, exported.decoded_for) for record in self.data.val.images[:LATENCY_IMAGES]]
        return parity, measure_latency(exported, pictures)


def _measured(
    bench: _Bench,
    trial: Trial,
    model: nn.Module,
    info: ModelInfo,
    *,
    goal: Goal,
    draft: Path,
    command: str,
    on_step: Callable[[str], None],
) -> Evidence:
    """All figures of the detector; weights, calibration and ONNX file are written into the draft on the way."""
    data, table, weights = bench.data, bench.table, draft / "model.safetensors"
    precision = choose_precision(info.config)
    on_step(f"trial {trial.number} on {len(data.val.images)} val images")
    val = bench.scores(model, info, "val", precision=precision)
    _check_score(val, table, trial, precision)
    save_model(weights, model, info)
    on_step(f"choosing the threshold for {goal}")
    predictor = torch_predictor(model, info)
    calibration, _, on_val = fit_calibration(predictor, weights.name, data, goal=goal)
    save_calibration(weights, calibration)
    tested = None
    if data.test is not None:
        tested = evaluate(weights, data, split="test", command=command, on_step=on_step)
    default_test = None
    if tested is not None:
        default_test = _default_on_test(bench, trial, tested.record.coco, precision.device, on_step)
    on_step("exporting to ONNX, comparing and timing")
    parity, on_onnx = bench.export(model, info, draft / "model.onnx")
    on_torch = [tested.record.latency] if tested else []
    latency = {f"torch, {one.device}": one for one in on_torch} | {f"onnxruntime, {on_onnx.device}": on_onnx}
    return Evidence(
        search=bench.folder.name,
        table=table,
        trial=trial,
        info=info,
        data=data,
        val=val,
        on_val=tuple(on_val),
        calibration=calibration,
        tested=tested,
        default_test=default_test,
        precision=str(precision.dtype).removeprefix("torch."),
        parity=parity,
        latency=latency,
        onnx_bytes=(draft / "model.onnx").stat().st_size,
        versions={package: importlib.metadata.version(package) for package in MEASURED_BY},
        command=command,
    )


def _default_on_test(
    bench: _Bench, trial: Trial, scores: Scores, device: torch.device, on_step: Callable[[str], None]
) -> Scores | None:
    """Test scores of the default configuration's own checkpoint, in float32; None where there are none.

    ``scores``: the promoted trial's, which may be the default itself.
    """
    default = queries.default_trial(bench.table)
    if default is None or default is trial:
        return None if default is None else scores
    on_step(f"the default configuration, trial {default.number}, on test")
    try:
        return bench.scores(*bench.load(default), "test", precision=Precision(device=device, dtype=torch.float32))
    except ModelError as error:  # such as of a search by version 1, which did not keep it
        on_step(f"  not measured: {error.what}")
        return None


def _on_the_newest_week(draft: Path, data: Data) -> Judged | None:
    """What the detector finds on what operators reviewed last, where some of it was held out."""
    week = reviewed_week(data)
    return None if week is None else judged_on(open_predictor(draft / "model.safetensors"), data, week)


def _write_rest(draft: Path, evidence: Evidence, verdict: Verdict) -> None:
    """Everything of the bundle but the weights, the calibration and the ONNX file; the manifest last."""
    data, tested = evidence.data, evidence.tested
    exported = open_predictor(draft / "model.onnx")
    photographs = (read_to_fit(record, exported.decoded_for) for record in data.val.images)  # one at a time
    highest = [float(one.scores.max(initial=0.0)) for one in evidence.on_val]
    write_json(draft / REFERENCE, reference_stats(photographs, highest).model_dump(mode="json"))
    golden = choose_golden([(record.path, record.defective) for record in data.val.images])
    write_golden(draft, golden, exported)
    write_mlflow_model(draft, example=min(golden, key=lambda path: path.stat().st_size))
    if tested is not None:
        write_json(draft / "trade_off.json", tested.record.trade_off.model_dump(mode="json"))
        write_json(draft / "detections.json", detections_content(tested, evidence.calibration))
        page = sign_off_page(
            tested,
            evidence.calibration,
            name=f"{evidence.search}, trial {evidence.trial.number}",
            decision="may replace the champion" if verdict.champion else "does not replace the champion",
            reason=verdict.reason,
            comparison=verdict.comparison,
            week=verdict.week,
        )
        write_atomically(draft / "signoff.html", page.encode())
    write_texts(draft, evidence)
    write_manifest(draft)


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
