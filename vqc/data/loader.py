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
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from vqc.config import TrainConfig, Workers
from vqc.data.cache import cached_pixels
from vqc.data.copy_paste import Donors, with_defects
from vqc.data.dataset import Data, read_to_fit
from vqc.data.prefetch import prefetched
from vqc.data.sampling import epoch_order, repeat_factors
from vqc.data.tiles.training_views import all_views, training_views
from vqc.data.tiles.views import TilePlan, boxes_in_view, decoded_for, view_pixels, without
from vqc.data.transforms import Augmenter
from vqc.seeding import stream_seed

FITTING = 2  # of the cache: raised when the same photograph gives other fitted pixels
LARGE_PX2 = 25_000_000  # of larger photographs, and of those that are cut, three at most are in memory at once

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
        for_training: tiles around the defects and some good ones (see ``training_views``) instead of all.
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
        self._decoded_for = decoded_for(size, tiles)
        self._large = tiles is not None or any(r.width * r.height > LARGE_PX2 for r in self.split.images)
        # A crowd region is ignored in scoring and is not one object.
        objects = [(r.boxes[~r.crowd], r.labels[~r.crowd]) for r in self.split.images]
        self.chosen = (training_views if for_training else all_views)(self.split, size, tiles)
        self.views = self.chosen.views
        # Without a cache: the tiles of a photograph follow each other, and it is decoded once for all of them.
        self._last_read = lru_cache(maxsize=2)(self._read)
        self._reading = Lock()
        seen = [boxes_in_view(objects[at][0], view) for at, view in self.views]
        self.boxes = [boxes for boxes, _, _ in seen]
        self.labels = [objects[at][1][kept] for (at, _), (_, kept, _) in zip(self.views, seen, strict=True)]
        self._rests = [rest for _, _, rest in seen]
        self._pixels = None
        if cache is not None:
            # Another release of a decoder may give other pixels.
            group = f"{data.fingerprint[:16]}-{FITTING}-{cv2.__version__}-{version('pillow')}-{size[0]}x{size[1]}"
            if tiles is not None:
                chosen = "training" if for_training else "all"
                group += f"-{tiles.tile_px}-{tiles.overlap_px}-{tiles.whole:d}-{chosen}"
            shape = (len(self), *size, 3)
            self._pixels = cached_pixels(cache, split, group=group, shape=shape, produce=self._all_fitted)

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        if self._pixels is not None:
            return np.asarray(self._pixels[index])
        at, _ = self.views[index]
        if not self._large:
            return self._fitted(self._read(at), index)
        with self._reading:  # the last two, and the one that is being read, are in memory
            return self._fitted(self._last_read(at), index)

    def _read(self, at: int) -> NDArray[np.uint8]:
        return read_to_fit(self.split.images[at], self._decoded_for).pixels

    def _fitted(self, photograph: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        return without(view_pixels(photograph, self.views[index][1], self.size), self._rests[index])

    def _all_fitted(self) -> Iterator[NDArray[np.uint8]]:
        """The pixels of all views in order; each photograph is decoded once."""
        positions = itertools.groupby(range(len(self.views)), key=lambda index: self.views[index][0])
        of_image = [list(group) for _, group in positions]
        if not self._large:
            workers = os.cpu_count() or 1  # the consumer only writes
            yield from prefetched(lambda at: self._fitted(self._read(at), at), range(len(of_image)), workers=workers)
            return
        # One is cut while two are read.
        photographs = prefetched(lambda group: self._read(self.views[group[0]][0]), of_image, workers=2)
        for group in of_image:
            photograph = next(photographs)
            for index in group:
                yield self._fitted(photograph, index)
            del photograph  # before the next one is waited for


def evaluation_batches(
    images: FittedImages, *, batch_size: int, threads: Workers, indices: Sequence[int] | None = None
) -> Iterator[Batch]:
    """The views in order, or those at ``indices``, not augmented. ``threads`` as for ``prefetched``."""

    def write(index: int, out: NDArray[np.uint8]) -> BoxesAndLabels:
        np.copyto(out, images[index])
        return images.boxes[index].copy(), images.labels[index].copy()

    return _batches(images, write, range(len(images)) if indices is None else indices, batch_size, threads)


def training_batches(
    images: FittedImages, config: TrainConfig, *, epoch: int, hard: Sequence[int] = ()
) -> Iterator[Batch]:
    """One epoch in its random order, augmented; the last batch may be smaller.

    Args:
        epoch: counted from 1; with ``config.seed`` it decides the good tiles, the order and every augmentation.
        hard: good tiles that must be among them.
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

    chosen = images.chosen.of_epoch(hard=hard, seed=stream_seed(config.seed, "good tiles", epoch))
    factors = repeat_factors([images.labels[index] for index in chosen], threshold=config.repeat_threshold)
    drawn = epoch_order(factors, np.random.default_rng(stream_seed(config.seed, "shuffle", epoch)))
    order = [chosen[position] for position in drawn]
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
