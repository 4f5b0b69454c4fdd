"""Records -> batches: images fitted into one fixed size, cached, augmented and collated ahead of the trainer.

Every batch depends on the seed, the epoch and its images alone: neither the cache nor the number of threads nor a
resumption changes it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray

from vqc.config import TrainConfig, Workers
from vqc.data.cache import cached_pixels
from vqc.data.copy_paste import Donors, with_defects
from vqc.data.dataset import Data, read_image
from vqc.data.prefetch import prefetched
from vqc.data.sampling import epoch_order, repeat_factors
from vqc.data.tiling import TilePlan, View, boxes_in_view, plan_tiles, training_views, view_pixels, views_of, without
from vqc.data.transforms import Augmenter
from vqc.seeding import stream_seed

Target = dict[str, torch.Tensor]
BoxesAndLabels = tuple[NDArray[np.float32], NDArray[np.int64]]
WriteImage = Callable[[int, NDArray[np.uint8]], BoxesAndLabels]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images of one size and what is on them.

    ``images``: uint8 [N, 3, H, W] RGB. ``targets``: per image ``boxes`` float32 [n, 4] xyxy in pixels of the
    fitted image and ``labels`` int64 [n] in 1..C. ``indices``: positions among the views.
    """

    images: torch.Tensor
    targets: list[Target]
    indices: tuple[int, ...]

    def parts(self, size: int) -> list[Batch]:
        """The batch cut into parts of ``size`` images, in order; the last may be smaller. Views, not copies."""
        slices = [slice(at, at + size) for at in range(0, len(self.indices), size)]
        return [Batch(images=self.images[s], targets=self.targets[s], indices=self.indices[s]) for s in slices]

    def to(self, device: torch.device) -> Batch:
        """The batch on a device: three transfers for any number of images; to a GPU they are asynchronous."""
        counts = [len(one["labels"]) for one in self.targets]
        boxes, labels = (_sent(torch.cat([one[name] for one in self.targets]), device) for name in ("boxes", "labels"))
        pairs = zip(torch.split(boxes, counts), torch.split(labels, counts), strict=True)
        targets = [{"boxes": box, "labels": label} for box, label in pairs]
        return Batch(images=_sent(self.images, device), targets=targets, indices=self.indices)


