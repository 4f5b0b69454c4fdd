"""Photographs that show the same part: in two splits they make scores too good, in one they count a part twice.

There are three signs, from the surest to the weakest: equal bytes, an equal ``group`` in the annotations, and pictures
that look the same. The last are found in three steps. Thumbnails without their light, so with edges and texture alone
(``_detail``), are compared with all others, each in the ``VIEWS`` of a camera that has moved. The nearest are moved,
turned and scaled onto each other (``cv2.findTransformECC``: Evangelidis and Psarakis, PAMI 30, 2008). Those that then
correlate are registered once more, at ``SIDE_PX``, and what differs is looked at place by place (``_difference``): two
parts of one design before one camera differ at a defect, or in their texture; two photographs of one part differ only
by noise, light and what the registration leaves at edges. Boxes are not asked: an annotation may be missing.

The thresholds were found with ``tests/benchmarks/twins.py``, which has the figures.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqc.data.annotations import ImageEntry
from vqc.data.findings import Report, printable
from vqc.data.image_io import THUMBNAIL_PX, grey_square, picture_bytes
from vqc.errors import DataError

LIGHT_PX = 4.0  # Gaussian sigma in thumbnail pixels: what is wider counts as light
LEAST_CONTRAST = 1.0  # grey levels of detail, root mean square; below it there is only noise to compare
CROP, OFF_CENTRE = 0.9, 0.033
# What another photograph may show of a part: scale, turn in degrees, and offsets down and right as shares of the side.
VIEWS = ((1.0, 0, 0.0, 0.0), (1.0, 2, 0.0, 0.0), (1.0, -2, 0.0, 0.0), (CROP, 0, 0.0, 0.0)) + tuple(
    (CROP, 0, down, right) for down in (-OFF_CENTRE, OFF_CENTRE) for right in (-OFF_CENTRE, OFF_CENTRE)
)
COARSE_PX = 16
COARSE_SIMILARITY = 0.5
NEIGHBOURS = 5  # that are compared closely, for each photograph and split
THUMBNAILS_SIMILARITY = 0.65  # once they are registered
SIMILARITY = 0.85  # of the registered photographs
MOST_DISTORTION = 0.2  # how far each term of the registration's matrix may be from no turn and no scaling
LEAST_OVERLAP = 0.65  # of the square, without its margins
SIDE_PX = 256  # of the squares that are compared place by place
MARGIN = 0.04  # of the side, not compared: a turn by 2 degrees leaves corners that no camera saw
NOISE_PX = 1.5  # Gaussian sigma
EDGE = 0.5  # pixels by which the registration may be off
NOISE = 4.5  # median deviations that are noise: three standard deviations of a Gaussian
PLACE_PX = 5  # side of the places that are compared
MOST_DIFFERENCE = 0.2  # at any place, of the photograph's contrast
LISTED = 3  # pairs that a finding names
BLOCK = 1024  # rows of the similarity matrix at a time: 80 MB for 20,000 photographs

SQUARES_KEPT = 1000  # 256 kB each

Detail = NDArray[np.float32]
Matrix = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Photo:
    """One image of a split, as far as it is compared with others.

    Attributes:
        rotate: whether EXIF's orientation is applied when the file is decoded.
        thumbnail: uint8 [THUMBNAIL_PX, THUMBNAIL_PX], grey, the whole image as annotated, squeezed into a square.
    """

    split: str
    image: ImageEntry
    path: Path
    sha256: str
    rotate: bool
    thumbnail: NDArray[np.uint8]


def check_equal_files(photos: Sequence[Photo], report: Report) -> None:
    """The same bytes twice: an error across splits, a warning within one."""
    known: dict[str, Photo] = {}
    for photo in photos:
        first = known.setdefault(photo.sha256, photo)
        same = f"the same picture as {printable(first.image.file_name)}"
        if first.split != photo.split:
            message = f"{same} in {first.split}; scores must be of unseen parts"
            pictures = ((first.path, photo.path),)
            report.error("same picture in two splits", photo.image.where, message, pictures=pictures)
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
    """Pairs of ``look_alikes``: an error for each two splits that share any, a warning for each split."""
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
        count = f"{len({id(other) for _, other, _ in pairs})} of {sum(photo.split == second for photo in photos)}"
        where, pictures = f"{second}/annotations.json", tuple((one.path, other.path) for one, other, _ in pairs)
        if first == second:
            message = (
                f"{count} images look like another one, such as {such}; if they show one part, give them one 'group'"
            )
            report.warning("similar pictures", where, message, pictures=pictures)
        else:
            message = (
                f"{count} images look like an image in {first}, such as {such}; scores of known parts are too good: "
                "keep all images of a part in one split, or give different parts a different 'group'"
            )
            report.error("same part in two splits", where, message, pictures=pictures)


def look_alikes(photos: Sequence[Photo]) -> list[tuple[Photo, Photo, float]]:
    """Pairs of pictures that look the same, in the order of ``photos``, and their correlation: the highest first.

    Left out are equal files, which ``check_equal_files`` reports, and pairs whose ``group`` is known for both.
    """
    details = [_detail(photo.thumbnail) for photo in photos]
    square = lru_cache(maxsize=SQUARES_KEPT)(lambda number: _square(photos[number]))

    def compared(pair: tuple[int, int, Matrix]) -> tuple[Photo, Photo, float] | None:
        one, other, matrix = pair
        first, second = photos[one], photos[other]
        if first.sha256 == second.sha256 or (first.image.group is not None and second.image.group is not None):
            return None
        similarity, matrix = _register(details[one], details[other], matrix, smooth_px=3)
        if similarity < THUMBNAILS_SIMILARITY:
            return None
        similarity, matrix = _register(square(one), square(other), _enlarged(matrix), smooth_px=5)
        alike = similarity >= SIMILARITY and _difference(square(one), square(other), matrix) <= MOST_DIFFERENCE
        return (first, second, similarity) if alike else None

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # OpenCV lets go of Python's lock
        pairs = [pair for pair in pool.map(compared, _candidates(photos, details)) if pair is not None]
    return sorted(pairs, key=lambda pair: -pair[2])


def _square(photo: Photo) -> NDArray[np.float32]:
    """The photograph as annotated, grey, squeezed into [SIDE_PX, SIDE_PX]; all 0 where it cannot be read any more."""
    try:
        return grey_square(picture_bytes(photo.path), SIDE_PX, rotate=photo.rotate).astype(np.float32)
    except DataError:
        return np.zeros((SIDE_PX, SIDE_PX), dtype=np.float32)


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


def _view_matrix(view: tuple[float, float, float, float]) -> Matrix:
    """The affine [2, 3] from a thumbnail's pixels to those of a view of it."""
    import cv2

    scale, turn_deg, down, right = view
    middle = (THUMBNAIL_PX - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), turn_deg, 1 / scale)
    moved = matrix[:, 2] + np.array([right, down]) * THUMBNAIL_PX / scale
    return np.column_stack([matrix[:, :2], moved]).astype(np.float32)


