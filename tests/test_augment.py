"""What is done to a training image, through albumentations itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.images import rgb
from vqc.augment import Augmenter
from vqc.config import Augmentation

WIDTH, HEIGHT = 96, 64
IMAGE = rgb(5, (WIDTH, HEIGHT))
BOXES = np.array([[3, 5, 40, 20], [0, 0, WIDTH, HEIGHT], [90.5, 60.25, 96, 64]], np.float32)
LABELS = np.array([2, 1, 2])
NOTHING = Augmentation(horizontal_flip=0, vertical_flip=0, brightness=0, contrast=0)
Augmented = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]


def augmented(settings: Augmentation, seed: int = 0, boxes: NDArray[np.float32] = BOXES) -> Augmented:
    return Augmenter(settings)(IMAGE, boxes, LABELS[: len(boxes)], seed=seed)


def same(one: Augmented, other: Augmented) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_strength_0_changes_nothing() -> None:
    assert same(augmented(NOTHING), (IMAGE, BOXES, LABELS))


@pytest.mark.parametrize(
    ("settings", "pixels", "boxes"),
    [
        (
            NOTHING.model_copy(update={"horizontal_flip": 1.0}),
            IMAGE[:, ::-1],
            [[WIDTH - 40, 5, WIDTH - 3, 20], [0, 0, WIDTH, HEIGHT], [0, 60.25, 5.5, 64]],
        ),
        (
            NOTHING.model_copy(update={"vertical_flip": 1.0}),
            IMAGE[::-1],
            [[3, HEIGHT - 20, 40, HEIGHT - 5], [0, 0, WIDTH, HEIGHT], [90.5, 0, 96, 3.75]],
        ),
    ],
    ids=["horizontal", "vertical"],
)
def test_a_flip_takes_the_boxes_along(
    settings: Augmentation, pixels: NDArray[np.uint8], boxes: list[list[float]]
) -> None:
    image, moved, labels = augmented(settings)
    assert np.array_equal(image, pixels)
    np.testing.assert_allclose(moved, boxes, atol=1e-4)  # albumentations goes by way of shares of the size in float32
    assert labels.tolist() == LABELS.tolist()


def test_equal_seeds_give_equal_results_whatever_came_before() -> None:
    used = Augmenter(Augmentation())
    for seed in range(5):
        used(IMAGE, BOXES, LABELS, seed=seed)
    assert same(used(IMAGE, BOXES, LABELS, seed=9), augmented(Augmentation(), seed=9))


def test_the_global_streams_have_no_part_in_it() -> None:
    np.random.seed(1)  # noqa: NPY002
    first = augmented(Augmentation(), seed=3)
    np.random.seed(2)  # noqa: NPY002
    assert same(first, augmented(Augmentation(), seed=3))


def test_seeds_differ() -> None:
    assert len({augmented(Augmentation(), seed=seed)[0].tobytes() for seed in range(20)}) > 10


def test_each_thread_with_its_own_gives_the_same() -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: augmented(Augmentation(), seed=seed), range(12)))
    assert all(same(one, augmented(Augmentation(), seed=seed)) for seed, one in enumerate(found))


def test_light_changes_within_the_stated_share() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    light = Augmenter(NOTHING.model_copy(update={"brightness": 0.2}))
    means = [light(grey, BOXES[:0], LABELS[:0], seed=seed)[0].mean() for seed in range(40)]
    assert min(means) >= 100 - 0.2 * 255 - 1
    assert max(means) <= 100 + 0.2 * 255 + 1
    assert max(means) - min(means) > 20


@pytest.mark.parametrize("settings", [NOTHING, Augmentation()])
def test_an_image_without_boxes(settings: Augmentation) -> None:
    image, boxes, labels = augmented(settings, boxes=BOXES[:0])
    assert (image.shape, image.dtype) == (IMAGE.shape, np.uint8)
    assert (boxes.shape, boxes.dtype) == ((0, 4), np.float32)
    assert (labels.shape, labels.dtype) == ((0,), np.int64)


INSIDE = st.builds(
    lambda x, y, w, h: (x * (WIDTH - 1), y * (HEIGHT - 1), x * (WIDTH - 1) + w * 0.9 + 0.1, y * (HEIGHT - 1) + h),
    *[st.floats(0, 1)] * 3,
    st.floats(0.1, 1),
)


@given(st.lists(INSIDE, min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_small_boxes_are_kept_whole_and_inside(rows: list[tuple[float, ...]], seed: int) -> None:
    boxes = np.array(rows, np.float32)
    labels = np.arange(1, len(rows) + 1)
    _, moved, kept = Augmenter(Augmentation())(IMAGE, boxes, labels, seed=seed)
    assert kept.tolist() == labels.tolist()
    assert (moved.dtype, kept.dtype) == (np.float32, np.int64)
    np.testing.assert_allclose(moved[:, 2:] - moved[:, :2], boxes[:, 2:] - boxes[:, :2], atol=1e-4)
    assert (moved >= 0).all()
    assert (moved <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
