"""The command line: ``vqc check | sample``. Thin: parses, calls one room, prints.

A command is one entry of ``COMMANDS``; it imports its room when it runs, so that ``vqc --help`` loads
nothing but this file and the exceptions.
"""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vqc.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from vqc.coco import Data
    from vqc.findings import Finding, Severity

__all__ = ["COMMANDS", "Command", "main"]

INTERRUPTED = 130
SHOWN_PER_KIND = 20


@dataclass(frozen=True)
class Command:
    """One subcommand: its name, a line of help, what declares its flags, and what runs it to an exit status."""

    name: str
    help: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 a mistake the user can mend, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a Windows console may lack a letter of a file's name
            stream.reconfigure(errors="backslashreplace")
    args = _parser().parse_args(argv)
    command: Command = args.command
    try:
        return command.run(args)
    except UserError as error:
        print(f"vqc {command.name}: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"vqc {command.name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as 'head', has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vqc", description="Defect detectors for one small GPU.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        own = commands.add_parser(command.name, help=command.help, description=command.help)
        command.add_flags(own)
        own.set_defaults(command=command)
    return parser


def _check_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder with train/, val/ and, if there is one, test/"
    )


def _check(args: argparse.Namespace) -> int:
    from rich.console import Console

    from vqc.coco import inspect_data, load_data

    root: Path = args.data
    if not root.is_dir():
        load_data(root)  # raises, with the next command
    data, findings = inspect_data(root)
    console = Console(highlight=False, soft_wrap=True)
    if data is not None:
        _show_counts(console, data)
    for severity in ("error", "warning"):
        _show_findings(console, findings, severity)
    if data is None:
        console.print("[bold red]not usable[/] until the errors are mended")
        return 2
    console.print("[bold green]usable[/]" + (", with warnings" if findings else ""))
    return 0


def _show_counts(console: Console, data: Data) -> None:
    """One column per split, one row per count; as many categories as there may be fit below each other."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column(f"{data.root.resolve().name}")
    for split in data.splits:
        table.add_column(split.name, justify="right")
    rows: list[tuple[str, list[int]]] = [
        ("images", [len(split.images) for split in data.splits]),
        ("  good", [split.good for split in data.splits]),
        ("  defective", [split.defective for split in data.splits]),
        ("boxes", [split.boxes for split in data.splits]),
    ]
    for category in data.categories:
        rows.append((f"  {category.name}", [split.boxes_per_category[category.name] for split in data.splits]))
    for name, counts in rows:
        table.add_row(escape(name), *(f"{count:,}" for count in counts))
    console.print(table)
    console.print(f"fingerprint {data.fingerprint}\n")


def _show_findings(console: Console, findings: Sequence[Finding], severity: Severity) -> None:
    from rich.markup import escape

    from vqc.findings import grouped

    colour = {"error": "red", "warning": "yellow"}[severity]
    for kind, group in grouped(findings, severity).items():
        console.print(f"[bold {colour}]{severity}[/]  [bold]{kind}[/] ({len(group)})")
        for finding in group[:SHOWN_PER_KIND]:
            console.print(f"  [dim]{escape(finding.where)}[/]: {escape(finding.message)}")
        if len(group) > SHOWN_PER_KIND:
            console.print(f"  and {len(group) - SHOWN_PER_KIND:,} more")
        console.print()


def _sample_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder to write")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other parts (default: 0)")


def _sample(args: argparse.Namespace) -> int:
    from vqc.sample import write_sample

    folder = write_sample(args.out, seed=args.seed)
    print(f"{folder}: generated brushed metal with scratches, dents and stains, seed {args.seed}")
    print(f"  next: vqc check --data {folder}")
    return 0


COMMANDS: tuple[Command, ...] = (
    Command("check", "Tell everything that is wrong with a folder of annotated images.", _check_flags, _check),
    Command("sample", "Write the generated data set: metal parts with and without defects.", _sample_flags, _sample),
)

if __name__ == "__main__":
    sys.exit(main())
