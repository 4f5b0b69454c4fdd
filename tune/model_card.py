"""What a promotion measured, and the texts of its bundle: metrics, training configuration, model card.

Called by ``tune.promote``, which puts the weights and the ONNX file beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tune.history.queries import configuration, count_text, metric_name
from tune.history.table import Table, Trial
from vqc.config import shipped_settings
from vqc.data.dataset import Data, Split
from vqc.epoch import Scores
from vqc.files import write_atomically
from vqc.inference.latency import Latency
from vqc.inference.parity import ParityReport
from vqc.models.checkpoint import ModelInfo

SCHEMA = "train_config.schema.json"
OVERALL = ("ap", "ap50", "ap75", "ar")


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """Everything that is known of a promoted trial.

    Attributes:
        search: name of its folder.
        table: of the search's journal.
        trial: the promoted one.
        info: of its best checkpoint.
        data: what it was trained and measured on.
        val: measured again, in the number format of the training.
        test: in float32, as exported; None without a test split.
        default_val, default_test: of the default configuration's trial; None where not known.
        precision: number format of the training and of ``val``.
        latency: runtime and device, as "onnxruntime, CPU, 1 thread" -> its figures.
        onnx_bytes: size of the exported file.
        versions: of the packages that exported and measured it.
        command: of this promotion.
    """

    search: str
    table: Table
    trial: Trial
    info: ModelInfo
    data: Data
    val: Scores
    test: Scores | None
    default_val: Scores | None
    default_test: Scores | None
    precision: str
    parity: ParityReport
    latency: Mapping[str, Latency]
    onnx_bytes: int
    versions: Mapping[str, str]
    command: str

    @property
    def metric(self) -> str:
        """What the search maximised."""
        return self.table.metric

    @property
    def remark(self) -> str | None:
        """A sentence where the search's gain on val did not carry over to test."""
        if self.test is None or self.default_test is None or self.default_test is self.test:
            return None
        ours, base = (getattr(scores, self.metric) or 0.0 for scores in (self.test, self.default_test))
        if ours >= base:
            return None
        return f"On test the default configuration is better: {metric_name(self.metric)} {base:.3f} against {ours:.3f}."

    def figures(self) -> dict[str, float]:
        """Flat names -> values as the model registry keeps them; what is not known is left out."""
        both = {"val": self.val, "test": self.test}
        known = {
            f"{split}_{name}": getattr(scores, name)
            for split, scores in both.items()
            if scores is not None
            for name in OVERALL
        }
        times = {
            f"{runtime.partition(',')[0]}_{point}": getattr(latency, point)
            for runtime, latency in self.latency.items()
            for point in ("p50_ms", "p95_ms")
        }
        return {name: value for name, value in {**known, **times}.items() if value is not None}


def write_texts(folder: Path, evidence: Evidence) -> None:
    """Write ``train_config.json`` with its schema, ``metrics.json`` and ``model_card.md``."""
    config = {"$schema": SCHEMA, **evidence.info.config.model_dump(mode="json")}
    now = datetime.now(timezone.utc)
    _write_json(folder / "train_config.json", config)
    write_atomically(folder / SCHEMA, shipped_settings(SCHEMA).read_bytes())
    _write_json(folder / "metrics.json", _metrics(evidence, now))
    write_atomically(folder / "model_card.md", markdown_card(evidence, now).encode())


def _write_json(path: Path, content: object) -> None:
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def _metrics(evidence: Evidence, now: datetime) -> dict[str, Any]:
    def scores(found: Scores | None) -> dict[str, Any] | None:
        return None if found is None else found.model_dump(mode="json")

    return {
        "search": evidence.search,
        "trial": evidence.trial.number,
        "epoch": evidence.info.epoch,
        "metric": evidence.metric,
        "val": scores(evidence.val),
        "test": scores(evidence.test),
        "default": {"val": scores(evidence.default_val), "test": scores(evidence.default_test)},
        "precision": {"val": evidence.precision, "test": "float32"},
        "data": evidence.data.summary(),
        "parity": {**asdict(evidence.parity), "passed": evidence.parity.passed},
        "latency": {name: asdict(latency) for name, latency in evidence.latency.items()},
        "onnx_bytes": evidence.onnx_bytes,
        "versions": dict(evidence.versions),
        "created": now.isoformat(timespec="seconds"),
        "command": evidence.command,
    }


def markdown_card(evidence: Evidence, now: datetime) -> str:
    """The model card: what the detector is for, how good it is and on what, and where it came from."""
    parts = [_headline(evidence), _use(evidence), _overall(evidence), _classes(evidence), _export(evidence)]
    return "\n\n".join([*parts, _origin(evidence, now)]) + "\n"


def _headline(evidence: Evidence) -> str:
    height, width = evidence.info.config.image_size
    names = ", ".join(_cell(name) for _, name in evidence.info.categories)
    return (
        f"# Defect detector {_cell(evidence.search)}, trial {evidence.trial.number}\n\n"
        f"`{evidence.info.config.model}`, {width} x {height} px (width x height), finds: {names}."
    )


