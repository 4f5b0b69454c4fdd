"""What is done to a training image, beside albumentations as the reference."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.images import rgb
from vqc.config import Augmentation, TrainConfig
from vqc.data.transforms import Augmenter

WIDTH, HEIGHT = 96, 64
IMAGE = rgb(5, (WIDTH, HEIGHT))
RAMP = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
BOXES = np.array([[3, 5, 40, 20], [0, 0, WIDTH, HEIGHT], [90.5, 60.25, 96, 64]], np.float32)
NOTHING = Augmentation(horizontal_flip=0, vertical_flip=0, brightness=0, contrast=0)
HORIZONTAL = NOTHING.model_copy(update={"horizontal_flip": 1.0})
VERTICAL = NOTHING.model_copy(update={"vertical_flip": 1.0})
TURNED = NOTHING.model_copy(update={"quarter_turn": 1.0})
SCALED = NOTHING.model_copy(update={"scale_jitter": 1.0})
BOTH = HORIZONTAL.model_copy(update={"vertical_flip": 1.0})
Augmented = tuple[NDArray[np.uint8], NDArray[np.float32]]


def augmented(
    settings: Augmentation, *, seed: int = 0, image: NDArray[np.uint8] = IMAGE, boxes: NDArray[np.float32] = BOXES
) -> Augmented:
    out = np.empty_like(image)
    moved = Augmenter(settings)(image, boxes, seed=seed, out=out)
    return out, moved


def same(one: Augmented, other: Augmented) -> bool:
    return np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def by_albumentations(
    settings: Augmentation, seed: int, image: NDArray[np.uint8], boxes: NDArray[np.float32]
) -> Augmented:
    """The same settings, handled by albumentations as a whole."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # read at import: it would ask the network for a newer release
    import albumentations as A

    compose = A.Compose(
        [A.HorizontalFlip(p=settings.horizontal_flip), A.VerticalFlip(p=settings.vertical_flip)],
        bbox_params=A.BboxParams(format="pascal_voc", label_fields=["labels"]),
        seed=seed,
    )
    found = compose(image=image, bboxes=boxes, labels=np.arange(len(boxes)))
    return found["image"], np.asarray(found["bboxes"], np.float32)


def test_strength_0_changes_nothing() -> None:
    assert same(augmented(NOTHING), (IMAGE, BOXES))


@pytest.mark.parametrize(
    ("settings", "pixels", "boxes"),
    [
        (HORIZONTAL, IMAGE[:, ::-1], [[WIDTH - 40, 5, WIDTH - 3, 20], [0, 0, WIDTH, HEIGHT], [0, 60.25, 5.5, 64]]),
        (VERTICAL, IMAGE[::-1], [[3, HEIGHT - 20, 40, HEIGHT - 5], [0, 0, WIDTH, HEIGHT], [90.5, 0, 96, 3.75]]),
    ],
    ids=["horizontal", "vertical"],
)
def test_a_flip_takes_the_boxes_along(
    settings: Augmentation, pixels: NDArray[np.uint8], boxes: list[list[float]]
) -> None:
    assert same(augmented(settings), (pixels, np.array(boxes, np.float32)))


# Boxes as annotated: with corners on a grid of 1/4 px, so that a flip is exact in float32 and can be compared.
INSIDE = st.builds(
    lambda x, y, w, h: (x / 4, y / 4, min(x / 4 + w / 4, WIDTH), min(y / 4 + h / 4, HEIGHT)),
    st.integers(0, 4 * WIDTH - 4),
    st.integers(0, 4 * HEIGHT - 4),
    st.integers(1, 4 * WIDTH),
    st.integers(1, 4 * HEIGHT),
)


