"""Command line of the promotion: ``python tune/export_best.py [NAME]``. Thin; ``tune.promote`` does the work."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vqc.errors import SearchError, UserError
from vqc.shell import as_typed, runnable, short_path

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tune.promote import Promotion
    from vqc.epoch import Scores

UNREGISTERED = 1
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Promote a search's best trial; returns the exit status.

    0 done, whether it became champion or not; 1 the bundle is whole but MLflow did not take it; 2 a mistake the user
    can mend; 130 interrupted.
    """
    asked = _parser().parse_args(argv)
    try:
        promotion = _promoted(asked, sys.argv[1:] if argv is None else argv)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    from tune.reporting.console import show

    show(_summary(promotion), sys.stdout)
    return UNREGISTERED if promotion.verdict.decision == "unregistered" else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure a search's best trial again, export it to ONNX, and make it the champion if it is better.",
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="the search (default: the newest that has a finished trial)"
    )
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the search's data lies now, if it was moved")
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="where the bundle goes (default: promoted/<search>-<trial> in results)",
    )
    parser.add_argument("--mlflow", metavar="URI", help="MLflow's database or server (default: mlflow.db in results)")
    parser.add_argument("--force", action="store_true", help="make it the champion without a comparison")
    return parser


def _promoted(asked: argparse.Namespace, words: Sequence[str]) -> Promotion:
    results = asked.results.resolve()
    folder = _search(results, asked.name)
    if asked.name is None:
        _tell(f"promoting the newest search with a finished trial: {folder.name}")

    from tune.promote import promote
    from vqc.tracking.mlflow_client import default_uri, redacted

    return promote(
        folder,
        results=results,
        tracking_uri=asked.mlflow or default_uri(results),
        bundle=asked.bundle,
        data_root=asked.data,
        force=asked.force,
        command=runnable(shlex.join(["python", "tune/export_best.py", *map(redacted, words)])),
        on_step=_tell,
    )


def _search(results: Path, name: str | None) -> Path:
    """The named search's folder, or that of the newest with something to promote."""
    from tune.history.journal import read_table
    from tune.history.queries import has_finished_trial
    from tune.paths import find_search, journal_of, search_names

    if name is not None:
        return find_search(results, name)
    newest = find_search(results, None)
    for known in reversed(search_names(results)):
        try:
            if has_finished_trial(read_table(journal_of(results / known))):
                return results / known
        except SearchError as error:
            _tell(f"passing over {known}: {error.what}")
    return newest  # promote() says what it lacks


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _summary(promotion: Promotion) -> RenderableType:
    """What was promoted, how good it is, and what to type next; reads well as plain text."""
    from rich.console import Group
    from rich.table import Table as Grid
    from rich.text import Text

    from tune.history.queries import configuration

    evidence, verdict = promotion.evidence, promotion.verdict
    parity = evidence.parity
    mark = {True: "champion", False: "not the champion"}[verdict.champion]
    version = f", version {verdict.version}" if verdict.version else ""
    compared = f"{parity.detections:,} detections on {parity.images} val images, {parity.unmatched} without a partner"
    if parity.worst_score_difference is not None:
        compared += f", scores at most {parity.worst_score_difference:.1g} apart"
    rows = [
        ("trial", f"{evidence.search}, trial {evidence.trial.number}, epoch {evidence.info.epoch}"),
        ("values", configuration(evidence.trial.params) or "the default configuration"),
        ("parity", compared if parity.detections else f"nothing found to compare on {parity.images} val images"),
        *((name, f"p50 {time.p50_ms:.1f} ms, p95 {time.p95_ms:.1f} ms") for name, time in evidence.latency.items()),
        ("size", f"{evidence.onnx_bytes / 1e6:.1f} MB"),
        ("registry", f"{mark}{version}: {verdict.reason}"),
        ("bundle", short_path(promotion.bundle)),
    ]
    facts = Grid.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for label, text in rows:
        facts.add_row(label, Text(text, style="bold" if label == "registry" and verdict.champion else ""))
    remark = [Text(evidence.remark, style="yellow")] if evidence.remark else []
    title = Text("Promoted", style="bold")
    return Group(title, facts, Text(), _figures(promotion), *remark, Text(), _next(promotion))


def _figures(promotion: Promotion) -> RenderableType:
    """Scores of the promoted trial beside the default configuration's."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    from tune.history.queries import metric_name

    evidence = promotion.evidence
    names = list(dict.fromkeys([evidence.metric, "ap50", "ap", "ap75", "ar"]))
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, header_style="dim")
    grid.add_column("")
    for name in names:
        grid.add_column(metric_name(name), justify="right")
    grid.add_column("images", justify="right")
    data = evidence.data
    tested = len(data.test.images) if data.test is not None else 0
    lines: list[tuple[str, Scores | None, int]] = [
        ("test", evidence.test, tested),
        ("test, default", evidence.default_test, tested),
        ("val", evidence.val, len(data.val.images)),
        ("val, default", evidence.default_val, len(data.val.images)),
    ]
    for label, scores, images in lines:
        values = [None if scores is None else getattr(scores, name) for name in names]
        cells = ["-" if value is None else f"{value:.3f}" for value in values]
        grid.add_row(label, *map(Text, cells), str(images or "none"), style="bold" if label == "test" else "")
    return grid


def _next(promotion: Promotion) -> RenderableType:
    from rich.text import Text

    if promotion.verdict.decision == "unregistered":
        return Text(f"The bundle is complete but was not registered.\n  next: {as_typed(promotion.evidence.command)}")
    config = promotion.bundle / "train_config.json"
    train = as_typed(f"vqc train --config {short_path(config)}")
    return Text(f"  next: {train}\n  read: {short_path(promotion.bundle / 'model_card.md')}")


if __name__ == "__main__":
    sys.exit(main())