def _use(evidence: Evidence) -> str:
    test = evidence.data.test
    chosen = count_text(len(evidence.table.trials), "trial")
    unseen = (
        "The test images chose nothing: neither training nor search has seen them."
        if test is not None
        else "**There was no test split**, so nothing is known of images that the search has not seen."
    )
    return (
        "## Use and limits\n\n"
        "It marks the defects it was trained on, in photographs like those it was trained on: the same parts, camera, "
        "light and distance. Other parts, light or kinds of defect need new figures first. A box without a score "
        "above the operating threshold is no proof that a part is good; choose that threshold on data of your own.\n\n"
        f"The val split chose this epoch and this trial among {chosen}, so val figures flatter. {unseen}"
    )


def _overall(evidence: Evidence) -> str:
    rows = ["| | " + " | ".join(metric_name(name) for name in OVERALL) + " | measured on |", "|---" * 6 + "|"]
    val, test = evidence.data.val, evidence.data.test
    lines = (
        ("val", evidence.val, val),
        ("test", evidence.test, test),
        ("val, default configuration", evidence.default_val, val),
        ("test, default configuration", evidence.default_test, test),
    )
    for label, scores, split in lines:
        if scores is not None and split is not None:
            cells = " | ".join(_number(getattr(scores, name)) for name in OVERALL)
            rows.append(f"| {label} | {cells} | {_measured_on(split)} |")
    return (
        "## Figures\n\n"
        "COCO average precision (AP over IoU 0.50 to 0.95, AP50 at 0.50, AP75 at 0.75) and average recall, 0 to 1, "
        f"with 100 detections per image. The search maximised {metric_name(evidence.metric)} on val.\n\n"
        + "\n".join(rows)
        + (f"\n\n**{evidence.remark}**" if evidence.remark else "")
        + f"\n\nVal was measured in {evidence.precision}, as in training; test in float32, as exported."
    )


def _classes(evidence: Evidence) -> str:
    val, test = evidence.data.val, evidence.data.test
    rows = ["| category | AP val | boxes in val | AP test | boxes in test |", "|---" * 5 + "|"]
    for _, name in evidence.info.categories:
        tested = evidence.test.class_ap.get(name) if evidence.test is not None else None
        boxes = str(test.boxes_per_category[name]) if test is not None else "-"
        val_ap = _number(evidence.val.class_ap.get(name))
        rows.append(f"| {_cell(name)} | {val_ap} | {val.boxes_per_category[name]} | {_number(tested)} | {boxes} |")
    return "## By category\n\n" + "\n".join(rows) + "\n\nA category with few boxes has a figure that may be far off."


def _export(evidence: Evidence) -> str:
    parity = evidence.parity
    compared = (
        f"{count_text(parity.detections, 'detection')} on {count_text(parity.images, 'image')} of val were compared "
        f"with torch's: {parity.unmatched} without a partner, lowest overlap {_number(parity.worst_iou, 5)}, largest "
        f"difference of scores {_number(parity.worst_score_difference, 6)}."
        if parity.detections
        else f"On {count_text(parity.images, 'image')} of val neither it nor torch found anything to compare."
    )
    rows = ["| runtime | p50 | p95 | runs |", "|---" * 4 + "|"]
    for name, latency in evidence.latency.items():
        rows.append(f"| {name} | {latency.p50_ms:.1f} ms | {latency.p95_ms:.1f} ms | {latency.runs} |")
    return (
        f"## The ONNX file\n\n`model.onnx`, {evidence.onnx_bytes / 1e6:.1f} MB. {compared}\n\n"
        "Time from a decoded picture to its detections, one picture at a time: scaling, network and sorting; decoding "
        "the file and the first runs are left out.\n\n" + "\n".join(rows)
    )


def _origin(evidence: Evidence, now: datetime) -> str:
    header, config = evidence.table.header, evidence.info.config
    versions = {**header.versions, **evidence.versions}
    searched = configuration(evidence.trial.params) or "the default configuration"
    lines = [
        f"data: {_cell(str(header.data.get('root', '?')))}",
        f"data fingerprint (sha256 of annotations and images): `{evidence.info.fingerprint}`",
        f"training images: {len(evidence.data.train.images)} ({evidence.data.train.defective} with defects)",
        f"searched: {_cell(searched)}",
        f"epoch: {evidence.info.epoch} of {config.num_epochs}",
        f"seed: {config.seed}",
        f"initial weights: {config.weights}",
        f"search: `{header.command}`",
        f"promotion: `{evidence.command}`",
        f"date: {now:%Y-%m-%d %H:%M} UTC",
        "versions: " + ", ".join(f"{package} {version}" for package, version in versions.items()),
    ]
    return "## Origin\n\n" + "\n".join(f"- {line}" for line in lines)


def _measured_on(split: Split) -> str:
    images = count_text(len(split.images), "image")
    return f"{images}, {split.defective} with {split.boxes} defects, {split.good} good"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _cell(text: str) -> str:
    """Any text as it is: neither a table's border nor markup."""
    escaped = "".join(f"\\{letter}" if letter in "\\|*_`<>[]#" else letter for letter in text)
    return " ".join(escaped.split())
