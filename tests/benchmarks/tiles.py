"""Small defects in large photographs: whole images, tiles at inference alone, tiles throughout; a table in Markdown.

    uv run vqc sample --large --out large
    uv run python tests/benchmarks/tiles.py --data large --seconds 600 --out tiles.jsonl
    uv run python tests/benchmarks/tiles.py --data deeppcb-mini --size 320 --tile 320 --out mini.jsonl
    uv run python tests/benchmarks/tiles.py --boards deeppcb --data boards --tile 320 --out boards.jsonl

All train the CPU's detector for equally many CPU seconds on one thread. "Tiles at inference" is the detector of the
first row, looking at tiles. Figures are of whole photographs of test, at the threshold that val chose. Border recall is
the share found, at IoU 0.5 and any score, of the defects that a border of the inner tiles cuts, beside that of the
others. After each row: CPU seconds of a photograph of 12 megapixels on two threads. Each finished row is a line in
``--out``; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from vqc.boxes import iou
from vqc.config import TrainConfig, read_json, shipped_settings
from vqc.data.dataset import Data, ImageRecord, load_data, read_image
from vqc.data.image_io import decode_picture
from vqc.data.tiles.training_views import tile_plan
from vqc.data.tiles.views import TilePlan, view_pixels, views_of
from vqc.evaluation.calibrate import fit_calibration
from vqc.evaluation.coco_metrics import coco_scores
from vqc.evaluation.evaluate import detections_on
from vqc.evaluation.image_metrics import part_verdicts
from vqc.evaluation.matching import paired
from vqc.evaluation.operating_point import usual_goal
from vqc.files import LineFile, whole_lines
from vqc.inference.predictor import Predictor
from vqc.inference.torch_backend import torch_predictor
from vqc.models.checkpoint import ModelInfo
from vqc.models.pretrained import resolve_weights
from vqc.training.loop import fit

ROWS = ("whole image", "tiles at inference", "tiles throughout")
COLUMNS = ("row", "AP50", "AP", "escape", "overkill", "border recall", "other recall", "epochs", "CPU s")


def shortened(data: Data, share: float) -> Data:
    """The first part of val and test."""
    assert data.test is not None
    val, test = (
        dataclasses.replace(split, images=split.images[: math.ceil(share * len(split.images))])
        for split in (data.val, data.test)
    )
    return dataclasses.replace(data, val=val, test=test)


def configured(model: str, size_px: int, *, tile_px: int, epochs: int) -> TrainConfig:
    basis = read_json(shipped_settings("train_config_cpu.json"))
    values = {**basis, "model": model, "image_size": size_px, "tile_px": tile_px, "num_epochs": epochs}
    return resolve_weights(TrainConfig.model_validate(values))[0]


def trained(
    data: Data, seconds: float, cache: Path, *, model: str, size_px: int, tile_px: int
) -> tuple[nn.Module, ModelInfo, float]:
    """The detector after as many epochs as fit into the CPU seconds, and those it took.

    Two photographs of val stand for all: to evaluate each epoch on all tiles would take longer than to train.
    """
    data = dataclasses.replace(data, val=dataclasses.replace(data.val, images=data.val.images[:2]))
    steps_s: list[float] = []
    probe = fit(
        configured(model, size_px, tile_px=tile_px, epochs=2), data, cache=cache,
        on_step=lambda done, steps: steps_s.append(time.process_time()),
    )  # fmt: skip
    started_s = time.process_time()
    next(iter(probe))
    count = len(steps_s)
    # The first step is slower than the others, but of four photographs it is the only one.
    epoch_s = (steps_s[-1] - steps_s[0]) / (count - 1) * count if count > 1 else steps_s[0] - started_s
    epochs = max(1, round(seconds / epoch_s))
    started_s = time.process_time()
    for epoch in fit(configured(model, size_px, tile_px=tile_px, epochs=epochs), data, cache=cache):
        last = epoch
        print(
            f"{size_px} px, tiles {tile_px}: epoch {epoch.report.epoch} of {epochs}, {epoch.report.losses}", flush=True
        )
    return last.state.evaluated, last.state.info, time.process_time() - started_s


def measured(model: nn.Module, info: ModelInfo, data: Data, plan: TilePlan) -> dict[str, Any]:
    assert data.test is not None
    predictor = torch_predictor(model, info)
    calibration, _, _ = fit_calibration(predictor, "model", data, goal=usual_goal(data.val))
    raw = detections_on(predictor, data, "test")
    scores = coco_scores(data.test, raw)
    verdicts = part_verdicts(data.test, list(map(calibration.calibrated, raw)), thresholds=calibration.thresholds)
    at_border, elsewhere = [], []
    for record, found in paired(data.test, raw):
        overlaps = iou(record.boxes, found.boxes).max(axis=1, initial=0.0)
        for cut, overlap in zip(cut_by_border(record, plan), overlaps, strict=True):
            (at_border if cut else elsewhere).append(overlap >= 0.5)
    return {
        "AP50": scores.ap50,
        "AP": scores.ap,
        "escape": f"{verdicts.escape.count}/{verdicts.escape.total}",
        "overkill": f"{verdicts.overkill.count}/{verdicts.overkill.total}",
        "border recall": float(np.mean(at_border)) if at_border else None,
        "other recall": float(np.mean(elsewhere)) if elsewhere else None,
    }


def cost(predictor: Predictor) -> dict[str, float]:
    """CPU seconds of a photograph of 12 megapixels: the detector on its views, and everything from the file's bytes on.

    Of CPU, so that other programs do not count; on two idle cores it takes half as long or a little more.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 200, (300, 400, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((4000, 3000)).save(file, "JPEG", quality=92)
    views = views_of(4000, 3000, predictor.image_size, predictor.tiles)
    pixels = decode_picture(file.getvalue(), rotate=True)
    fitted = [view_pixels(pixels, view, predictor.image_size) for view in views[:16]]
    predictor.detect_fitted(np.stack(fitted[:2]))  # warms up
    started_s = time.process_time()
    predictor.detect_fitted(np.stack(fitted))
    detector_s = (time.process_time() - started_s) * len(views) / len(fitted)
    started_s = time.process_time()
    predictor.detect(predictor.decode(file.getvalue()))
    return {"views": len(views), "detector s": detector_s, "everything s": time.process_time() - started_s}


def write_boards(source: Data, out: Path, *, counts: Mapping[str, int], side: int = 4) -> Path:
    """Photographs of ``side`` x ``side`` equal squares of one board each; a board is in one split alone."""
    by_board: dict[str, list[ImageRecord]] = {}
    for split in source.splits:
        for record in split.images:
            by_board.setdefault(record.group, []).append(record)
    boards = sorted(by_board.items(), key=lambda item: -len(item[1]))
    splits = {"train": boards[::3], "val": boards[1::3], "test": boards[2::3]}
    for name, some in splits.items():
        squares = [records[at : at + side**2] for _, records in some for at in range(0, len(records), side**2)]
        full = [one for one in squares if len(one) == side**2][: counts[name]]
        images, annotations = [], []
        (out / name / "images").mkdir(parents=True)
        for number, records in enumerate(full, start=1):
            px = records[0].width
            whole = np.zeros((side * px, side * px, 3), np.uint8)
            for at, record in enumerate(records):
                y, x = px * (at // side), px * (at % side)
                whole[y : y + px, x : x + px] = read_image(record)
                for box, label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True):
                    xywh = [box[0] + x, box[1] + y, box[2] - box[0], box[3] - box[1]]
                    annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": label,
                                        "bbox": xywh, "iscrowd": 0})  # fmt: skip
            Image.fromarray(whole).save(out / name / "images" / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": side * px, "height": side * px,
                           "group": records[0].group})  # fmt: skip
        categories = [{"id": at, "name": one.name} for at, one in enumerate(source.categories, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (out / name / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    return out


def cut_by_border(record: ImageRecord, plan: TilePlan) -> list[bool]:
    """Which boxes of an image are cut by a border of some tile."""
    tiles = [view for view in views_of(record.width, record.height, (64, 64), plan) if view.tile]
    cut = np.zeros(len(record.boxes), bool)
    for view in tiles:
        for low, start, side_px in ((0, view.left, view.width), (1, view.top, view.height)):
            for edge in (start, start + side_px):
                cut |= (record.boxes[:, low] < edge) & (edge < record.boxes[:, low + 2])
    return cut.tolist()  # type: ignore[no-any-return]


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        cells = [f"{value:.3f}" if isinstance(value := row[name], float) else str(value) for name in COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines: read, and appended to")
    parser.add_argument("--seconds", type=float, default=600.0, help="CPU seconds of each training")
    parser.add_argument("--size", type=int, default=448, help="px of the whole image")
    parser.add_argument("--tile", type=int, default=192, help="px of the photograph in a tile, as vqc check asks")
    parser.add_argument("--input", type=int, default=320, help="px of the detector's input for it")
    parser.add_argument("--share", type=float, default=1.0, help="of the photographs of val and test that are used")
    parser.add_argument("--model", default="fcos_lite0")
    parser.add_argument("--boards", type=Path, metavar="DIR", help="squares of boards: --data is made of them first")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.boards is not None and not args.data.exists():
        write_boards(load_data(args.boards), args.data, counts={"train": 4, "val": 4, "test": 6})
    data, cache = shortened(load_data(args.data), args.share), args.out.with_suffix(".cache")
    plan = tile_plan(configured(args.model, args.input, tile_px=args.tile, epochs=1), data)
    assert plan is not None
    with LineFile(args.out) as file:
        rows = [json.loads(line) for line in whole_lines(args.out)]
        for sizes, names in (((args.input, args.tile), ROWS[2:]), ((args.size, 0), ROWS[:2])):
            if {row["row"] for row in rows} >= set(names):
                continue
            model, info, cpu_s = trained(
                data, args.seconds, cache, model=args.model, size_px=sizes[0], tile_px=sizes[1]
            )
            for name in names:
                if any(row["row"] == name for row in rows):
                    continue
                if name == ROWS[1]:  # a tile has as many pixels at the detector's input as it was trained with
                    size = (args.size, args.size)
                    info = info.model_copy(update={"tiles": plan.model_copy(update={"tile_px": size[0]})})
                figures = measured(model, info, data, plan)
                rows.append({"row": name, **figures, "epochs": info.epoch, "CPU s": cpu_s})
                file.append(json.dumps(rows[-1]))
                torch.set_num_threads(2)
                print(name, cost(torch_predictor(model, info)), flush=True)
                torch.set_num_threads(1)
    print(table(rows))


if __name__ == "__main__":
    main()
