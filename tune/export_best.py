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

    from tune.model_card import Evidence
    from tune.promote import Promotion
    from vqc.evaluation.operating_point import Goal

UNREGISTERED = 1
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Promote a search's best trial; returns the exit status.

    0: done, whether it became champion or not; 1: the bundle is complete, but not registered in MLflow; 2: an error
    that the user can mend; 130: interrupted.
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
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the search's data is now, if it was moved")
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="where the bundle goes (default: promoted/<search>-<trial> in results)",
    )
    parser.add_argument("--mlflow", metavar="URI", help="MLflow's database or server (default: mlflow.db in results)")
    parser.add_argument(
        "--max-escape",
        type=float,
        metavar="SHARE",
        help="largest share of the defective parts that may pass (default: 0.01, or the lowest that val can promise)",
    )
    parser.add_argument(
        "--confidence",
        type=float,
        metavar="C",
        help="confidence, such as 0.95, that the escape rate is not higher (default: it is not higher on average)",
    )
    parser.add_argument("--force", action="store_true", help="make it the champion whatever the comparison says")
    return parser


def _promoted(asked: argparse.Namespace, words: Sequence[str]) -> Promotion:
    results = asked.results.resolve()
    folder = _search(results, asked.name)
    if asked.name is None:
        _write(f"promoting the newest search with a finished trial: {folder.name}")

    from tune.promote import promote
    from vqc.tracking.mlflow_client import default_uri, redacted

    return promote(
        folder,
        results=results,
        tracking_uri=asked.mlflow or default_uri(results),
        bundle=asked.bundle,
        data_root=asked.data,
        goal=_goal(asked),
        force=asked.force,
        command=runnable(shlex.join(["python", "tune/export_best.py", *map(redacted, words)])),
        on_step=_write,
    )


def _goal(asked: argparse.Namespace) -> Goal | None:
    from vqc.evaluation.operating_point import USUAL_ESCAPE, Goal, check_shares

    check_shares({"--max-escape": asked.max_escape, "--confidence": asked.confidence})
    if asked.max_escape is None and asked.confidence is None:
        return None
    return Goal(max_escape=asked.max_escape or USUAL_ESCAPE, confidence=asked.confidence)


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
            _write(f"skipping {known}: {error.what}")
    return newest  # promote() says what is missing


def _write(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _summary(promotion: Promotion) -> RenderableType:
    """What was promoted, how good it is, and the next command; reads well as plain text."""
    from rich.console import Group

    from tune.history.queries import configuration, count_text
    from tune.reporting.console import sheet
    from vqc.evaluation.operating_point import Goal

    evidence, verdict, parity = promotion.evidence, promotion.verdict, promotion.evidence.parity
    images, version = f"{parity.images} val images", f", version {verdict.version}" if verdict.version else ""
    compared = f"{count_text(parity.detections, 'detection')} on {images}, {parity.unmatched} without a partner"
    if parity.worst_score_difference is not None:
        compared += f", scores at most {parity.worst_score_difference:.1g} apart"
    goal = evidence.calibration.operating_point
    promise = str(Goal(max_escape=goal.max_escape, confidence=goal.confidence))
    signed = [("promise", promise if goal.confidence else f"{promise}, on average")]
    if evidence.tested is not None:
        rates = evidence.tested.record.per_part
        signed += [("escape", f"{rates.escape}, on test"), ("overkill", f"{rates.overkill}, on test")]
    rows = [
        ("trial", f"{evidence.search}, trial {evidence.trial.number}, epoch {evidence.info.epoch}"),
        ("values", configuration(evidence.trial.params) or "the default configuration"),
        *signed,
        ("parity", compared if parity.detections else f"nothing found to compare on {images}"),
        *((name, f"p50 {time.p50_ms:.1f} ms, p95 {time.p95_ms:.1f} ms") for name, time in evidence.latency.items()),
        ("size", f"{evidence.onnx_bytes / 1e6:.1f} MB"),
        ("registry", f"{'champion' if verdict.champion else 'not the champion'}{version}: {verdict.reason}"),
        ("bundle", short_path(promotion.bundle)),
        *([("remark", evidence.remark)] if evidence.remark else []),
    ]
    if verdict.decision == "unregistered":
        rows.append(("left to do", "the bundle is complete, but was not registered"))
        commands = [("next", as_typed(evidence.command))]
    else:
        train = as_typed(f"vqc train --config {short_path(promotion.bundle / 'train_config.json')}")
        page = "model_card.md" if evidence.tested is None else "signoff.html"
        commands = [("next", train), ("sign" if evidence.tested else "read", short_path(promotion.bundle / page))]
    return Group(_figures(evidence), sheet("Promoted", rows, commands))


def _figures(evidence: Evidence) -> RenderableType:
    """Scores of the promoted trial beside those of the default configuration."""
    from tune.history.queries import metric_name
    from tune.reporting.console import grid

    names = list(dict.fromkeys([evidence.metric, "ap50", "ap", "ap75", "ar"]))
    splits = {"test": evidence.data.test, "val": evidence.data.val}
    scores = {
        "test": evidence.test,
        "test, default": evidence.default_test,
        "val": evidence.val,
        "val, default": evidence.default_val,
    }
    rows = []
    for label, found in scores.items():
        split = splits[label.partition(",")[0]]
        values = [None if found is None else getattr(found, name) for name in names]
        cells = ["-" if value is None else f"{value:.3f}" for value in values]
        rows.append([label, *cells, str(len(split.images)) if split else "none"])
    return grid(["measured on", *map(metric_name, names), "images"], rows, left=("measured on",))


if __name__ == "__main__":
    sys.exit(main())