@pytest.mark.parametrize("settings", [NOTHING, HORIZONTAL, VERTICAL, BOTH])
@given(st.lists(INSIDE, min_size=1, max_size=6), st.integers(0, 100))
def test_flips_are_those_of_albumentations(settings: Augmentation, rows: list[tuple[float, ...]], seed: int) -> None:
    boxes = np.array(rows, np.float32)
    image, moved = augmented(settings, seed=seed, boxes=boxes)
    expected_image, expected_boxes = by_albumentations(settings, seed, IMAGE, boxes)
    assert np.array_equal(image, expected_image)
    np.testing.assert_allclose(moved, expected_boxes, atol=1e-4)  # it goes by way of shares of the size in float32


@given(st.floats(0, 1), st.floats(0.01, 1), st.integers(0, 2**32 - 1))
def test_light_is_one_line_from_old_to_new_values(brightness: float, contrast: float, seed: int) -> None:
    """A value v becomes a * v + b, within the stated changes of a and b, and stays in 0..255."""
    settings = NOTHING.model_copy(update={"brightness": brightness, "contrast": contrast})
    found = augmented(settings, seed=seed, image=RAMP)[0][:, :, 0].ravel().astype(float)
    free = np.flatnonzero((found > 0) & (found < 255))
    assert (np.diff(found) >= 0).all()
    if len(free) > 50:
        slope, offset = np.polyfit(free, found[free], 1)
        assert abs(slope - 1) <= contrast + 0.02
        assert abs(offset) <= 255 * brightness + 2
        np.testing.assert_allclose(found[free], slope * free + offset, atol=1.1)


@given(st.lists(INSIDE, max_size=6), st.integers(0, 2**32 - 1))
def test_boxes_keep_their_size_and_stay_inside(rows: list[tuple[float, ...]], seed: int) -> None:
    boxes = np.array(rows, np.float32).reshape(-1, 4)
    before = boxes.copy()
    _, moved = augmented(Augmentation(), seed=seed, boxes=boxes)
    assert np.array_equal(boxes, before)
    assert moved.dtype == np.float32
    assert np.array_equal(moved[:, 2:] - moved[:, :2], boxes[:, 2:] - boxes[:, :2])
    assert (moved >= 0).all()
    assert (moved <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()


@given(st.integers(0, 2**32 - 1))
def test_pixels_go_where_the_boxes_go(seed: int) -> None:
    """One white rectangle on black, lit and flipped: what is brightest lies in its box."""
    image = np.zeros_like(IMAGE)
    image[5:20, 3:40] = 255
    pixels, moved = augmented(Augmentation(), seed=seed, image=image, boxes=BOXES[:1])
    rows, columns = np.nonzero(pixels[:, :, 0] > int(pixels.min()))
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == moved[0].tolist()


@pytest.mark.parametrize("settings", [NOTHING, HORIZONTAL, VERTICAL, BOTH, SCALED, Augmentation()])
def test_the_image_itself_is_not_altered(settings: Augmentation) -> None:
    image = IMAGE.copy()
    image.flags.writeable = False  # as mapped from the cache
    augmented(settings, image=image)
    assert np.array_equal(image, IMAGE)


def test_equal_seeds_give_equal_results_whatever_came_before() -> None:
    first = augmented(Augmentation(), seed=9)
    for seed in range(5):
        augmented(Augmentation(), seed=seed)
    assert same(augmented(Augmentation(), seed=9), first)


def test_the_global_streams_have_no_part_in_it() -> None:
    np.random.seed(1)  # noqa: NPY002
    first = augmented(Augmentation(), seed=3)
    np.random.seed(2)  # noqa: NPY002
    assert same(first, augmented(Augmentation(), seed=3))


def test_seeds_differ() -> None:
    assert len({augmented(Augmentation(), seed=seed)[0].tobytes() for seed in range(20)}) > 10


def test_threads_do_not_disturb_each_other() -> None:
    shared = Augmenter(Augmentation())

    def once(seed: int) -> Augmented:
        out = np.empty_like(IMAGE)
        return out, shared(IMAGE, BOXES, seed=seed, out=out)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(once, range(12)))
    assert all(same(one, augmented(Augmentation(), seed=seed)) for seed, one in enumerate(found))


