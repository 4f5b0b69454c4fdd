"""``vqc predict``: a detector on a folder of photographs, as COCO results, verdicts and annotated pictures."""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqc.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vqc.inference.detections import Detections
    from vqc.inference.predictor import OpenedDetector, Photograph, Verdict

__all__ = ["add_flags", "run"]

UNREADABLE = 1
DEFAULT_THRESHOLD = 0.5  # where none was chosen: said in what is written, and no advice


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=Path, required=True, metavar="FILE", help="model.safetensors or model.onnx of a promoted bundle"
    )
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="folder of photographs, or one of them"
    )
    parser.add_argument(
        "--annotations", type=Path, metavar="FILE", help="COCO file of this folder: its image ids are used"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="SCORE",
        help=f"lowest score that rejects a part (the calibration's, else {DEFAULT_THRESHOLD})",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="new folder to write (results/predictions/ and the date and time)"
    )


def run(args: argparse.Namespace) -> int:
    """Exit status 1 where a photograph could not be read: the others are predicted all the same."""
    from vqc.files import new_folder
    from vqc.inference.predictor import find_photographs, open_detector

    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise ConfigError("--threshold", [f"got {args.threshold:g}, expected a score from 0 to 1"])
    photographs = find_photographs(args.images, annotations=args.annotations)
    detector = open_detector(args.model)
    thresholds, remark = _thresholds(detector, args.threshold)
    out = args.out or Path("results") / "predictions" / datetime.now().strftime("%Y%m%d-%H%M%S")
    with new_folder(out) as draft:
        verdicts = _write(draft, detector, photographs, thresholds=thresholds, remark=remark)
    return _tell(out, verdicts, remark)


def _thresholds(detector: OpenedDetector, asked: float | None) -> tuple[dict[int, float], str]:
    """Label -> operating threshold, and a sentence on where it comes from."""
    from vqc.inference.calibration import calibration_path

    labels = range(1, len(detector.categories) + 1)
    calibration = detector.calibration
    scores = "raw" if calibration is None else "calibrated"
    if asked is not None:
        return dict.fromkeys(labels, asked), f"Threshold {asked:g} as given, on {scores} scores."
    if calibration is None:
        remark = f"No operating threshold was chosen for this model: {DEFAULT_THRESHOLD:g} is used, on raw scores."
        return dict.fromkeys(labels, DEFAULT_THRESHOLD), remark
    point = calibration.operating_point
    remark = f"Calibrated scores; thresholds of {calibration_path(detector.path).name}"
    remark += f", chosen for an escape rate of at most {100 * point.max_escape:g} %"
    remark += "." if point.reached else ", which was not reached on val."
    return calibration.thresholds, remark


def _write(
    folder: Path,
    detector: OpenedDetector,
    photographs: list[Photograph],
    *,
    thresholds: Mapping[int, float],
    remark: str,
) -> list[Verdict]:
    from vqc.inference.predictor import Verdict, coco_results, judge, predict, verdicts_csv
    from vqc.reporting.draw import save_jpeg

    results: list[dict[str, Any]] = []
    verdicts: list[Verdict] = []
    for number, (photograph, pixels, found) in enumerate(predict(detector, photographs), start=1):
        if pixels is None or isinstance(found, str):
            reason = str(found)
            verdicts.append(
                Verdict(
                    image_id=photograph.image_id, file_name=photograph.file_name, verdict="unreadable", reason=reason
                )
            )
            continue
        results += coco_results(found, detector)
        verdicts.append(judge(photograph, found, detector, thresholds=thresholds))
        picture = folder / "pictures" / f"{photograph.image_id:06d}-{photograph.path.stem}.jpg"
        save_jpeg(picture, _annotated(pixels, found, detector, thresholds))
        if sys.stderr.isatty():
            print(f"\r{number} of {len(photographs)}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    summary = {
        "model": str(detector.path),
        "runtime": detector.runtime,
        "calibrated": detector.calibration is not None,
        "thresholds": {detector.category(label)[1]: threshold for label, threshold in thresholds.items()},
        "remark": remark,
        "images": [asdict(verdict) for verdict in verdicts],
    }
    _write_json(folder / "detections.json", results)
    _write_json(folder / "verdicts.json", summary)
    _write_text(folder / "verdicts.csv", verdicts_csv(verdicts))
    return verdicts


def _annotated(
    pixels: NDArray[Any], found: Detections, detector: OpenedDetector, thresholds: Mapping[int, float]
) -> NDArray[Any]:
    """The photograph with what counts as a defect; the rest is in ``detections.json``."""
    from vqc.reporting.draw import draw_boxes

    counts = [i for i, label in enumerate(found.labels) if found.scores[i] >= thresholds[int(label)]]
    captions = [f"{detector.category(int(found.labels[i]))[1]} {found.scores[i]:.2f}" for i in counts]
    return draw_boxes(pixels, found.boxes[counts], captions)


def _write_json(path: Path, content: object) -> None:
    _write_text(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    # A file's name may hold bytes that are no letters; as \\udc.. they are whole, in JSON too.
    path.write_bytes(text.encode("utf-8", errors="backslashreplace"))


def _tell(out: Path, verdicts: list[Verdict], remark: str) -> int:
    from vqc.data.findings import printable

    counts = {kind: sum(v.verdict == kind for v in verdicts) for kind in ("pass", "fail", "unreadable")}
    print(
        f"{len(verdicts)} photographs: {counts['pass']} pass, {counts['fail']} fail, {counts['unreadable']} unreadable"
    )
    print(remark)
    print(f"  {out / 'verdicts.csv'}\n  {out / 'detections.json'}\n  {out / 'pictures'}")
    unreadable = [verdict for verdict in verdicts if verdict.verdict == "unreadable"]
    for verdict in unreadable:
        print(f"{printable(verdict.file_name)}: {verdict.reason}", file=sys.stderr)
    return UNREADABLE if unreadable else 0
