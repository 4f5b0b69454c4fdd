"""``vqc predict``: a detector on a folder of photographs, as COCO results, verdicts and annotated pictures."""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqc.errors import DataError

if TYPE_CHECKING:
    from vqc.inference.photographs import Photograph
    from vqc.inference.predictor import Predictor
    from vqc.inference.verdicts import Verdict


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="model.safetensors or model.onnx")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="PATH", help="folder of photographs, or one of them"
    )
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="COCO file that gives the image ids")
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="reject from this score (the calibration's, else 0.5)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder (results/predictions/ and date and time)")


def run(args: argparse.Namespace) -> int:
    """Exit status 1 where a photograph could not be read: the others are predicted all the same."""
    from vqc.files import new_folder, write_json
    from vqc.inference.model_file import open_predictor
    from vqc.inference.photographs import find_photographs
    from vqc.inference.thresholds import resolve_thresholds
    from vqc.results import new_name

    photographs = find_photographs(args.images, annotations=args.annotations)
    predictor = open_predictor(args.model)
    thresholds, source = resolve_thresholds(predictor, given=args.threshold)
    out = args.out or Path("results", "predictions", new_name())
    with new_folder(out) as draft:
        verdicts = _judged(draft, predictor, photographs, thresholds)
        summary = {
            "model": str(args.model),
            "weights_sha256": predictor.weights_sha256,
            "calibrated": predictor.calibration is not None,
            "thresholds": {predictor.category(label)[1]: threshold for label, threshold in thresholds.items()},
            "threshold_source": source,
            "images": verdicts,
        }
        write_json(draft / "verdicts.json", summary)
    return _show(out, verdicts, source)


def _judged(
    folder: Path, predictor: Predictor, photographs: Sequence[Photograph], thresholds: Mapping[int, float]
) -> list[Verdict]:
    """The verdicts; detections, pictures and the spreadsheet are written on the way."""
    from vqc.files import write_atomically, write_json
    from vqc.inference.photographs import read_photograph
    from vqc.inference.verdicts import Verdict, coco_results, judge, verdicts_csv
    from vqc.reporting.draw import draw_boxes, save_jpeg
    from vqc.reporting.terminal import track

    results: list[dict[str, Any]] = []
    verdicts: list[Verdict] = []
    for photograph in track(photographs):
        try:
            seen = read_photograph(photograph, fit=predictor.decoded_for)
            whole = read_photograph(photograph) if seen.reduced else seen
        except DataError as error:
            verdicts.append(Verdict(photograph.image_id, photograph.file_name, "unreadable", reason=error.what))
            continue
        found = predictor.detect(seen, image_id=photograph.image_id)
        results += coco_results(found, predictor)
        verdicts.append(judge(photograph, found, predictor, thresholds=thresholds))
        picture = folder / "pictures" / f"{photograph.image_id:06d}-{photograph.path.stem}.jpg"
        defects = found.reaching(thresholds)
        pairs = zip(defects.labels, defects.scores, strict=True)
        captions = [f"{predictor.category(int(label))[1]} {score:.2f}" for label, score in pairs]
        save_jpeg(picture, draw_boxes(whole.pixels, defects.boxes, captions))
    write_json(folder / "detections.json", results)
    # A file's name may hold bytes that are no letters.
    write_atomically(folder / "verdicts.csv", verdicts_csv(verdicts).encode(errors="backslashreplace"))
    return verdicts


def _show(out: Path, verdicts: Sequence[Verdict], source: str) -> int:
    from vqc.data.findings import printable

    counts = ", ".join(f"{sum(v.verdict == kind for v in verdicts)} {kind}" for kind in ("pass", "fail", "unreadable"))
    print(f"{len(verdicts)} photographs: {counts}\n{source}")
    print(f"  {out / 'verdicts.csv'}\n  {out / 'detections.json'}\n  {out / 'pictures'}")
    unreadable = [verdict for verdict in verdicts if verdict.verdict == "unreadable"]
    for verdict in unreadable:
        print(f"{printable(verdict.file_name)}: {verdict.reason}", file=sys.stderr)
    return 1 if unreadable else 0
