"""``vqc import``: an export of another tool, or the reviews of an inspection server -> this project's layout."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from vqc.data.importers.importing import Imported
    from vqc.data.importers.source import SourceImage

FORMATS = ("coco", "cvat", "labelme", "voc", "yolo")


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of an export, its one annotation file, or http://HOST:PORT/v1/reviews.coco.json of vqc serve",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder to write")
    parser.add_argument("--format", choices=FORMATS, help="of the source (default: recognised)")
    parser.add_argument(
        "--unlabelled",
        choices=("good", "leave-out"),
        help="what pictures are that no annotation file mentions: good parts, or not yet annotated (default: asked)",
    )
    parser.add_argument(
        "--crowds",
        choices=("defects", "ignore"),
        help="what boxes with COCO's iscrowd are: defects, as where a mask was painted, or regions that are ignored in "
        "scoring (default: a few are ignored, many are asked for)",
    )
    parser.add_argument("--token", metavar="TEXT", help="of the inspection server; needed on another machine")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from vqc.data.importers.importing import import_data
    from vqc.data.importers.reviews import is_address
    from vqc.shell import as_typed, quoted

    if is_address(args.source):
        return _import_reviews(args)
    imported = import_data(
        Path(args.source), args.out, format_=args.format, unlabelled=args.unlabelled, crowds=args.crowds
    )
    console = Console(highlight=False, soft_wrap=True, markup=False)
    _show(console, imported)
    out = quoted(args.out)
    split = f"vqc split --data {out} --out {quoted(args.out.with_name(f'{args.out.name}-split'))}"
    console.print(f"  next: {as_typed(split if '' in imported.splits else f'vqc check --data {out}')}")
    return 0


def _import_reviews(args: argparse.Namespace) -> int:
    from rich.console import Console

    from vqc.data.importers.reviews import fetch_reviews
    from vqc.errors import ConfigError
    from vqc.shell import as_typed, quoted

    given = [flag for flag in ("format", "unlabelled", "crowds") if getattr(args, flag) is not None]
    if given:
        raise ConfigError(", ".join(f"--{flag}" for flag in given), ["of no use for the reviews of a server"])
    document = fetch_reviews(args.source, args.out, token=args.token)
    defective = len({box["image_id"] for box in document["annotations"]})
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"{len(document['images']):,} reviewed photographs, {defective:,} of them defective, in {args.out}")
    for why, count in document.get("info", {}).get("left_out", {}).items():
        console.print(f"Left out by the server: {count:,} ({why}).")
    console.print(f"  next: {as_typed(f'python tune/search.py --data DIR --reviews {quoted(args.out)}')}")
    return 0


def _show(console: Console, imported: Imported) -> None:
    from rich.markup import escape

    from vqc.data.findings import printable
    from vqc.reporting.terminal import image_counts, plain_table

    files = f"{len(imported.files)} annotation files" if len(imported.files) > 1 else "1 annotation file"
    console.print(f"{imported.format}: {files}, such as {printable(imported.files[0])}")
    names = [name or "all" for name in imported.splits]
    console.print(image_counts(imported.folder.resolve().name, names, _counts(imported)))
    if "" in imported.splits:
        has = f"{' and '.join(imported.joined)} alone" if imported.joined else "no splits"
        console.print(f"The source has {has}: train, val and test are still to be made.\n")
    if imported.tally.counts:
        table = plain_table("left out or changed", "count", "why, such as", left=(0, 2))
        for (what, reason), count in imported.tally.counts.most_common():
            table.add_row(what, f"{count:,}", escape(f"{reason}, such as {imported.tally.examples[what, reason]}"))
        console.print(table)


def _counts(imported: Imported) -> Iterator[tuple[str, list[int]]]:
    """The rows of the table; crowds are no defects, as everywhere."""
    splits = list(imported.splits.values())
    boxes = [_categories(images) for images in splits]
    good = [sum(all(box.crowd for box in image.boxes) for image in images) for images in splits]
    yield "images", [len(images) for images in splits]
    yield "  good", good
    yield "  defective", [len(images) - some for images, some in zip(splits, good, strict=True)]
    yield "boxes", [counts.total() for counts in boxes]
    for name in imported.categories:
        yield f"  {name}", [counts[name] for counts in boxes]


def _categories(images: Sequence[SourceImage]) -> Counter[str]:
    return Counter(box.category for image in images for box in image.boxes if not box.crowd)
