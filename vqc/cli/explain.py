"""``vqc explain``: for each detection the heat of what speaks for it, as pictures and one page."""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vqc.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from vqc.inference.calibration import Calibration
    from vqc.inference.predictor import Photograph
    from vqc.inference.saliency import Faithfulness, Finder

__all__ = ["add_flags", "run"]

UNREADABLE = 1
Method = Literal["gradcam", "drise"]
NAMES: dict[Method, str] = {"gradcam": "Grad-CAM", "drise": "D-RISE"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="model.safetensors or model.onnx")
    parser.add_argument(
        "--images", type=Path, required=True, nargs="+", metavar="PATH", help="photographs, or folders of them"
    )
    parser.add_argument(
        "--method",
        choices=("gradcam", "drise", "both"),
        default="both",
        help="gradcam: fast, needs the weights; drise: slow, for any detector (both)",
    )
    parser.add_argument("--detections", type=int, default=3, metavar="K", help="best detections of each image (3)")
    parser.add_argument("--masks", type=int, default=1000, metavar="N", help="random masks of D-RISE (1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the masks (0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder (results/explanations/ and date and time)")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Opened:
    """A detector on fitted images; ``model`` is None where only its detections can be had."""

    find: Finder
    model: nn.Module | None
    size: tuple[int, int]
    categories: tuple[tuple[int, str], ...]
    calibration: Calibration | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Map:
    """One method's answer for one detection; heat [H, W] and figures are None where nothing can be told."""

    method: Method
    heat: NDArray[np.float32] | None
    faithfulness: Faithfulness | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Explained:
    """One detection: category, score (calibrated where that is known), box xyxy in pixels of the fitted image."""

    category: str
    score: float
    box: NDArray[np.float32]
    maps: tuple[_Map, ...]


def run(args: argparse.Namespace) -> int:
    """Exit status 1 where a photograph could not be read: the others are explained all the same."""
    from vqc.files import new_folder
    from vqc.inference.predictor import find_photographs

    for flag, value, least in (
        ("--detections", args.detections, 1),
        ("--masks", args.masks, 1),
        ("--seed", args.seed, 0),
    ):
        if value < least:
            raise ConfigError(flag, [f"got {value}, expected at least {least}"])
    photographs = [photograph for path in args.images for photograph in find_photographs(path)]
    opened = _open(args.model)
    methods = _methods(args.method, opened, args.model)
    out = args.out or Path("results") / "explanations" / datetime.now().strftime("%Y%m%d-%H%M%S")
    with new_folder(out) as draft:
        unreadable = _write(draft, opened, photographs, methods, args)
    print(f"{len(photographs) - len(unreadable)} photographs explained: {out / 'explanations.html'}")
    for line in unreadable:
        print(line, file=sys.stderr)
    return UNREADABLE if unreadable else 0


def _open(path: Path) -> _Opened:
    import torch

    from vqc.inference.calibration import load_calibration
    from vqc.inference.onnx_export import onnx_detector
    from vqc.inference.saliency import exported_finder, torch_finder
    from vqc.models.checkpoint import load_model

    calibration = load_calibration(path)
    if path.suffix == ".onnx":
        exported = onnx_detector(path)
        return _Opened(
            find=exported_finder(exported.raw),
            model=None,
            size=exported.size,
            categories=exported.categories,
            calibration=calibration,
        )
    model, info = load_model(path)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return _Opened(
        find=torch_finder(model),
        model=model,
        size=info.config.image_size,
        categories=info.categories,
        calibration=calibration,
    )


def _methods(asked: str, opened: _Opened, path: Path) -> tuple[Method, ...]:
    if opened.model is not None:
        return ("gradcam", "drise") if asked == "both" else (("gradcam",) if asked == "gradcam" else ("drise",))
    if asked == "gradcam":
        raise ModelError(
            f"{path}: an ONNX file has no gradients, expected the model.safetensors beside it, or '--method drise'"
        )
    return ("drise",)