class FittedImages:
    """The views of a split's photographs at one size, with their boxes and labels: whole photographs, or tiles.

    ``self[i]`` is uint8 [H, W, 3], not to be changed; ``boxes[i]`` float32 [n, 4] xyxy in pixels of the fitted view
    and ``labels[i]`` int64 [n] in 1..C, without the crowd regions; ``views[i]`` is the position of the photograph in
    the split, and the view of it. With a cache folder photographs are decoded only once; without one, or where it has
    no space for them, at each access. The pixels are the same.

    Args:
        tiles: how photographs are cut; None: each is one view.
        for_training: tiles around the defects and some good ones (see ``training_views``) instead of all; the same for
            every configuration, so that all trials share them.
    """

    def __init__(
        self,
        data: Data,
        split: str,
        *,
        size: tuple[int, int],
        cache: Path | None,
        tiles: TilePlan | None = None,
        for_training: bool = False,
    ) -> None:
        import cv2

        cv2.setNumThreads(1)  # there is a thread for each image already
        self.split = data.split(split)
        self.size = size
        self._tiles = tiles
        # A crowd region is ignored in scoring and is not one object.
        objects = [(r.boxes[~r.crowd], r.labels[~r.crowd]) for r in self.split.images]
        # Without a cache: the tiles of a photograph follow each other, and it is decoded once for all of them.
        self._photograph = self._read if tiles is None else lru_cache(maxsize=2)(self._read)
        self._of_image: list[list[View]] = []
        for record, (boxes, _) in zip(self.split.images, objects, strict=True):
            if tiles is not None and for_training:
                random = Random(stream_seed(0, "tiles", record.image_id))
                views = training_views(record.width, record.height, boxes, size, tiles, random=random)
            else:
                views = views_of(record.width, record.height, size, tiles)
            self._of_image.append(views)
        self.views = [(at, view) for at, views in enumerate(self._of_image) for view in views]
        seen = [boxes_in_view(objects[at][0], view) for at, view in self.views]
        self.boxes = [boxes for boxes, _, _ in seen]
        self.labels = [objects[at][1][kept] for (at, _), (_, kept, _) in zip(self.views, seen, strict=True)]
        self._rests = [rest for _, _, rest in seen]
        self._pixels = None
        if cache is not None:
            # Another release of a decoder may give other pixels.
            group = f"{data.fingerprint[:16]}-{cv2.__version__}-{version('pillow')}-{size[0]}x{size[1]}"
            if tiles is not None:
                group += f"-{tiles.tile_px}-{tiles.overlap_px}-{tiles.whole:d}{for_training:d}"
            shape = (len(self), *size, 3)
            self._pixels = cached_pixels(cache, split, group=group, shape=shape, produce=self._all_fitted)

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        if self._pixels is not None:
            return np.asarray(self._pixels[index])
        at, _ = self.views[index]
        return self._fitted(self._photograph(at), index)

    def _read(self, at: int) -> NDArray[np.uint8]:
        return read_image(self.split.images[at])

    def _fitted(self, photograph: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        return without(view_pixels(photograph, self.views[index][1], self.size), self._rests[index])

    def _all_fitted(self) -> Iterator[NDArray[np.uint8]]:
        """The pixels of all views in order; each photograph is decoded once."""
        # The consumer only writes. Large photographs: no more than three are in memory at once.
        workers = (os.cpu_count() or 1) if self._tiles is None else 2
        firsts = [0, *itertools.accumulate(map(len, self._of_image))]

        def fitted(at: int) -> list[NDArray[np.uint8]]:
            photograph = self._photograph(at)
            return [self._fitted(photograph, index) for index in range(firsts[at], firsts[at + 1])]

        return itertools.chain.from_iterable(prefetched(fitted, range(len(self._of_image)), workers=workers))


def tile_plan(config: TrainConfig, data: Data) -> TilePlan | None:
    """How a run cuts photographs, with the overlap that the training defects need; None: not at all."""
    if not config.tile_px:
        return None
    boxes = np.concatenate([r.boxes[~r.crowd] for r in data.train.images])
    return plan_tiles(config.tile_px, boxes[:, 2:] - boxes[:, :2])


def evaluation_batches(
    images: FittedImages, *, batch_size: int, threads: Workers, first: int | None = None
) -> Iterator[Batch]:
    """The views in order, not augmented; only the ``first`` of them if given. ``threads`` as for ``prefetched``."""

    def write(index: int, out: NDArray[np.uint8]) -> BoxesAndLabels:
        np.copyto(out, images[index])
        return images.boxes[index].copy(), images.labels[index].copy()

    return _batches(images, write, range(len(images))[:first], batch_size, threads)


def training_batches(images: FittedImages, config: TrainConfig, *, epoch: int) -> Iterator[Batch]:
    """One epoch in its random order, augmented; as many views as there are, so the last batch may be smaller.

    Args:
        epoch: counted from 1; with ``config.seed`` it decides the order and every augmentation.
    """
    augment = Augmenter(config.augmentation)
    sizes = [(view.width, view.height) for _, view in images.views]
    donors = Donors(sizes, images.labels, probability=config.augmentation.copy_paste)

    def write(index: int, out: NDArray[np.uint8]) -> BoxesAndLabels:
        pixels, source = images[index], donors.of(index, seed=stream_seed(config.seed, "paste", epoch, index))
        if source != index:
            pixels = with_defects(pixels, images[source], images.boxes[source])
        seed = stream_seed(config.seed, "augment", epoch, index)
        return augment(pixels, images.boxes[source], seed=seed, out=out), images.labels[source].copy()

    factors = repeat_factors(images.labels, threshold=config.repeat_threshold)
    order = epoch_order(factors, np.random.default_rng(stream_seed(config.seed, "shuffle", epoch)))
    return _batches(images, write, order, config.batch_size, config.num_workers)


def _batches(
    images: FittedImages, write: WriteImage, order: Sequence[int], size: int, workers: Workers
) -> Iterator[Batch]:
    parts = (tuple(order[at : at + size]) for at in range(0, len(order), size))
    return prefetched(partial(_collate, images, write), parts, workers=workers)


def _collate(images: FittedImages, write: WriteImage, indices: tuple[int, ...]) -> Batch:
    """The batch of these images; ``write`` puts each one directly into its place and returns what is on it."""
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # a run on the CPU must not start CUDA
    pixels = _empty((len(indices), *images.size, 3), pinned=on_gpu)
    written = [write(index, out) for index, out in zip(indices, pixels.numpy(), strict=True)]
    targets = [{"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)} for boxes, labels in written]
    channels_last = pixels.permute(0, 3, 1, 2)  # NCHW in name, NHWC in memory
    return Batch(images=channels_last, targets=targets, indices=indices)


def _empty(shape: tuple[int, ...], *, pinned: bool) -> torch.Tensor:
    """uint8 of this shape; not pinned where the system has no more such memory, which is less than all there is."""
    with suppress(RuntimeError):
        return torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
    return torch.empty(shape, dtype=torch.uint8)


def _sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type == "cuda":
        with suppress(RuntimeError):  # then the CPU waits for the copy below
            tensor = tensor.pin_memory()  # changes nothing where it is pinned already
    return tensor.to(device, non_blocking=True)
