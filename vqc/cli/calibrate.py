"""``vqc calibrate``: writes score curves and the threshold for a stated escape rate beside the model."""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vqc.shell import as_typed

if TYPE_CHECKING:
    from vqc.evaluation.calibrate import CalibrationReport
    from vqc.inference.calibration import Calibration


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, metavar="PATH", help="weights: a .safetensors file")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with train/, val/ and test/")
    parser.add_argument(
        "--max-escape",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="largest share of the defective parts that may pass (default: 0.01)",
    )
    parser.add_argument(
        "--confidence",
        type=float,
        metavar="C",
        help="confidence, such as 0.95, that the escape rate is not higher (default: it is not higher on average)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the page goes (default: the model's folder)")


def run(args: argparse.Namespace) -> int:
    """Fit on val, measure on test, write ``<model>.calibration.json`` and ``calibration.html``."""
    from vqc.data.dataset import load_data
    from vqc.errors import ModelError
    from vqc.evaluation.calibrate import calibrate
    from vqc.evaluation.operating_point import Goal, check_shares
    from vqc.files import write_atomically
    from vqc.inference.calibration import calibration_path, save_calibration
    from vqc.reporting.calibration_page import calibration_page

    check_shares({"--max-escape": args.max_escape, "--confidence": args.confidence})
    if args.model.suffix == ".onnx":
        weights = args.model.with_suffix(".safetensors")
        raise ModelError(f"{args.model}: expected the weights it was exported from; the calibration serves both",
                         command=f"vqc calibrate --model {weights} --data {args.data}")  # fmt: skip
    data = load_data(args.data)
    goal = Goal(max_escape=args.max_escape, confidence=args.confidence)
    report = calibrate(args.model, data, goal=goal, on_step=lambda text: print(f"{text} ...", flush=True))
    page = (args.out or args.model.parent) / "calibration.html"
    html = calibration_page(report)
    save_calibration(args.model, report.calibration)
    write_atomically(page, html.encode())
    _show(report)
    print(f"wrote {calibration_path(args.model)} and {page}")
    print(f"  next: {as_typed(f'vqc evaluate --model {args.model} --data {args.data}')}")
    return 0


def _show(report: CalibrationReport) -> None:
    from rich.console import Console
    from rich.markup import escape

    from vqc.reporting.terminal import plain_table

    console = Console(highlight=False, soft_wrap=True)
    if (tested := report.on_test) is not None:
        table = plain_table(f"on test, {tested.before.detections} detections", "before", "after")
        for name, key in (("LaECE0", "laece0"), ("D-ECE", "dece")):
            values = (getattr(part, key) for part in (tested.before, tested.after))
            table.add_row(name, *("none" if value is None else f"{value:.3f}" for value in values))
        console.print(table)
    calibration = report.calibration
    console.print(escape(f"method {calibration.method}, {_thresholds(calibration)}"))
    for sentence in report.sentences:
        console.print(f"  {escape(sentence)}")


def _thresholds(calibration: Calibration) -> str:
    point = calibration.operating_point
    if not point.per_class:
        return f"reject from an expected IoU of {point.thresholds[0]:.3f}"
    pairs = zip(calibration.categories, point.thresholds, strict=True)
    return "reject from an expected IoU of " + ", ".join(f"{value:.3f} ({name})" for (_, name), value in pairs)
