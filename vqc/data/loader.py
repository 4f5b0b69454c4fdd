"""Records -> batches: images fitted into one fixed size, cached, augmented and collated ahead of the trainer.

Every batch depends on the seed, the epoch and its images alone: neither the cache nor the number of threads nor a
resumption changes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vqc.config import TrainConfig, Workers
from vqc.data.cache import cached_pixels
from vqc.data.copy_paste import Donors, with_defects
from vqc.data.dataset import Data, ImageRecord, read_image
from vqc.data.letterbox import fit_image, fit_scale
from vqc.data.prefetch import prefetched
from vqc.data.sampling import epoch_order, repeat_factors
from vqc.data.transforms import Augmenter
from vqc.seeding import stream_seed

Target = dict[str, torch.Tensor]
BoxesAndLabels = tuple[NDArray[np.float32], NDArray[np.int64]]
WriteImage = Callable[[int, NDArray[np.uint8]], BoxesAndLabels]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images of one size and what is on them.

    ``images``: uint8 [N, 3, H, W] RGB. ``targets``: per image ``boxes`` float32 [n, 4] xyxy in pixels of the
    fitted image and ``labels`` int64 [n] in 1..C. ``indices``: positions in the split.
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
    """The images of a split at one size, with their boxes and labels.

    ``self[i]`` is uint8 [H, W, 3], not to be changed; ``boxes[i]`` float32 [n, 4] xyxy in pixels of the fitted image
    and ``labels[i]`` int64 [n] in 1..C, without the crowd regions. With a cache folder the images are decoded only
    once; without one, or where it has no space for them, at each access. The pixels are the same.
    """

    def __init__(self, data: Data, split: str, *, size: tuple[int, int], cache: Path | None) -> None:
        import cv2

        cv2.setNumThreads(1)  # there is a thread for each image already
        self.split = data.split(split)
        self.size = size
        # A crowd region is ignored in scoring and is not one object.
        self.boxes = [r.boxes[~r.crowd] * np.float32(fit_scale(r.width, r.height, size)) for r in self.split.images]
        self.labels = [r.labels[~r.crowd] for r in self.split.images]
        self._pixels = None
        if cache is not None:
            # Another release of a decoder may give other pixels.
            group = f"{data.fingerprint[:16]}-{cv2.__version__}-{version('pillow')}-{size[0]}x{size[1]}"
            shape = (len(self), *size, 3)
            self._pixels = cached_pixels(cache, split, group=group, shape=shape, produce=self._all_fitted)

    def __len__(self) -> int:
        return len(self.split.images)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self._fitted(self.split.images[index]) if self._pixels is None else np.asarray(self._pixels[index])

    def _fitted(self, record: ImageRecord) -> NDArray[np.uint8]:
        return fit_image(read_image(record), self.size)

    def _all_fitted(self) -> Iterator[NDArray[np.uint8]]:
        return prefetched(self._fitted, self.split.images, workers=os.cpu_count() or 1)  # the consumer only writes


def evaluation_batches(
    images: FittedImages, *, batch_size: int, threads: Workers, first: int | None = None
) -> Iterator[Batch]:
    """The split in its order, not augmented; only the ``first`` images if given. ``threads`` as for ``prefetched``."""

    def write(index: int, out: NDArray[np.uint8]) -> BoxesAndLabels:
        np.copyto(out, images[index])
        return images.boxes[index].copy(), images.labels[index].copy()

    return _batches(images, write, range(len(images))[:first], batch_size, threads)


def training_batches(images: FittedImages, config: TrainConfig, *, epoch: int) -> Iterator[Batch]:
    """One epoch in its random order, augmented; as many images as the split has, so the last batch may be smaller.

    Args:
        epoch: counted from 1; with ``config.seed`` it decides the order and every augmentation.
    """
    augment = Augmenter(config.augmentation)
    donors = Donors(images.split.images, probability=config.augmentation.copy_paste)

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
