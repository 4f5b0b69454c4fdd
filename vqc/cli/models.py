"""``vqc models``: the detectors that a configuration can name."""

from __future__ import annotations

import argparse


def add_flags(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> int:
    """Print the table of detectors."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from vqc.models.registry import ARCHITECTURES, OFFERED

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    table.add_column("starts from")
    table.add_column("what it is")
    for name in OFFERED:
        architecture = ARCHITECTURES[name]
        weights = (
            "COCO" if architecture.coco_weights else (architecture.backbone_weights or "none").partition("_Weights")[0]
        )
        table.add_row(name, weights, architecture.note)
    Console(highlight=False).print(table)
    return 0
