"""Small defects in large photographs: whole images, tiles at inference alone, tiles throughout; a table in Markdown.

    uv run vqc sample --large --out large
    uv run python tests/benchmarks/tiles.py --data large --seconds 600 --out tiles.jsonl

All train the CPU's detector for equally many CPU seconds on one thread. "Tiles at inference" is the detector of the
first row, looking at tiles. Figures are of whole photographs of test, at the threshold that val chose. Border recall is
the share found, at IoU 0.5 and any score, of the defects that a border of the inner tiles cuts, beside that of the
others. Each finished row is a line in ``--out``; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vqc.boxes import iou
from vqc.config import TrainConfig, read_json, shipped_settings
from vqc.data.dataset import Data, ImageRecord, load_data, read_image
from vqc.data.loader import tile_plan
from vqc.data.tiling import TilePlan, views_of
from vqc.evaluation.calibrate import fit_calibration
from vqc.evaluation.coco_metrics import coco_scores
from vqc.evaluation.evaluate import detections_on
from vqc.evaluation.image_metrics import part_verdicts
from vqc.evaluation.matching import paired
from vqc.evaluation.operating_point import usual_goal
from vqc.files import LineFile, whole_lines
from vqc.inference.torch_backend import torch_predictor
from vqc.models.checkpoint import ModelInfo
from vqc.models.pretrained import resolve_weights
from vqc.training.loop import fit

ROWS = ("whole image", "tiles at inference", "tiles throughout")
COLUMNS = ("row", "AP50", "AP", "escape", "overkill", "border recall", "other recall", "epochs", "CPU s", "s an image")


def configured(size_px: int, *, tile_px: int, epochs: int) -> TrainConfig:
    basis = read_json(shipped_settings("train_config_cpu.json"))
    values = {**basis, "image_size": size_px, "tile_px": tile_px, "num_epochs": epochs}
    return resolve_weights(TrainConfig.model_validate(values))[0]


def trained(
    data: Data, seconds: float, cache: Path, *, size_px: int, tile_px: int
) -> tuple[nn.Module, ModelInfo, float]:
    """The detector after as many epochs as fit into the CPU seconds, and those it took."""
    started_s = time.process_time()
    next(iter(fit(configured(size_px, tile_px=tile_px, epochs=2), data, cache=cache)))
    epochs = max(2, round(seconds / (time.process_time() - started_s)))
    started_s = time.process_time()
    *_, last = fit(configured(size_px, tile_px=tile_px, epochs=epochs), data, cache=cache)
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
    pictures = [read_image(record) for record in data.test.images[:4]]
    started_s = time.perf_counter()
    for picture in pictures:
        predictor.detect(picture)
    return {
        "AP50": scores.ap50,
        "AP": scores.ap,
        "escape": f"{verdicts.escape.count}/{verdicts.escape.total}",
        "overkill": f"{verdicts.overkill.count}/{verdicts.overkill.total}",
        "border recall": float(np.mean(at_border)) if at_border else None,
        "other recall": float(np.mean(elsewhere)) if elsewhere else None,
        "s an image": (time.perf_counter() - started_s) / len(pictures),
    }


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
    parser.add_argument("--tile", type=int, default=320, help="px of a tile, and of the detector that sees it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data, cache = load_data(args.data), args.out.with_suffix(".cache")
    plan = tile_plan(configured(args.tile, tile_px=args.tile, epochs=1), data)
    assert plan is not None
    with LineFile(args.out) as file:
        rows = [json.loads(line) for line in whole_lines(args.out)]
        for sizes, names in (((args.size, 0), ROWS[:2]), ((args.tile, args.tile), ROWS[2:])):
            if {row["row"] for row in rows} >= set(names):
                continue
            model, info, cpu_s = trained(data, args.seconds, cache, size_px=sizes[0], tile_px=sizes[1])
            for name in names:
                if name == ROWS[1]:  # a tile has as many pixels at the detector's input as it was trained with
                    size = (args.size, args.size)
                    info = info.model_copy(update={"tiles": plan.model_copy(update={"tile_px": size[0]})})
                figures = measured(model, info, data, plan)
                rows.append({"row": name, **figures, "epochs": info.epoch, "CPU s": cpu_s})
                file.append(json.dumps(rows[-1]))
    print(table(rows))


if __name__ == "__main__":
    main()
