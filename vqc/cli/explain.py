"""``vqc explain``: for each detection the pixels that it depends on, as pictures and one page."""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from vqc.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vqc.data.image_io import DecodedPicture
    from vqc.data.tiles.views import View
    from vqc.inference.detections import Detections
    from vqc.inference.predictor import Predictor

    Heat = NDArray[np.float32]
    Pixels = NDArray[np.uint8]

Method = Literal["gradcam", "drise"]
OVERVIEW_PX = 1280  # longer side of a photograph that is shown whole


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
    methods = _methods(args.method, predictor, args.model)
    out = args.out or Path("results", "explanations", new_name())
    make_empty_folder(out)
    sections: list[dict[str, Any]] = []
    unreadable: list[str] = []
    for number, photograph in enumerate(track(photographs), start=1):
        name = printable(photograph.file_name)
        try:
            decoded = read_photograph(photograph, fit=predictor.decoded_for)
        except DataError as error:
            unreadable.append(f"{name}: {error.what}")
        else:
            stem = f"{number:04d}-{photograph.path.stem}"
            sections.append({"file": name, **_section(out, stem, decoded, predictor, methods, args)})
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
    out: Path,
    stem: str,
    decoded: DecodedPicture,
    predictor: Predictor,
    methods: Sequence[Method],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """What the page shows of one photograph; its pictures are saved on the way."""
    from vqc.inference.saliency import faithfulness
    from vqc.reporting.draw import draw_boxes

    found, views = predictor.detect_with_views(decoded)
    found, views = found[: args.detections], views[: args.detections]
    picture, scale = _overview(decoded, predictor)
    whole = draw_boxes(picture, found.boxes * scale, [str(number) for number in range(1, len(found) + 1)])
    cards: dict[tuple[int, Method], dict[str, Any]] = {}
    for view in dict.fromkeys(views):  # what one view shows is explained together
        here = [number for number, one in enumerate(views) if one == view]
        shown = _Shown.of(decoded.pixels, view, found[here], predictor.image_size)
        for method in methods:
            heats = _heats(method, shown.fitted, shown.found, predictor, args)
            for k, (number, heat) in enumerate(zip(here, heats, strict=True)):
                name = f"{stem}-{number + 1}-{method}"
                pictures = _pictures(out, name, shown, k, heat, (picture, scale))
                measured = None
                if args.faithfulness and heat is not None:
                    measured = faithfulness(predictor.detect_fitted, shown.fitted, shown.found[[k]], heat,
                                            inner=shown.inner, seed=args.seed)  # fmt: skip
                card = {"detection": number + 1, "method": method, **_described(shown, k, predictor), **pictures}
                cards[number, method] = {**card, "faithfulness": measured}
    order = itertools.product(range(len(found)), methods)
    return {"whole": _saved(out, f"{stem}.jpg", whole), "tiles": predictor.tiles is not None,
            "cards": [cards[key] for key in order]}  # fmt: skip


def _overview(decoded: DecodedPicture, predictor: Predictor) -> tuple[Pixels, float]:
    """The photograph as the detector sees it, where photographs are cut in a size that can be shown; and its scale."""
    from vqc.data.letterbox import fit_image, fit_scale, inner_size

    width, height = decoded.size
    size = predictor.image_size
    if predictor.tiles is not None:
        size = (min(OVERVIEW_PX, max(height, width)),) * 2
    rows, columns = inner_size(width, height, size)
    return fit_image(decoded.pixels, size, original=decoded.size)[:rows, :columns], fit_scale(width, height, size)


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A view at the detector's input, with some of what was found on it, in its pixels, and its size inside."""

    view: View
    fitted: Pixels
    found: Detections
    inner: tuple[int, int]

    @classmethod
    def of(cls, pixels: Pixels, view: View, found: Detections, size: tuple[int, int]) -> _Shown:
        """A view [H, W] of a photograph; ``found`` is in pixels of the photograph."""
        from vqc.data.tiles.views import view_pixels

        rows, columns = (max(1, round(side * view.scale)) for side in (view.height, view.width))
        local = replace(found, boxes=(found.boxes - view.corner) * view.scale)
        return cls(view=view, fitted=view_pixels(pixels, view, size), found=local, inner=(rows, columns))


def _described(shown: _Shown, k: int, predictor: Predictor) -> dict[str, Any]:
    one, view = shown.found[[k]], shown.view
    return {
        "category": predictor.category(int(one.labels[0]))[1],
        "score": round(float(one.scores[0]), 6),
        "tile": [view.left, view.top, view.width, view.height] if view.tile else None,
        "box_in_fitted_image": [round(float(value), 3) for value in one.boxes[0]],
    }


def _pictures(
    out: Path, name: str, shown: _Shown, k: int, heat: Heat | None, photograph: tuple[Pixels, float]
) -> dict[str, str | None]:
    """The map over the view, and where that is a tile, over the photograph, given as it is shown and its scale."""
    from vqc.reporting.draw import draw_boxes, draw_heat, placed

    if heat is None:
        return {"picture": None, "photograph": None}
    rows, columns = shown.inner
    image, heat = shown.fitted[:rows, :columns], heat[:rows, :columns]
    picture = _saved(out, f"{name}.jpg", draw_boxes(draw_heat(image, heat), shown.found.boxes[[k]], [""]))
    if not shown.view.tile:
        return {"picture": picture, "photograph": None}
    whole, scale = photograph
    drawn = draw_heat(whole, placed(heat, shown.view.box * scale, whole.shape))
    return {"picture": picture, "photograph": _saved(out, f"{name}-photograph.jpg", drawn)}


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
