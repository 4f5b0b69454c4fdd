"""``vqc evaluate``: all figures of a detector on one split, as JSON, as a page, and in MLflow."""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vqc.evaluation.evaluate import Evaluation
    from vqc.evaluation.intervals import Rate

SPLITS = ("train", "val", "test")


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, metavar="PATH", help="model.safetensors or model.onnx")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with train/, val/ and test/")
    parser.add_argument("--split", choices=SPLITS, default="test", help="images to evaluate on (default: test)")
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="reject from this score (default: the calibration's)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: the model's folder)")
    parser.add_argument("--mlflow", metavar="URI", help="tracking server (default: sqlite:///results/mlflow.db)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="of MLflow's own files")


def run(args: argparse.Namespace) -> int:
    """Evaluate; write ``metrics/evaluation_results.json`` and ``evaluation.html``; log both in MLflow."""
    from vqc.data.dataset import load_data
    from vqc.evaluation.evaluate import evaluate
    from vqc.files import write_atomically
    from vqc.reporting.evaluation_page import evaluation_page
    from vqc.tracking.mlflow_client import redacted

    evaluated = evaluate(
        args.model,
        load_data(args.data),
        split=args.split,
        threshold=args.threshold,
        command=shlex.join(["vqc", *map(redacted, args.words)]),
        on_step=lambda text: print(f"{text} ...", flush=True),
    )
    folder = args.out or args.model.parent
    html = evaluation_page(evaluated)
    figures, page = results_path(folder), folder / "evaluation.html"
    write_atomically(figures, (evaluated.record.model_dump_json(indent=2) + "\n").encode())
    write_atomically(page, html.encode())
    _show(evaluated.record)
    print(f"wrote {figures} and {page}")
    _track(evaluated.record, (figures, page), name=f"evaluate {folder.name}", uri=args.mlflow, results=args.results)
    return 0


def results_path(folder: Path) -> Path:
    """The evaluation's JSON in a run's folder."""
    return folder / "metrics" / "evaluation_results.json"


def _show(record: Evaluation) -> None:
    from rich.console import Console
    from rich.markup import escape

    from vqc.evaluation.bootstrap import METRICS
    from vqc.reporting.terminal import plain_table

    console = Console(highlight=False, soft_wrap=True)
    table = plain_table(f"on {record.split}, {record.images} images", "", "two-sided 95 % interval", left=(0, 2))
    table.add_row("escape: defective parts that pass", *_cells(record.per_part.escape))
    table.add_row("overkill: good parts rejected", *_cells(record.per_part.overkill))
    for name in METRICS:
        value, interval = getattr(record.coco, name), getattr(record.coco_intervals, name)
        span = f"{interval.low:.3f} to {interval.high:.3f}" if interval else ""
        table.add_row(name.upper(), "none" if value is None else f"{value:.3f}", span)
    latency = record.latency
    table.add_row("latency p50, p95", f"{latency.p50_ms:.1f}, {latency.p95_ms:.1f} ms", latency.device)
    console.print(table)
    for sentence in (record.threshold_source, record.per_part.escape.sentence, *record.notes):
        if sentence:
            console.print(f"  {escape(sentence)}")


def _cells(rate: Rate) -> tuple[str, str]:
    from vqc.evaluation.intervals import percent

    value = "none" if rate.value is None else f"{percent(rate.value)} ({rate.count} of {rate.total})"
    interval = f"{percent(rate.low)} to {percent(rate.high)}" if rate.low is not None and rate.high is not None else ""
    return value, "; ".join(text for text in (interval, rate.reason) if text)


def _track(record: Evaluation, files: tuple[Path, ...], *, name: str, uri: str | None, results: Path) -> None:
    """Log one run in MLflow; if it cannot be reached, print one sentence."""
    import time

    from vqc.tracking.mlflow_client import Point, Tracker, TrackingError, default_artifacts, default_uri

    now_ms = int(time.time() * 1000)
    points = [Point(key, value, record.epoch, now_ms) for key, value in _flat(record).items()]
    try:
        if uri is None:
            results.mkdir(parents=True, exist_ok=True)
        tracker = Tracker(uri or default_uri(results), artifacts=default_artifacts(results))
        run_id = tracker.create(name, tags={"vqc.kind": "evaluation"}, start_ms=now_ms)
        params = {"model": record.model_file, "model_sha256": record.model_sha256, "split": record.split,
                  "data_fingerprint": str(record.data["fingerprint"])}  # fmt: skip
        tracker.log(run_id, points=points, params=params, tags={})
        for file in files:
            tracker.log_artifact(run_id, file)
        tracker.set_status(run_id, "FINISHED", end_ms=now_ms)
    except TrackingError as error:
        print(f"not in MLflow: {error.what}", file=sys.stderr)


def _flat(record: Evaluation) -> dict[str, float]:
    """Metric name -> value; figures without a value are left out."""
    from vqc.evaluation.bootstrap import METRICS
    from vqc.tracking.mlflow_client import metric_name

    rates, spans = record.per_part, record.coco_intervals
    of_split: dict[str | tuple[str, str], float | None] = {
        **{name: getattr(record.coco, name) for name in METRICS},
        **{("class_ap", name): value for name, value in record.coco.class_ap.items()},
        **{("area_ap", name): scores.ap for name, scores in record.coco_by_area.items()},
        **{
            f"{name}_{end}": getattr(getattr(spans, name), end, None)
            for name in ("ap", "ap50")
            for end in ("low", "high")
        },
        **{name: getattr(rates, name).value for name in ("escape", "overkill")},
        **{f"{name}_high": getattr(rates, name).high for name in ("escape", "overkill")},
        **{name: getattr(record.score_errors, name) for name in ("laece0", "dece")},
    }
    values = {
        metric_name(record.split, *([key] if isinstance(key, str) else key)): value for key, value in of_split.items()
    }
    values |= {"latency_p50_ms": record.latency.p50_ms, "latency_p95_ms": record.latency.p95_ms}
    return {name: value for name, value in values.items() if value is not None}
