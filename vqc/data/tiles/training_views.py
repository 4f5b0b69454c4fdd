"""Which views of a split are looked at: all of them, or in training those around the defects and some good ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from vqc.config import TrainConfig
from vqc.data.dataset import Data, Split
from vqc.data.tiles.views import Boxes, TilePlan, View, plan_tiles, tile_at, views_of
from vqc.seeding import stream_seed

DEFECT_TILES = 2  # that show a training defect whole, at different places around it; more where defects are close
GOOD_TILES = 1  # of an epoch, for each tile with a defect
GOOD_CANDIDATES = 3  # among which each of these is chosen
HARD_SHARE = 0.5  # of an epoch's good tiles, from where the model gave false alarms


@dataclass(frozen=True, kw_only=True)
class SplitViews:
    """The views of a split's photographs, in order, and how many of them an epoch takes.

    ``views``: position of the photograph in the split, and the view. ``good``: positions of the views that show no part
    of a defect; an epoch takes ``good_an_epoch`` of these and ``shown_an_epoch`` of the others.
    """

    views: list[tuple[int, View]]
    good: list[int]
    good_an_epoch: int
    shown_an_epoch: int

    @property
    def an_epoch(self) -> int:
        return self.shown_an_epoch + self.good_an_epoch

    @property
    def most_hard(self) -> int:
        """Good tiles of an epoch, at most, that are chosen because the model gives false alarms on them."""
        return int(HARD_SHARE * self.good_an_epoch)

    def examined(self, *, seed: int) -> list[int]:
        """The good tiles, drawn anew for each epoch, on which false alarms are looked for: twice as many as needed."""
        return sorted(Random(seed).sample(self.good, min(len(self.good), 2 * self.most_hard)))

    def of_epoch(self, *, hard: Sequence[int], seed: int) -> list[int]:
        """The positions of one epoch, rising: ``hard``, ``most_hard`` good ones at most, and others by chance."""
        random, good = Random(seed), set(self.good)
        shown = [index for index in range(len(self.views)) if index not in good]
        left_out = random.sample(sorted(good - set(hard)), len(good) - self.good_an_epoch)
        left_out += random.sample(shown, len(shown) - self.shown_an_epoch)
        return sorted(set(range(len(self.views))) - set(left_out))


def tile_plan(config: TrainConfig, data: Data) -> TilePlan | None:
    """How a run cuts photographs, with the overlap that the training defects need; None: not at all."""
    if not config.tile_px:
        return None
    boxes = np.concatenate([r.boxes[~r.crowd] for r in data.train.images])
    return plan_tiles(config.tile_px, boxes[:, 2:] - boxes[:, :2])


def all_views(split: Split, size: tuple[int, int], plan: TilePlan | None) -> SplitViews:
    """All views of the photographs; without a plan each is one view."""
    views = [(at, view) for at, one in enumerate(split.images) for view in views_of(one.width, one.height, size, plan)]
    return SplitViews(views=views, good=[], good_an_epoch=0, shown_an_epoch=len(views))


def training_views(split: Split, size: tuple[int, int], plan: TilePlan | None) -> SplitViews:
    """What is trained on; equal for all configurations with this plan, so that trials share their pixels.

    An epoch takes no more tiles than cover the photographs once: where these are full of defects, an epoch of tiles
    that showed each of them twice would take many times as long as one of whole photographs.
    """
    if plan is None:
        return all_views(split, size, plan)
    views: list[tuple[int, View]] = []
    good: list[int] = []
    good_an_epoch = 0
    for at, record in enumerate(split.images):
        random = Random(stream_seed(0, "tiles", record.image_id))
        boxes = record.boxes[~record.crowd]
        shown, candidates, wanted = tiles_of(record.width, record.height, boxes, size, plan, random=random)
        good += range(len(views) + len(shown), len(views) + len(shown) + len(candidates))
        views += [(at, view) for view in (*shown, *candidates)]
        good_an_epoch += wanted
    shown_an_epoch = len(views) - len(good)
    covering = sum(one.width * one.height for one in split.images) / plan.tile_px**2
    share = min(1.0, covering / max(1, shown_an_epoch + good_an_epoch))
    return SplitViews(
        views=views,
        good=good,
        good_an_epoch=math.ceil(share * good_an_epoch),
        shown_an_epoch=math.ceil(share * shown_an_epoch),
    )


def tiles_of(
    width: int, height: int, boxes: Boxes, size: tuple[int, int], plan: TilePlan, *, random: Random
) -> tuple[list[View], list[View], int]:
    """What is trained on of a photograph with defects [n, 4] xyxy.

    A good photograph gives as many tiles as one with a single defect.

    Returns:
        The views of every epoch: tiles around the defects, and the whole photograph if planned; candidates for good
        tiles; and how many of these an epoch needs.
    """
    every = views_of(width, height, size, plan)
    around: dict[View, None] = {}  # in order, each once
    for box in boxes:
        if (box[2:] - box[:2]).max() <= plan.tile_px:
            for _ in range(DEFECT_TILES - sum(_holds(view, box) for view in around)):
                around[tile_at(*_around(box, width, height, plan.tile_px, random), width, height, size, plan)] = None
    shown = [*around, *(view for view in every if not view.tile)]
    good = [view for view in every if view.tile and not _touched(boxes, view).any()]
    wanted = min(len(good), GOOD_TILES * (len(around) or DEFECT_TILES))
    candidates = random.sample(good, min(len(good), GOOD_CANDIDATES * wanted))
    if not shown and not candidates:
        return every, [], 0
    return shown, candidates, wanted


def _around(box: NDArray[np.float32], width: int, height: int, tile_px: int, random: Random) -> tuple[int, int]:
    """A corner from which a tile holds the box, or its middle where it is too large; anywhere else by chance."""
    corner = []
    for low, high, side in ((box[0], box[2], width), (box[1], box[3], height)):
        first, last = int(np.ceil(high)) - tile_px, int(np.floor(low))
        if first > last:
            first = last = int(low + high - tile_px) // 2
        first, last = (min(max(0, at), max(0, side - tile_px)) for at in (first, last))
        corner.append(random.randint(first, last))
    return corner[0], corner[1]


def _holds(view: View, box: NDArray[np.float32]) -> bool:
    """Whether the view shows the whole box [4] xyxy."""
    low, high = (view.left, view.top), (view.left + view.width, view.top + view.height)
    return bool((box[:2] >= low).all() and (box[2:] <= high).all())


def _touched(boxes: Boxes, view: View) -> NDArray[np.bool_]:
    """Which boxes [n, 4] xyxy the view holds a part of."""
    low, high = (
        np.maximum(boxes[:, :2], (view.left, view.top)),
        np.minimum(boxes[:, 2:], (view.left + view.width, view.top + view.height)),
    )
    return np.asarray((high > low).all(axis=1))