@pytest.mark.parametrize(("name", "axis"), [("horizontal_flip", 1), ("vertical_flip", 0)])
def test_a_flip_has_the_stated_probability(name: str, axis: int) -> None:
    settings = NOTHING.model_copy(update={name: 0.25})
    turned = [np.array_equal(augmented(settings, seed=seed)[0], np.flip(IMAGE, axis)) for seed in range(400)]
    assert 70 <= sum(turned) <= 130  # 100 expected, standard deviation 8.7


@pytest.mark.parametrize(("name", "reach"), [("brightness", 0.2 * 255), ("contrast", 0.2 * 100)])
def test_light_changes_within_the_stated_share(name: str, reach: float) -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    settings = NOTHING.model_copy(update={name: 0.2})
    means = [augmented(settings, seed=seed, image=grey)[0].mean() for seed in range(40)]
    assert 100 - reach - 1 <= min(means) < 100 - reach / 2
    assert 100 + reach / 2 < max(means) <= 100 + reach + 1


@pytest.mark.parametrize("settings", [NOTHING, SCALED, Augmentation()])
def test_an_image_without_boxes(settings: Augmentation) -> None:
    _, boxes = augmented(settings, boxes=BOXES[:0])
    assert boxes.shape == (0, 4)
    assert boxes.dtype == np.float32


def test_a_quarter_turn_is_clockwise_and_takes_the_boxes_along() -> None:
    square = rgb(6, (64, 64))
    pixels, moved = augmented(TURNED, image=square, boxes=np.array([[3, 5, 40, 20]], np.float32))
    assert np.array_equal(pixels, np.rot90(square, -1))
    assert moved.tolist() == [[44, 3, 59, 40]]


def test_flips_and_turns_reach_all_eight_orientations() -> None:
    square = rgb(6, (64, 64))
    settings = BOTH.model_copy(update={"horizontal_flip": 0.5, "vertical_flip": 0.5, "quarter_turn": 0.5})
    assert len({augmented(settings, seed=seed, image=square)[0].tobytes() for seed in range(100)}) == 8


def test_a_rectangle_cannot_be_turned() -> None:
    with pytest.raises(ValueError, match="quarter_turn: expected 0, because image_size 64 x 96 is not square"):
        TrainConfig(image_size=(64, 96), augmentation=TURNED)


@given(st.lists(INSIDE, max_size=6), st.floats(0.01, 3), st.integers(0, 2**32 - 1))
def test_no_box_is_cut_at_any_scale(rows: list[tuple[float, ...]], jitter: float, seed: int) -> None:
    boxes = np.array(rows, np.float32).reshape(-1, 4)
    _, moved = augmented(NOTHING.model_copy(update={"scale_jitter": jitter}), seed=seed, boxes=boxes)
    assert (moved.dtype, moved.shape) == (np.float32, boxes.shape)
    assert (moved >= 0).all()
    assert (moved <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    sides = (moved[:, 2:] - moved[:, :2]) / (boxes[:, 2:] - boxes[:, :2])
    np.testing.assert_allclose(sides, np.broadcast_to(sides[:1, :1], sides.shape), rtol=2e-3)
    assert (sides >= 0.999 / (1 + jitter)).all()
    assert (sides <= 1.001 * (1 + jitter)).all()


@given(st.integers(0, 2**32 - 1))
def test_pixels_are_scaled_as_the_boxes_are(seed: int) -> None:
    image = np.zeros_like(IMAGE)
    image[15:40, 13:44] = 255
    pixels, moved = augmented(SCALED, seed=seed, image=image, boxes=np.array([[13, 15, 44, 40]], np.float32))
    rows, columns = np.nonzero(pixels[:, :, 0] > 127)  # padding is darker
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(found, moved[0], atol=0.6)


def test_scales_reach_both_ends() -> None:
    boxes = np.array([[40, 30, 48, 36]], np.float32)
    wide = [augmented(SCALED, seed=seed, boxes=boxes)[1] for seed in range(100)]
    factors = [float(box[0, 2] - box[0, 0]) / 8 for box in wide]
    assert min(factors) < 0.55
    assert max(factors) > 1.8
