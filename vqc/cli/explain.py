"""``vqc explain``: for each detection the pixels that it depends on, as pictures and one page."""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from vqc.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vqc.inference.detections import Detections
    from vqc.inference.predictor import Predictor

    Heat = NDArray[np.float32]
    Pixels = NDArray[np.uint8]

Method = Literal["gradcam", "drise"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="model.safetensors or model.onnx")
    parser.add_argument(
        "--images", type=Path, required=True, nargs="+", metavar="PATH", help="photographs, or folders of them"
    )
    parser.add_argument(
        "--method",
        choices=("gradcam", "drise", "both"),
        help="gradcam: fast, needs the weights; drise: slow, for any detector (gradcam; of an ONNX file drise)",
    )
    parser.add_argument(
        "--faithfulness", action="store_true", help="measure how far to trust each map: about 600 forward passes a map"
    )
    parser.add_argument("--detections", type=int, default=3, metavar="K", help="best detections of each image (3)")
    parser.add_argument(
        "--masks", type=int, default=1000, metavar="N", help="forward passes of D-RISE, a random mask each (1000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of masks and displacements (0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder (results/explanations/ and date and time)")


def run(args: argparse.Namespace) -> int:
    """The page and the pictures are there from the first photograph on.

    Exit status 1 where a photograph could not be read: the others are explained all the same.
    """
    from vqc.data.findings import printable
    from vqc.files import make_empty_folder, write_atomically, write_json
    from vqc.inference.model_file import open_predictor
    from vqc.inference.photographs import find_photographs, read_photograph
    from vqc.reporting.html import LAYOUT, render
    from vqc.reporting.terminal import track
    from vqc.results import new_name

    for name, least in (("detections", 1), ("masks", 1), ("seed", 0)):
        if (value := getattr(args, name)) < least:
            raise ConfigError(f"--{name}", [f"got {value}, expected at least {least}"])
    photographs = [photograph for path in args.images for photograph in find_photographs(path)]
    predictor = open_predictor(args.model)
    if predictor.tiles is not None:  # the whole photograph would be at a scale that it was never trained on
        raise ModelError(f"{args.model}: looks at tiles of photographs, expected a detector of whole photographs")
    methods = _methods(args.method, predictor, args.model)
    out = args.out or Path("results", "explanations", new_name())
    make_empty_folder(out)
    sections: list[dict[str, Any]] = []
    unreadable: list[str] = []
    for number, photograph in enumerate(track(photographs), start=1):
        name = printable(photograph.file_name)
        try:
            pixels = read_photograph(photograph)
        except DataError as error:
            unreadable.append(f"{name}: {error.what}")
        else:
            stem = f"{number:04d}-{photograph.path.stem}"
            sections.append({"file": name, **_section(out, stem, pixels, predictor, methods, args)})
        page = render(LAYOUT / "explain.html.j2", args=args, methods=methods, sections=sections, unreadable=unreadable,
                      waiting=len(photographs) - number)  # fmt: skip
        write_atomically(out / "explanations.html", page.encode())
        write_json(out / "explanations.json", sections)
    print(f"{len(sections)} photographs explained: {out / 'explanations.html'}")
    for line in unreadable:
        print(line, file=sys.stderr)
    return 1 if unreadable else 0


def _methods(asked: str | None, predictor: Predictor, path: Path) -> tuple[Method, ...]:
    if asked == "drise" or (asked is None and predictor.model is None):
        return ("drise",)
    if predictor.model is None:
        raise ModelError(
            f"{path}: an ONNX file has no gradients, expected the model.safetensors beside it, or '--method drise'"
        )
    return ("gradcam", "drise") if asked == "both" else ("gradcam",)


def _section(
    out: Path, stem: str, pixels: Pixels, predictor: Predictor, methods: Sequence[Method], args: argparse.Namespace
) -> dict[str, Any]:
    """What the page shows of one photograph; its pictures are saved on the way."""
    from vqc.data.letterbox import fit_image, inner_size
    from vqc.inference.saliency import faithfulness
    from vqc.reporting.draw import draw_boxes, draw_heat

    fitted = fit_image(pixels, predictor.image_size)
    rows, columns = inner = inner_size(pixels.shape[1], pixels.shape[0], predictor.image_size)
    image = fitted[:rows, :columns]
    found = predictor.calibrated(predictor.detect_fitted(fitted[None])[0])[: args.detections]
    whole = draw_boxes(image, found.boxes, [str(number) for number in range(1, len(found) + 1)])
    heats = {method: _heats(method, fitted, found, predictor, args) for method in methods}
    cards = []
    for k, method in itertools.product(range(len(found)), methods):
        heat, picture, measured = heats[method][k], None, None
        if heat is not None:
            drawn = draw_boxes(draw_heat(image, heat[:rows, :columns]), found.boxes[[k]], [""])
            picture = _saved(out, f"{stem}-{k + 1}-{method}.jpg", drawn)
            if args.faithfulness:
                measured = faithfulness(predictor.detect_fitted, fitted, found[[k]], heat, inner=inner, seed=args.seed)
        card = {
            "detection": k + 1,
            "category": predictor.category(int(found.labels[k]))[1],
            "score": round(float(found.scores[k]), 6),
            "box_in_fitted_image": [round(float(value), 3) for value in found.boxes[k]],
            "method": method,
            "picture": picture,
            "faithfulness": measured,
        }
        cards.append(card)
    return {"whole": _saved(out, f"{stem}.jpg", whole), "cards": cards}


def _heats(
    method: Method, fitted: Pixels, found: Detections, predictor: Predictor, args: argparse.Namespace
) -> Sequence[Heat | None]:
    if method == "gradcam":
        from vqc.inference.grad_cam import grad_cam

        return [grad_cam(predictor.model, fitted, found[[k]]) for k in range(len(found))]
    from vqc.inference.saliency import drise

    return drise(predictor.detect_fitted, fitted, found, masks=args.masks, seed=args.seed) if len(found) else []


def _saved(out: Path, name: str, pixels: Pixels) -> str:
    """Save a picture; returns its address relative to the page."""
    from vqc.reporting.draw import save_jpeg

    save_jpeg(out / "pictures" / name, pixels)
    return f"pictures/{quote(os.fsencode(name))}"