def _candidates(photos: Sequence[Photo], details: Sequence[Detail]) -> list[tuple[int, int, Matrix]]:
    """Positions of pairs that correlate on a coarse grid, and roughly the affine [2, 3] from first to second.

    They are, for each photograph and split, the nearest ones to any of its views.
    """
    if not photos:
        return []
    matrices = [_view_matrix(view) for view in VIEWS]
    views = np.array([[_coarse(detail, matrix) for detail in details] for matrix in matrices])
    splits = np.array([photo.split for photo in photos])
    columns = [np.flatnonzero(splits == split) for split in dict.fromkeys(splits.tolist())]
    pairs: dict[tuple[int, int], tuple[float, Matrix]] = {}
    for start in range(0, len(photos), BLOCK):
        similarity = views[0, start : start + BLOCK] @ views[0].T
        for view in views[1:]:
            np.maximum(similarity, view[start : start + BLOCK] @ views[0].T, out=similarity)
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -1.0
        for own in columns:
            part = similarity[:, own]
            nearest = np.argpartition(-part, min(NEIGHBOURS, len(own)) - 1, axis=1)[:, :NEIGHBOURS]
            values = np.take_along_axis(part, nearest, axis=1)
            for row, place in zip(*np.nonzero(values >= COARSE_SIMILARITY), strict=True):
                one, other, value = int(start + row), int(own[nearest[row, place]]), float(values[row, place])
                matrix = matrices[int(np.argmax(views[:, one] @ views[0, other]))]
                key = (min(one, other), max(one, other))
                if value > pairs.get(key, (-1.0, matrix))[0]:
                    pairs[key] = value, matrix if one < other else _inverse(matrix)
    return [(*key, matrix) for key, (_, matrix) in sorted(pairs.items())]


