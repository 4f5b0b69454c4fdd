"""``vqc check``: everything that is wrong with a folder of annotated images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from vqc.data.dataset import Data
    from vqc.data.defect_size import DetectorInput
    from vqc.data.findings import Finding, Severity
    from vqc.evaluation.label_errors import LabelErrors

FOLDS = "folds"
SHOWN_PER_KIND = 20
SPLIT_MENDS = {"same picture in two splits", "same part in two splits"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder with train/, val/ and, if there is one, test/"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        nargs="+",
        metavar="PX",
        help="sides of the detector's square input, at which defects should not be too small (default: as in "
        "configs/train_config.json); the largest is also the input of --labels folds (as in "
        "configs/train_config_cpu.json)",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="page to write: the findings with their photographs, sizes, examples",
    )
    parser.add_argument(
        "--labels",
        metavar="MODEL",
        help="look for label errors with a model.safetensors or model.onnx of yours; or 'folds': train three light "
        "detectors, so that each photograph is judged by one that has not seen it (without a GPU about half an hour, "
        "more for over 800 photographs)",
    )


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape

    from vqc.data.dataset import check_data
    from vqc.data.defect_size import size_table
    from vqc.errors import ModelError
    from vqc.reporting.terminal import size_grid
    from vqc.shell import as_typed, quoted

    root: Path = args.data
    if args.labels not in (None, FOLDS) and not Path(args.labels).is_file():
        raise ModelError(f"--labels: got '{args.labels}', expected a model.safetensors, a model.onnx or '{FOLDS}'")
    inputs = _inputs(args.image_size)
    data, findings = check_data(root, inputs=inputs)
    sizes = [] if data is None else size_table(data.defects, inputs)
    console = Console(highlight=False, soft_wrap=True)
    if data is not None:
        _show_counts(console, data)
        console.print(size_grid(sizes))
        console.print()
    for severity in ("error", "warning"):
        _show_findings(console, findings, severity)
    errors = None
    if data is not None and args.labels is not None:
        errors = _label_errors(console, data, args)
        _show_suspects(console, errors)
    if args.report is not None:
        from vqc.reporting.data_page import data_page

        _write(console, args.report, data_page(root, data, findings, sizes, errors).encode())
        if errors is not None:
            file = args.report.with_name(f"{args.report.stem}-labels.json")
            _write(console, file, (errors.model_dump_json(indent=1) + "\n").encode())
        console.print()
    if data is None:
        console.print("[bold red]not usable[/] until the errors are corrected")
        if {finding.kind for finding in findings if finding.severity == "error"} <= SPLIT_MENDS:
            out = root.with_name(f"{root.resolve().name}-split")
            console.print(f"  next: {escape(as_typed(f'vqc split --data {quoted(root)} --out {quoted(out)}'))}")
        return 2
    console.print("[bold green]usable[/]" + (", with warnings" if findings else ""))
    return 0


def _inputs(sizes_px: Sequence[int] | None) -> list[DetectorInput]:
    """Those of the shipped configuration, at its own size or at these.

    Raises:
        ConfigError: a size that no detector takes.
    """
    from vqc.config import TrainConfig, load_record, parse_record, shipped_settings
    from vqc.models.registry import detector_input

    shipped = load_record(TrainConfig, shipped_settings("train_config.json"))
    configs = [shipped] if sizes_px is None else [
        parse_record(TrainConfig, {**shipped.model_dump(), "image_size": size_px}, source="--image-size")
        for size_px in sizes_px
    ]  # fmt: skip
    return [detector_input(config) for config in configs]


def _label_errors(console: Console, data: Data, args: argparse.Namespace) -> LabelErrors:
    from vqc.evaluation.label_errors import errors_by_model
    from vqc.reporting.terminal import progress

    if args.labels != FOLDS:
        return errors_by_model(Path(args.labels), data, on_step=lambda text: console.print(f"{text} ..."))
    from vqc.hardware.gpu import choose_gpu
    from vqc.training.folds import errors_by_folds, fold_config

    gpu, remark = choose_gpu(None)
    if remark:
        console.print(remark, markup=False)
    console.print("Three detectors are trained, each without a third of the photographs, and asked about these ...")
    size = None if args.image_size is None else (max(args.image_size), max(args.image_size))
    with progress("label errors") as on_step:
        return errors_by_folds(data, fold_config(data, image_size=size), gpu=gpu, on_step=on_step)


def _show_suspects(console: Console, errors: LabelErrors) -> None:
    from vqc.data.findings import printable

    console.print(errors.judge, markup=False)
    if not errors.suspects:
        console.print("No annotation is suspected to be wrong.\n")
        return
    shown = errors.suspects[:SHOWN_PER_KIND]
    console.print(f"{len(errors.suspects):,} suspected label errors for {errors.boxes:,} boxes, the clearest first")
    for number, one in enumerate(shown, start=1):
        console.print(f"{number:>4}. {one.split}/{printable(one.file_name)}: {one.sentence}", markup=False)
    if len(errors.suspects) > len(shown):
        console.print(f"      and {len(errors.suspects) - len(shown):,} more: --report FILE shows them")
    console.print()


def _write(console: Console, file: Path, content: bytes) -> None:
    from vqc.files import write_atomically

    write_atomically(file, content)
    console.print(f"wrote {file}", markup=False)


def _show_counts(console: Console, data: Data) -> None:
    from vqc.reporting.terminal import image_counts

    rows: list[tuple[str, list[int]]] = [
        ("images", [len(split.images) for split in data.splits]),
        ("  good", [split.good for split in data.splits]),
        ("  defective", [split.defective for split in data.splits]),
        ("boxes", [split.boxes for split in data.splits]),
    ]
    for category in data.categories:
        rows.append((f"  {category.name}", [split.boxes_per_category[category.name] for split in data.splits]))
    console.print(image_counts(data.root.resolve().name, [split.name for split in data.splits], rows))
    console.print(f"fingerprint {data.fingerprint}\n")


def _show_findings(console: Console, findings: Sequence[Finding], severity: Severity) -> None:
    from rich.markup import escape

    from vqc.data.findings import grouped

    colour = {"error": "red", "warning": "yellow"}[severity]
    for kind, group in grouped(findings, severity).items():
        console.print(f"[bold {colour}]{severity}[/]  [bold]{kind}[/] ({len(group)})")
        for finding in group[:SHOWN_PER_KIND]:
            console.print(f"  [dim]{escape(finding.where)}[/]: {escape(finding.message)}")
        if len(group) > SHOWN_PER_KIND:
            console.print(f"  and {len(group) - SHOWN_PER_KIND:,} more")
        console.print()
