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

from tune.history.queries import best_scores, configuration, count_text, default_trial, metric_name
from tune.history.table import Table, Trial
from vqc.config import shipped_settings
from vqc.data.dataset import Data
from vqc.epoch import Scores
from vqc.evaluation.calibrate import promise
from vqc.evaluation.evaluate import Evaluated
from vqc.files import write_atomically
from vqc.inference.calibration import Calibration
from vqc.inference.detections import Detections
from vqc.inference.latency import Latency
from vqc.inference.parity import ParityReport
from vqc.models.checkpoint import ModelInfo

SCHEMA = "train_config.schema.json"
TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.j2"
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
        val: measured again, in the data type of the training.
        on_val: detections on val with calibrated scores.
        calibration: with the operating point.
        tested: everything measured on test in float32, as exported; None without a test split.
        default_test: of the default configuration's trial; None where unknown.
        precision: data type of the training and of ``val``.
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
    on_val: tuple[Detections, ...]
    calibration: Calibration
    tested: Evaluated | None
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
    def test(self) -> Scores | None:
        """COCO scores on test; None without a test split."""
        return self.tested.record.coco if self.tested else None

    @property
    def default_val(self) -> Scores | None:
        """The best scores of the default configuration in the journal; None where it is not there."""
        default = default_trial(self.table)
        return None if default is None else best_scores(default, self.metric)

    @property
    def remark(self) -> str | None:
        """A sentence where the search's gain on val did not carry over to test."""
        if self.test is None or self.default_test is None or self.default_test is self.test:
            return None
        ours, base = self.test.value(self.metric), self.default_test.value(self.metric)
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
        rates = (
            {"escape": self.tested.record.per_part.escape, "overkill": self.tested.record.per_part.overkill}
            if self.tested
            else {}
        )
        signed = {f"test_{name}": rate.value for name, rate in rates.items()}
        return {name: value for name, value in {**known, **signed, **times}.items() if value is not None}


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
    measured = {
        "val": evidence.val,
        "test": evidence.test,
        "default_val": evidence.default_val,
        "default_test": evidence.default_test,
    }
    scores = {name: None if found is None else found.model_dump(mode="json") for name, found in measured.items()}
    return {
        "search": evidence.search,
        "trial": evidence.trial.number,
        "epoch": evidence.info.epoch,
        "metric": evidence.metric,
        "val": scores["val"],
        "test": scores["test"],
        "default": {"val": scores["default_val"], "test": scores["default_test"]},
        "operating_point": evidence.calibration.operating_point.model_dump(mode="json"),
        "test_per_part": evidence.tested.record.per_part.model_dump(mode="json") if evidence.tested else None,
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
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Markdown, not HTML: the filter ``text`` escapes what comes from data.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"config": configuration, "count": count_text, "text": _escaped}
    environment.filters |= {"number": _number}
    return environment.get_template(TEMPLATE.name).render(
        e=evidence,
        data=evidence.data,
        header=evidence.table.header,
        info=evidence.info,
        now=now,
        overall=OVERALL,
        promise=list(promise(evidence.calibration.operating_point)),
        rates=evidence.tested.record.per_part if evidence.tested else None,
        versions={**evidence.table.header.versions, **evidence.versions},
    )


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _escaped(text: str) -> str:
    """Any text as it is: neither a table's border nor markup."""
    escaped = "".join(f"\\{letter}" if letter in "\\|*_`<>[]#" else letter for letter in text)
    return " ".join(escaped.split())
