"""Records -> batches: images fitted into one fixed size, cached, augmented, collated by a few threads.

Decoded and fitted images are kept in a memory-mapped file per split and size, shared by all trials, workers
and searches on the same data. Every batch is a function of (seed, epoch, its images) alone, so neither the
number of threads nor a resumption changes what the training sees.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray

from vqc.augment import Augmenter
from vqc.coco import Data, ImageRecord, read_image
from vqc.config import TrainConfig
from vqc.randomness import stream_seed

__all__ = ["Batch", "FittedImages", "Target", "evaluation_batches", "fit_image", "fit_scale", "training_batches"]

PAD_VALUE = 114  # near the mean of photographs, so that padding carries no contrast of its own
CACHE_LIMIT_BYTES = 20 * 2**30
Target = dict[str, torch.Tensor]


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
        """The batch in its order, in parts of ``size`` images, the last one maybe smaller; views, not copies."""
        ends = range(0, len(self.indices), size)
        return [
            Batch(
                images=self.images[at : at + size],
                targets=self.targets[at : at + size],
                indices=self.indices[at : at + size],
            )
            for at in ends
        ]


def fit_scale(width: int, height: int, size: tuple[int, int]) -> float:
    """Factor by which an image is scaled to fit into ``size`` (height, width), its shape kept."""
    return min(size[0] / height, size[1] / width)


def fit_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The image scaled into the top left corner of ``size`` (height, width); the rest is padding.

    Args:
        image: [h, w, 3].

    Returns:
        [H, W, 3]; a point (x, y) of the image lies at (x, y) * ``fit_scale``.
    """
    import cv2

    height, width = image.shape[:2]
    scale = fit_scale(width, height, size)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    fitted = np.full((*size, 3), PAD_VALUE, np.uint8)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    fitted[: inner[1], : inner[0]] = cv2.resize(image, inner, interpolation=way)
    return fitted


class FittedImages:
    """The images of a split at one size: ``self[i]`` is uint8 [H, W, 3].

    With a cache folder they are decoded once, ever; without one, or where they would take more than
    ``CACHE_LIMIT_BYTES``, at each access. Both give the same bytes.
    """

    def __init__(self, data: Data, split: str, *, size: tuple[int, int], cache: Path | None) -> None:
        self.split = data.split(split)
        self.size = size
        self._pixels: NDArray[np.uint8] | None = None
        if cache is not None and len(self) * size[0] * size[1] * 3 <= CACHE_LIMIT_BYTES:
            path = cache / f"{data.fingerprint[:16]}-{split}-{size[0]}x{size[1]}.npy"
            self._pixels = self._mapped(path)

    def __len__(self) -> int:
        return len(self.split.images)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        if self._pixels is not None:
            return np.asarray(self._pixels[index])
        return self._fitted(self.split.images[index])

    def _fitted(self, record: ImageRecord) -> NDArray[np.uint8]:
        return fit_image(read_image(record), self.size)

    def _mapped(self, path: Path) -> NDArray[np.uint8]:
        try:
            pixels: NDArray[np.uint8] = np.load(path, mmap_mode="r")
            if pixels.shape == self._shape and pixels.dtype == np.uint8:
                return pixels
        except (FileNotFoundError, ValueError, EOFError):
            pass  # not there, or cut short by a power failure
        self._write(path)
        return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]

    @property
    def _shape(self) -> tuple[int, ...]:
        return (len(self), *self.size, 3)

    def _write(self, path: Path) -> None:
        """Fill a file of its own, then give it the shared name: two writers cannot meet, a crash leaves no half."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.stem}.{uuid4().hex[:8]}.tmp")
        try:
            self._fill(draft)
            draft.replace(path)
        except PermissionError:
            if not path.exists():  # on Windows the name is taken while another process has it mapped: use theirs
                raise
        finally:
            draft.unlink(missing_ok=True)

    def _fill(self, draft: Path) -> None:
        pixels = np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=self._shape)
        try:
            with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
                for index, image in enumerate(pool.map(self._fitted, self.split.images)):
                    pixels[index] = image
            pixels.flush()
        finally:
            del pixels  # Windows neither renames nor removes a file that is mapped


def evaluation_batches(
    images: FittedImages, *, batch_size: int, threads: int, first: int | None = None
) -> Iterator[Batch]:
    """The split in its order, not augmented; only the ``first`` images if given."""
    order = range(len(images))[:first]
    parts = [tuple(order[at : at + batch_size]) for at in range(0, len(order), batch_size)]

    def prepare(indices: tuple[int, ...]) -> Batch:
        return _collate([images[i] for i in indices], [_target(images, i) for i in indices], indices)

    return _ahead(prepare, parts, threads)


def training_batches(images: FittedImages, config: TrainConfig, *, epoch: int) -> Iterator[Batch]:
    """One epoch in its random order, augmented; the last batch may be smaller, none is dropped.

    Args:
        epoch: counted from 1; with ``config.seed`` it decides the order and every augmentation.
    """
    order = np.random.default_rng(stream_seed(config.seed, "shuffle", epoch)).permutation(len(images))
    size = config.batch_size
    parts = [tuple(int(i) for i in order[at : at + size]) for at in range(0, len(order), size)]
    own = threading.local()

    def prepare(indices: tuple[int, ...]) -> Batch:
        if not hasattr(own, "augmenter"):
            own.augmenter = Augmenter(config.augmentation)
        pixels, targets = [], []
        for i in indices:
            target = _target(images, i)
            seed = stream_seed(config.seed, "augment", epoch, i)
            image, boxes, labels = own.augmenter(
                images[i], target["boxes"].numpy(), target["labels"].numpy(), seed=seed
            )
            pixels.append(image)
            targets.append({"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)})
        return _collate(pixels, targets, indices)

    return _ahead(prepare, parts, config.num_workers)


def _target(images: FittedImages, index: int) -> Target:
    record = images.split.images[index]
    keep = ~record.crowd  # a crowd region is ignored in scoring and says nothing of one object
    boxes = record.boxes[keep] * np.float32(fit_scale(record.width, record.height, images.size))
    return {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(record.labels[keep])}


def _collate(pixels: Sequence[NDArray[np.uint8]], targets: list[Target], indices: tuple[int, ...]) -> Batch:
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)  # NCHW in name, NHWC in memory: channels-last
    return Batch(images=images, targets=targets, indices=indices)


T = TypeVar("T")
P = TypeVar("P")


def _ahead(prepare: Callable[[P], T], parts: Sequence[P], threads: int) -> Iterator[T]:
    """``prepare`` of each part in order, up to ``threads + 1`` parts ahead of the consumer; 0: when asked for."""
    if threads == 0:
        yield from map(prepare, parts)
        return
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="batches") as pool:
        waiting: deque[Future[T]] = deque()
        rest = iter(parts)
        try:
            for part in rest:
                waiting.append(pool.submit(prepare, part))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
