"""``vqc split``: one folder of annotated photographs into train, val and test."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

VAL, TEST = 0.15, 0.15


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with images/ and annotations.json, or one that is split already, to split it anew",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder to write")
    parser.add_argument("--val", type=float, default=VAL, metavar="SHARE", help=f"of val (default: {VAL})")
    parser.add_argument("--test", type=float, default=TEST, metavar="SHARE", help=f"of test (default: {TEST})")
    parser.add_argument(
        "--group",
        metavar="REGEX",
        help="photographs whose file names agree in its first group stay together, such as '(board\\d+)_' "
        "(default: those with the same 'group' in the annotations)",
    )
    parser.add_argument(
        "--gap-s", type=float, metavar="S", help="photographs taken within so many seconds stay together (EXIF)"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="folder of an earlier split: its photographs stay in their split"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another split (default: 0)")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape

    from vqc.data.findings import warning_lines
    from vqc.data.splitting.folder import split_data
    from vqc.errors import ConfigError
    from vqc.reporting.terminal import plain_table
    from vqc.shell import as_typed, quoted

    if not (args.val > 0 and args.test > 0 and args.val + args.test < 1):
        expected = "expected shares above 0 whose sum is below 1"
        raise ConfigError("--val, --test", [f"{expected}, got {args.val:g} and {args.test:g}"])
    if args.gap_s is not None and not args.gap_s >= 0:
        raise ConfigError("--gap-s", [f"expected a number of at least 0, got {args.gap_s:g}"])
    outcome = split_data(
        args.data,
        args.out,
        shares={"train": 1 - args.val - args.test, "val": args.val, "test": args.test},
        seed=args.seed,
        pattern=None if args.group is None else _pattern(args.group),
        gap_s=args.gap_s,
        earlier=args.keep,
    )
    console = Console(highlight=False, soft_wrap=True)
    table = plain_table(escape(args.out.name), "train", "val", "test")
    for name, counts in outcome.counts.items():
        total = sum(counts)
        table.add_row(escape(name), *(f"{count:,} ({count / total:.1%})" if total else "0" for count in counts))
    console.print(table)
    console.print(
        f"{outcome.groups:,} groups, none in two splits; why each image is where it is: {args.out}/splits.json"
    )
    for line in warning_lines(outcome.findings):
        console.print(escape(line))
    console.print(f"  next: {escape(as_typed(f'vqc check --data {quoted(args.out)}'))}")
    return 0


def _pattern(text: str) -> re.Pattern[str]:
    from vqc.errors import ConfigError

    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigError("--group", [f"not a regular expression: {error}, got '{text}'"]) from None