def _write(
    folder: Path,
    opened: _Opened,
    photographs: Sequence[Photograph],
    methods: Sequence[Method],
    args: argparse.Namespace,
) -> list[str]:
    """Explain one photograph after the other; returns a sentence for each that could not be read."""
    from vqc.data.findings import printable
    from vqc.data.letterbox import fit_image, fit_scale
    from vqc.files import write_atomically
    from vqc.inference.predictor import read_photograph
    from vqc.reporting.html import render

    sections: list[dict[str, Any]] = []
    unreadable = []
    for number, photograph in enumerate(photographs, start=1):
        if sys.stderr.isatty():
            print(f"\r{number} of {len(photographs)}", end="\x1b[K", file=sys.stderr, flush=True)
        try:
            pixels = read_photograph(photograph)
        except DataError as error:
            unreadable.append(f"{printable(photograph.file_name)}: {error.what}")
            continue
        fitted = fit_image(pixels, opened.size)
        explained = _explain(opened, fitted, methods, args)
        scale = fit_scale(pixels.shape[1], pixels.shape[0], opened.size)
        inner = tuple(max(1, round(side * scale)) for side in pixels.shape[:2])  # without the padding
        stem = f"{number:04d}-{photograph.path.stem}"
        sections.append(_section(folder, stem, printable(photograph.file_name), fitted, inner, explained))
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    page = render(
        Path(__file__).parent.parent / "reporting" / "templates" / "explain.html.j2",
        model=args.model.name,
        sections=sections,
        unreadable=unreadable,
        names=[NAMES[method] for method in methods],
        masks=args.masks,
        seed=args.seed,
        detections=args.detections,
    )
    write_atomically(folder / "explanations.html", page.encode(errors="backslashreplace"))
    figures = [{key: section[key] for key in ("file", "figures")} for section in sections]
    text = json.dumps(figures, indent=1, allow_nan=False, ensure_ascii=False)
    write_atomically(folder / "explanations.json", f"{text}\n".encode(errors="backslashreplace"))
    return unreadable


def _explain(
    opened: _Opened, fitted: NDArray[np.uint8], methods: Sequence[Method], args: argparse.Namespace
) -> list[_Explained]:
    from vqc.inference.detections import Detections
    from vqc.inference.saliency import Target, drise, faithfulness, grad_cam

    (raw,) = opened.find(fitted[None])
    order = (-raw.scores).argsort(kind="stable")
    found = Detections(image_id=0, boxes=raw.boxes[order], scores=raw.scores[order], labels=raw.labels[order])
    if opened.calibration is not None:
        found = opened.calibration.calibrated(found)
    best = range(min(args.detections, len(found.scores)))
    targets = [Target(box=found.boxes[i], label=int(found.labels[i])) for i in best]
    heats: dict[Method, list[NDArray[np.float32] | None]] = {}
    if "gradcam" in methods and opened.model is not None:
        model = opened.model
        heats["gradcam"] = [grad_cam(model, fitted, target) for target in targets]
    if "drise" in methods and targets:
        heats["drise"] = drise(opened.find, fitted, targets, masks=args.masks, seed=args.seed)
    explained = []
    for k, target in enumerate(targets):
        maps = []
        for method, found_heats in heats.items():
            heat = found_heats[k]
            measured = None if heat is None else faithfulness(opened.find, fitted, target, heat, seed=args.seed)
            maps.append(_Map(method=method, heat=heat, faithfulness=measured))
        category = opened.categories[target.label - 1][1]
        explained.append(_Explained(category=category, score=float(found.scores[k]), box=target.box, maps=tuple(maps)))
    return explained


def _section(
    folder: Path,
    stem: str,
    file_name: str,
    fitted: NDArray[np.uint8],
    inner: tuple[int, ...],
    explained: Sequence[_Explained],
) -> dict[str, Any]:
    """What the page shows of one photograph; its pictures are saved on the way."""
    import numpy as np

    from vqc.reporting.draw import draw_boxes, draw_heat, save_jpeg
    from vqc.reporting.html import picture_uri

    height, width = inner
    image = np.ascontiguousarray(fitted[:height, :width])
    boxes = np.array([one.box for one in explained], np.float32).reshape(-1, 4)
    whole = draw_boxes(image, boxes, [str(number) for number in range(1, len(explained) + 1)])
    cards, figures = [], []
    for number, one in enumerate(explained, start=1):
        for found in one.maps:
            picture = None
            if found.heat is not None:
                heated = draw_heat(image, np.ascontiguousarray(found.heat[:height, :width]))
                picture = draw_boxes(heated, one.box[None], [""])
                save_jpeg(folder / "pictures" / f"{stem}-{number}-{found.method}.jpg", picture)
            figure = {
                "detection": number,
                "category": one.category,
                "score": round(one.score, 6),
                "box_in_fitted_image": [round(float(value), 3) for value in one.box],
                "method": found.method,
                "faithfulness": None if found.faithfulness is None else asdict(found.faithfulness),
            }
            figures.append(figure)
            cards.append(
                {**figure, "name": NAMES[found.method], "measured": found.faithfulness,
                 "picture": None if picture is None else picture_uri(picture)}
            )  # fmt: skip
    return {"file": file_name, "whole": picture_uri(whole), "cards": cards, "figures": figures}