def _coarse(detail: Detail, matrix: Matrix) -> NDArray[np.float32]:
    """A view of a detail on the coarse grid: [COARSE_PX^2], mean 0 and norm 1."""
    import cv2

    moved = cv2.warpAffine(detail, matrix, detail.shape, borderMode=cv2.BORDER_REFLECT)
    return _normed(cv2.resize(moved, (COARSE_PX, COARSE_PX), interpolation=cv2.INTER_AREA), least=0.0).ravel()


def _inverse(matrix: Matrix) -> Matrix:
    import cv2

    return np.asarray(cv2.invertAffineTransform(matrix), dtype=np.float32)


def _enlarged(matrix: Matrix) -> Matrix:
    """The same affine between squares of ``SIDE_PX`` instead of thumbnails; pixels are counted at their centres."""
    factor = SIDE_PX / THUMBNAIL_PX
    moved = factor * matrix[:, 2] + (factor - 1) / 2 * (1 - matrix[:, :2].sum(axis=1))
    return np.column_stack([matrix[:, :2], moved]).astype(np.float32)


def _register(
    first: NDArray[np.float32], second: NDArray[np.float32], start: Matrix, *, smooth_px: int
) -> tuple[float, Matrix]:
    """The correlation of two squares once the second lies on the first, and the affine [2, 3] from first to second."""
    import cv2

    everywhere = np.full(first.shape, 255, dtype=np.uint8)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)
    with suppress(cv2.error):  # it found no way to make them more similar
        similarity, matrix = cv2.findTransformECC(
            first, second, start.copy(), cv2.MOTION_AFFINE, stop, everywhere, smooth_px
        )
        if np.abs(matrix[:, :2] - np.eye(2)).max() <= MOST_DISTORTION:
            return float(similarity), np.asarray(matrix, dtype=np.float32)
    return 0.0, start


def _difference(first: NDArray[np.float32], second: NDArray[np.float32], matrix: Matrix) -> float:
    """How much two registered squares differ where they differ most, as a share of their contrast; 0 to about 10.

    Not counted are another exposure, slow changes of light, noise, and what half a pixel of shift makes at edges. It is
    infinite where too little of the two overlaps, or nothing is to be seen there.
    """
    import cv2

    size, margin = first.shape, round(MARGIN * SIDE_PX)
    inside = np.zeros(size, dtype=np.uint8)
    inside[margin:-margin, margin:-margin] = 1
    back = cv2.WARP_INVERSE_MAP
    both = inside * cv2.warpAffine(inside, matrix, size, flags=cv2.INTER_NEAREST | back)
    seen = both > 0
    moved = cv2.GaussianBlur(cv2.warpAffine(second, matrix, size, flags=cv2.INTER_LINEAR | back), (0, 0), NOISE_PX)
    fixed = cv2.GaussianBlur(first, (0, 0), NOISE_PX)
    contrast = min(float(fixed[seen].std()), float(moved[seen].std())) if seen.mean() > LEAST_OVERLAP else 0.0
    if contrast < LEAST_CONTRAST:
        return math.inf
    weight = both.astype(np.float32)
    one, other = (fixed - fixed[seen].mean()) * weight, (moved - moved[seen].mean()) * weight
    residual = one - (one * other).sum() / (other * other).sum() * other
    residual -= _slow(residual) / np.maximum(_slow(weight), 1e-3)
    residual = np.abs(residual)
    step = np.ones((3, 3), dtype=np.uint8)
    edge = np.maximum(cv2.dilate(fixed, step) - fixed, fixed - cv2.erode(fixed, step))
    excess = np.maximum(residual - EDGE * edge - NOISE * np.median(residual[seen]), 0.0) * weight
    return float(cv2.boxFilter(excess, -1, (PLACE_PX, PLACE_PX)).max()) / contrast


def _slow(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A square without what is narrower than an eighth of its side."""
    import cv2

    small = cv2.resize(values, (THUMBNAIL_PX // 2, THUMBNAIL_PX // 2), interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(small, (0, 0), LIGHT_PX)
    return np.asarray(cv2.resize(smooth, values.shape, interpolation=cv2.INTER_LINEAR), dtype=np.float32)
