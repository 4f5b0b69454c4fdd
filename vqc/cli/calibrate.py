"""``vqc calibrate``: scores that mean something, and the threshold for a stated escape rate, beside the model."""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vqc.shell import as_typed

if TYPE_CHECKING:
    from vqc.inference.calibration import Calibration
    from vqc.reporting.calibration_page import CalibrationReport

__all__ = ["add_flags", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, metavar="PATH", help="weights: a .safetensors file")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with train/, val/ and test/")
    parser.add_argument(
        "--max-escape",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="defective parts that may pass, as a share of them (default: 0.01)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the page goes (default: the model's folder)")


def run(args: argparse.Namespace) -> int:
    """Fit on val, measure on test, write ``<model>.calibration.json`` and ``calibration.html``."""
    from vqc.data.dataset import load_data
    from vqc.errors import ConfigError, ModelError
    from vqc.files import write_atomically
    from vqc.inference.calibration import calibration_path, save_calibration
    from vqc.reporting.calibration_page import calibrate, calibration_page

    if not 0 < args.max_escape < 1:
        raise ConfigError("--max-escape", [f"got {args.max_escape:g}, expected a share between 0 and 1, such as 0.01"])
    if args.model.suffix == ".onnx":
        weights = args.model.with_suffix(".safetensors")
        raise ModelError(f"{args.model}: expected the weights it was exported from; the calibration serves both",
                         command=f"vqc calibrate --model {weights} --data {args.data}")  # fmt: skip
    data = load_data(args.data)
    report = calibrate(args.model, data, max_escape=args.max_escape, on_step=lambda text: print(f"{text} ..."))
    page = (args.out or args.model.parent) / "calibration.html"
    html = calibration_page(report)
    save_calibration(args.model, report.calibration)
    write_atomically(page, html.encode())
    _show(report)
    print(f"wrote {calibration_path(args.model)} and {page}")
    print(f"  next: {as_typed(f'vqc evaluate --model {args.model} --data {args.data}')}")
    return 0


def _show(report: CalibrationReport) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    if report.before is not None and report.after is not None:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for column in (f"on test, {report.before.detections} detections", "before", "after"):
            table.add_column(column, justify="left" if column.startswith("on") else "right")
        for name, key in (("LaECE0", "laece0"), ("D-ECE", "dece")):
            table.add_row(name, *(_number(getattr(part, key)) for part in (report.before, report.after)))
        console.print(table)
    console.print(f"method {report.calibration.method}, {_thresholds(report.calibration)}")
    for sentence in report.sentences:
        console.print(f"  {escape(sentence)}")


def _thresholds(calibration: Calibration) -> str:
    point = calibration.operating_point
    if not point.per_class:
        return f"reject from score {point.thresholds[0]:.3f}"
    pairs = zip(calibration.categories, point.thresholds, strict=True)
    return "reject from score " + ", ".join(f"{value:.3f} ({name})" for (_, name), value in pairs)


def _number(value: float | None) -> str:
    return "cannot be told" if value is None else f"{value:.3f}"
