"""The names under which figures, settings and sources are logged, in MLflow and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vqc.epoch import EpochReport
from vqc.tracking.mlflow_client import metric_name


def epoch_figures(report: EpochReport) -> dict[str, float]:
    """Name -> value of every figure of an epoch that was measured.

    The part before the slash makes a section of charts in MLflow; ``system`` has a tab of its own.
    """
    scores = report.scores
    machine = report.machine.model_dump() if report.machine else {}
    measured: dict[str, float | None] = {
        **{f"val/{name}": getattr(scores, name) for name in ("ap", "ap50", "ap75", "ar")},
        **{metric_name("class_ap", name): value for name, value in scores.class_ap.items()},
        **{metric_name("loss", name): value for name, value in report.losses.items()},
        "train/learning_rate": report.learning_rate,
        "train/grad_norm": report.grad_norm,
        "train/skipped_steps": report.skipped_steps,
        "time/data_s": report.data_s,
        "time/train_s": report.train_s,
        "time/eval_s": report.eval_s,
        "time/cooling_s": report.cooling_s,
        "time/images_per_s": report.images_per_s,
        "system/peak_vram_gb": report.peak_vram_gb,
        "system/peak_ram_gb": report.peak_ram_gb,
        **{f"system/{name}": value for name, value in machine.items()},
    }
    return {name: value for name, value in measured.items() if value is not None}


def source_tags(name: str, data: Mapping[str, Any], versions: Mapping[str, str], command: str) -> dict[str, str]:
    """Where a training or a search comes from; ``data`` has its root and its fingerprint."""
    commit = {"mlflow.source.git.commit": versions["commit"]} if "commit" in versions else {}
    return {
        "vqc.name": name,
        "vqc.data": str(data.get("root", "")),
        "vqc.data_fingerprint": str(data.get("fingerprint", "")),
        "vqc.versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
        "mlflow.source.name": command,
        **commit,
    }


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as ``outer.inner`` -> text; numbers in full."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            flat[prefix + name] = ("x" if name == "image_size" else ", ").join(map(_text, value))
        else:
            flat[prefix + name] = _text(value)
    return flat


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool | None) else str(value)
