"""How many wrong annotations ``vqc check --labels`` finds: a table in Markdown.

    python tests/benchmarks/label_errors.py --data ../shared/data/deeppcb-mini [--size 448] [--epochs N] [--seed 0]
    ... --labels MODEL          judged by a detector that was trained on the right annotations of train
    ... --folds 1               judge the photographs of one fold of the three, to save time
    ... --found FILE            keep the detections there, or take them from there if they are

Of all boxes 5 % are removed, 5 % are shifted by half to a whole side in each direction, and 5 % get another class.
The detectors are trained on these annotations, and the suspects are ranked. An error counts as found if one of the
first suspects shows it: as many suspects as 15 % of the boxes. As many boxes in random order would show 15 %.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vqc.boxes import iou
from vqc.data.dataset import Data, ImageRecord, load_data
from vqc.evaluation.coco_metrics import coco_scores
from vqc.evaluation.evaluate import detections_on
from vqc.evaluation.label_errors import Judged, Suspect, suspects_in
from vqc.files import write_atomically
from vqc.inference.detections import Detections
from vqc.inference.model_file import open_predictor
from vqc.training.folds import FOLDS, fold_config, fold_detections

SHARE = 0.05  # of the boxes, for each kind of error
FIRST = 0.15  # suspects that are looked at, as a share of the boxes
SEEN = 0.5  # overlap with the right place from which a suspect shows the error

Kind = Literal["removed", "shifted", "relabelled"]
KINDS: tuple[Kind, ...] = ("removed", "shifted", "relabelled")


@dataclass(frozen=True, kw_only=True)
class Error:
    """One box that was made wrong: where it was, and where it is now; None if it was removed."""

    kind: Kind
    split: str
    image_id: int
    was: NDArray[np.float32]
    now: NDArray[np.float32] | None

    def shown_by(self, suspect: Suspect) -> bool:
        """Whether the suspect is about this box, or about the place where it should be."""
        if (suspect.split, suspect.image_id) != (self.split, self.image_id):
            return False
        if self.now is not None and suspect.annotated_box == tuple(self.now.tolist()):
            return True
        place = np.array(suspect.detected_box or (0, 0, 0, 0))[None]
        return self.kind != "relabelled" and bool(iou(self.was[None], place)[0, 0] >= SEEN)


def corrupted(data: Data, rng: np.random.Generator) -> tuple[Data, list[Error]]:
    """The same photographs with wrong annotations; no file is changed."""
    where = [
        (s, i, b)
        for s, split in enumerate(data.splits)
        for i, one in enumerate(split.images)
        for b in range(len(one.boxes))
    ]
    each = round(SHARE * len(where))
    drawn = rng.permutation(len(where))[: each * len(KINDS)]
    chosen = {where[at]: KINDS[number // each] for number, at in enumerate(drawn)}
    splits, errors = [], list[Error]()
    for s, split in enumerate(data.splits):
        images = []
        for i, record in enumerate(split.images):
            kinds = {b: chosen[s, i, b] for b in range(len(record.boxes)) if (s, i, b) in chosen}
            changed, its_errors = _corrupted(record, kinds, split.name, len(data.categories), rng)
            images.append(changed)
            errors += its_errors
        splits.append(replace(split, images=tuple(images)))
    train, val, *test = splits
    return replace(data, train=train, val=val, test=test[0] if test else None), errors


def _corrupted(
    record: ImageRecord, kinds: dict[int, Kind], split: str, categories: int, rng: np.random.Generator
) -> tuple[ImageRecord, list[Error]]:
    boxes, labels, kept, errors = record.boxes.copy(), record.labels.copy(), np.ones(len(record.boxes), bool), []
    for box, kind in kinds.items():
        now: NDArray[np.float32] | None = None
        if kind == "removed":
            kept[box] = False
        elif kind == "relabelled":
            labels[box] = 1 + (labels[box] - 1 + rng.integers(1, categories)) % categories
            now = boxes[box]
        else:
            boxes[box] = now = _shifted(boxes[box], record, rng)
        errors.append(Error(kind=kind, split=split, image_id=record.image_id, was=record.boxes[box], now=now))
    changed = replace(
        record, boxes=boxes[kept], labels=labels[kept], areas=record.areas[kept], crowd=record.crowd[kept]
    )
    return changed, errors


def _shifted(box: NDArray[np.float32], record: ImageRecord, rng: np.random.Generator) -> NDArray[np.float32]:
    """By half to a whole side across and down, whichever way leaves it inside the image."""
    sides = box[2:] - box[:2]
    while True:
        by = np.tile(rng.uniform(0.5, 1, 2) * rng.choice([-1, 1], 2) * sides, 2)
        moved = (box + by).astype(np.float32)
        if moved.min() >= 0 and (moved[2:] <= (record.width, record.height)).all():
            return moved


def write_found(file: Path, judged: Sequence[Judged]) -> None:
    """Keep the detections, to rank them again without training."""
    rows = [
        {
            "split": split.name,
            "image_id": one.image_id,
            **{key: getattr(one, key).tolist() for key in ("boxes", "scores", "labels")},
        }
        for split, found in judged
        for one in found
    ]
    write_atomically(file, json.dumps(rows).encode())


def read_found(file: Path, data: Data) -> list[Judged]:
    rows = json.loads(file.read_text(encoding="utf-8"))
    found = {
        (row["split"], row["image_id"]): Detections(
            image_id=row["image_id"],
            boxes=np.array(row["boxes"], np.float32).reshape(-1, 4),
            scores=np.array(row["scores"], np.float32),
            labels=np.array(row["labels"], np.int64),
        )
        for row in rows
    }
    kept = [
        replace(split, images=tuple(image for image in split.images if (split.name, image.image_id) in found))
        for split in data.splits
    ]
    return [(split, [found[split.name, image.image_id] for image in split.images]) for split in kept]


def judge(wrong: Data, args: argparse.Namespace) -> list[Judged]:
    """The detections by which the annotations are judged."""
    if args.labels is not None:
        predictor = open_predictor(args.labels)
        return [(split, detections_on(predictor, wrong, split.name)) for split in wrong.splits]
    config = fold_config(wrong, image_size=(args.size, args.size))
    config = config.model_copy(update={"num_epochs": args.epochs or config.num_epochs, "seed": args.seed})

    def tell(step: int, steps: int) -> None:
        if step % 50 == 0:
            print(f"step {step} of {steps}", flush=True)

    found: dict[int, Detections] = {}
    for some in islice(fold_detections(wrong, config, on_step=tell), args.folds):
        found |= some
    positions = count()
    judged = [
        (split, [(image, found[at]) for image in split.images if (at := next(positions)) in found])
        for split in wrong.splits
    ]
    return [(replace(split, images=tuple(i for i, _ in pairs)), [one for _, one in pairs]) for split, pairs in judged]


def show(judged: Sequence[Judged], errors: Sequence[Error], *, together: bool) -> None:
    groups = [judged] if together else [[pair] for pair in judged]
    suspects = sorted(
        (one for some in groups for one in suspects_in(some)), key=lambda one: (-one.suspicion, -(one.score or 0))
    )
    boxes = sum(split.boxes for split, _ in judged)
    there = {(split.name, image.image_id) for split, _ in judged for image in split.images}
    errors = [error for error in errors if (error.split, error.image_id) in there]
    first = suspects[: round(FIRST * boxes)]
    print(
        "\nAP50 against the wrong annotations: "
        + ", ".join(f"{s.name} {coco_scores(s, found).ap50 or 0:.3f}" for s, found in judged)
    )
    print(f"{boxes} boxes, {len(suspects)} suspects, of which the first {len(first)} are looked at\n")
    print("| made wrong | errors | found | share | times chance |\n|---|---|---|---|---|")
    hits = {
        kind: [any(error.shown_by(one) for one in first) for error in errors if error.kind == kind] for kind in KINDS
    }
    for name, some in (*hits.items(), ("all", [hit for its in hits.values() for hit in its])):
        share = sum(some) / max(1, len(some))
        print(f"| {name} | {len(some)} | {sum(some)} | {100 * share:.0f} % | {share / FIRST:.1f} |")
    right = sum(any(error.shown_by(one) for error in errors) for one in first)
    print(f"\nOf the first {len(first)} suspects {right} show an error that was made; the others may be DeepPCB's own.")
    for kind in ("no box", "not found", "other class", "other place"):
        those = [one for one in first if one.kind == kind]
        print(f"  {kind}: {len(those)}, of which {sum(any(e.shown_by(one) for e in errors) for one in those)} show one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--found", type=Path)
    args = parser.parse_args()
    wrong, errors = corrupted(load_data(args.data), np.random.default_rng(args.seed))
    started_s = time.process_time()
    if args.found is not None and args.found.exists():
        judged = read_found(args.found, wrong)
    else:
        judged = judge(wrong, args)
        if args.found is not None:
            write_found(args.found, judged)
    show(judged, errors, together=args.labels is None)
    print(f"{time.process_time() - started_s:.0f} CPU seconds")


if __name__ == "__main__":
    main()
