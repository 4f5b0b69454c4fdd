"""Photographs that show the same part: in two splits they make scores too good, in one they count a part twice.

There are three signs, from the surest to the weakest: equal bytes, an equal ``group`` in the annotations, and pictures
that look the same. The last compares grey thumbnails without their light, so edges and texture are left (``_detail``).
Pairs that correlate on a coarse grid are moved, turned and scaled onto each other (``cv2.findTransformECC``:
Evangelidis and Psarakis, PAMI 30, 2008); their similarity is the correlation of what overlaps. Different parts of one
design look the same too, but their defects differ: the boxes of both pictures must lie in the same places. So a part
with a defect and one without are never a pair.

The thresholds were found on DeepPCB (1,500), the generated sample (240) and copies of 240 of them with shifts to 3 % of
the side, turns to 2 degrees, scales to 2 %, other light, noise and JPEG quality 80. Other parts of the sample reach a
similarity of 0.80; 360 pairs of DeepPCB, where designs repeat, are above 0.85, and the boxes rule out all of them. Of
the copies 96 to 100 % are found, of copies with twice those changes 51 to 71 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqc.data.annotations import ImageEntry
from vqc.data.findings import Report, printable
from vqc.data.image_io import THUMBNAIL_PX

LIGHT_PX = 4.0  # Gaussian sigma in thumbnail pixels: what is wider counts as light
LEAST_CONTRAST = 1.0  # grey levels of detail, root mean square; below it there is only noise to compare
COARSE_PX = 32
COARSE_SIMILARITY = 0.3
MOVED_SIMILARITY = 0.5  # of what is to be registered; the best of all whole shifts
SIMILARITY = 0.85
NEIGHBOURS = 3  # that are compared closely, for each photograph and split
MOST_SHIFT_PX = 6
MOST_DISTORTION = 0.15  # of the registration: how far each term of its matrix may be from no turn and no scaling
PLACE_PX = 1.5  # thumbnail pixels, beside a quarter of its side, by which the centre of one defect's box may differ
SHARED = 0.7  # of the boxes of each picture
LISTED = 3  # pairs that a finding names
BLOCK = 1024  # rows of the similarity matrix at a time: 80 MB for 20,000 photographs

Detail = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Photo:
    """One image of a split, as far as it is compared with others.

    Attributes:
        thumbnail: uint8 [THUMBNAIL_PX, THUMBNAIL_PX], grey, the whole image as annotated, squeezed into a square.
        boxes: [n, 4] xyxy of its defects, as shares 0..1 of the image's width and height.
    """

    split: str
    image: ImageEntry
    sha256: str
    thumbnail: NDArray[np.uint8]
    boxes: NDArray[np.float32]


def check_equal_files(photos: Sequence[Photo], report: Report) -> None:
    """The same bytes twice: an error across splits, a warning within one."""
    known: dict[str, Photo] = {}
    for photo in photos:
        first = known.setdefault(photo.sha256, photo)
        same = f"the same picture as {printable(first.image.file_name)}"
        if first.split != photo.split:
            message = f"{same} in {first.split}; scores must be of unseen parts"
            report.error("same picture in two splits", photo.image.where, message)
        elif first is not photo:
            report.warning("same picture twice", photo.image.where, same)


def check_groups(photos: Sequence[Photo], report: Report) -> None:
    """The same part, by its ``group``, in two splits: a warning for each pair of splits."""
    splits = list(dict.fromkeys(photo.split for photo in photos))
    groups = {split: {photo.image.group for photo in photos if photo.split == split} - {None} for split in splits}
    for first, second in combinations(splits, 2):
        shared = groups[first] & groups[second]
        if shared:
            images = [photo for photo in photos if photo.split == second]
            count = sum(photo.image.group in shared for photo in images)
            names = ", ".join(printable(str(name)) for name in sorted(map(str, shared))[:LISTED])
            message = (
                f"{count} of {len(images)} images show a part that is also in {first}, by their 'group' ({names}); "
                "scores of known parts are too good: keep all images of a part in one split"
            )
            report.warning("same part in two splits", f"{second}/annotations.json", message)


def check_look_alikes(photos: Sequence[Photo], report: Report) -> None:
    """Pictures that look the same: a warning for each split, and for each pair of splits, that has any."""
    found = look_alikes(photos)
    splits = list(dict.fromkeys(photo.split for photo in photos))
    for first, second in [*combinations(splits, 2), *zip(splits, splits, strict=True)]:
        pairs = [pair for pair in found if (pair[0].split, pair[1].split) == (first, second)]
        if not pairs:
            continue
        such = ", ".join(
            f"{printable(other.image.file_name)} and {printable(one.image.file_name)} ({similarity:.2f})"
            for one, other, similarity in pairs[:LISTED]
        )
        count = (
            f"{len({id(other) for _, other, _ in pairs})} of {sum(photo.split == second for photo in photos)} images"
        )
        if first == second:
            kind = "similar pictures"
            message = f"{count} look like another one, such as {such}; if they show one part, give them one 'group'"
        else:
            kind = "similar pictures in two splits"
            message = (
                f"{count} look like an image in {first}, such as {such}; scores of known parts are too good: "
                "keep all images of a part in one split, or give different parts a different 'group'"
            )
        report.warning(kind, f"{second}/annotations.json", message)


def look_alikes(photos: Sequence[Photo]) -> list[tuple[Photo, Photo, float]]:
    """Pairs of pictures that look the same, in the order of ``photos``, and their correlation: the highest first.

    Left out are equal files, which ``check_equal_files`` reports, and pairs whose ``group`` is known for both.
    """
    details = [_detail(photo.thumbnail) for photo in photos]
    found = []
    for one, other in _candidates(details, [photo.split for photo in photos]):
        first, second = photos[one], photos[other]
        if first.sha256 == second.sha256 or (first.image.group is not None and second.image.group is not None):
            continue
        similarity, matrix = _register(details[one], details[other])
        if similarity >= SIMILARITY and _same_places(first.boxes, second.boxes, matrix):
            found.append((first, second, similarity))
    return sorted(found, key=lambda pair: -pair[2])


def _detail(thumbnail: NDArray[np.uint8]) -> Detail:
    """Edges and texture of a thumbnail, of its shape, mean 0 and norm 1; all 0 where there are none."""
    import cv2

    smooth = cv2.GaussianBlur(thumbnail.astype(np.float32), (0, 0), 1.0)
    detail = smooth - cv2.GaussianBlur(smooth, (0, 0), LIGHT_PX)
    return _normed(np.asarray(detail), least=LEAST_CONTRAST * THUMBNAIL_PX)


def _normed(detail: NDArray[Any], *, least: float) -> Detail:
    centred = np.asarray(detail - detail.mean(), dtype=np.float32)
    norm = float(np.linalg.norm(centred))
    return centred / np.float32(norm) if norm > least else np.zeros_like(centred)


def _candidates(details: Sequence[Detail], splits: Sequence[str]) -> list[tuple[int, int]]:
    """Positions of pairs that correlate on a coarse grid: for each photograph its nearest ones in each split."""
    import cv2

    grid = (COARSE_PX, COARSE_PX)
    coarse = [
        _normed(np.asarray(cv2.resize(detail, grid, interpolation=cv2.INTER_AREA)), least=0.0) for detail in details
    ]
    flat = np.array(coarse, dtype=np.float32).reshape(len(coarse), COARSE_PX**2)
    columns = {split: np.flatnonzero(np.array(splits) == split) for split in dict.fromkeys(splits)}
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(flat), BLOCK):
        similarity = flat[start : start + BLOCK] @ flat.T
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -1.0
        for own in columns.values():
            part = similarity[:, own]
            nearest = np.argpartition(-part, min(NEIGHBOURS, len(own)) - 1, axis=1)[:, :NEIGHBOURS]
            near = np.take_along_axis(part, nearest, axis=1) >= COARSE_SIMILARITY
            pairs |= {
                (min(start + row, other), max(start + row, other))
                for row, other in zip(np.nonzero(near)[0].tolist(), own[nearest[near]].tolist(), strict=True)
            }
    return sorted(pairs)


def _register(first: Detail, second: Detail) -> tuple[float, NDArray[np.float32]]:
    """The correlation of two details once the second lies on the first, and the affine [2, 3] from first to second."""
    import cv2

    product = np.fft.rfft2(first).conj() * np.fft.rfft2(second)
    around = np.fft.fftshift(np.fft.irfft2(product, s=first.shape))
    middle = slice(THUMBNAIL_PX // 2 - MOST_SHIFT_PX, THUMBNAIL_PX // 2 + MOST_SHIFT_PX + 1)
    down, right = np.unravel_index(np.argmax(around[middle, middle]), (2 * MOST_SHIFT_PX + 1,) * 2)
    start = np.array([[1, 0, right - MOST_SHIFT_PX], [0, 1, down - MOST_SHIFT_PX]], dtype=np.float32)
    shifted = float(around[middle, middle].max())
    if shifted >= MOVED_SIMILARITY:
        everywhere = np.full(first.shape, 255, dtype=np.uint8)
        stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)
        with suppress(cv2.error):  # it found no way to make them more similar
            moved, matrix = cv2.findTransformECC(first, second, start.copy(), cv2.MOTION_AFFINE, stop, everywhere, 3)
            if moved >= shifted and np.abs(matrix[:, :2] - np.eye(2)).max() <= MOST_DISTORTION:
                return float(moved), np.asarray(matrix, dtype=np.float32)
    return shifted, start


def _same_places(first: NDArray[np.float32], second: NDArray[np.float32], matrix: NDArray[np.float32]) -> bool:
    """Whether most boxes of each picture have their counterpart in the other; two without boxes agree."""
    if len(first) == 0 or len(second) == 0:
        return len(first) == len(second)
    corners, others = first.reshape(-1, 2, 2) * THUMBNAIL_PX, second.reshape(-1, 2, 2) * THUMBNAIL_PX
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    apart = np.abs(moved.mean(axis=1)[:, None] - others.mean(axis=1)[None])
    meet = (apart <= PLACE_PX + (others[:, 1] - others[:, 0])[None] / 4).all(axis=2)
    return bool(min(meet.any(axis=0).mean(), meet.any(axis=1).mean()) >= SHARED)
