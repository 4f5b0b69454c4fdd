"""``vqc sample``: write the generated data set."""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
from pathlib import Path

from vqc.shell import as_typed


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder to write")
    parser.add_argument("--large", action="store_true", help="photographs of 3000 x 2000 px with small defects")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other parts (default: 0)")


def run(args: argparse.Namespace) -> int:
    from vqc.data.synthetic import write_sample

    folder = write_sample(args.out, seed=args.seed, large=args.large)
    print(f"{folder}: generated metal parts with scratches, dents and stains, seed {args.seed}")
    print(f"  next: {as_typed(f'vqc check --data {folder}')}")
    return 0
