"""Maps that show which pixels a detection depends on, and figures that say how far to trust them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.models import SIZE, StubBackend
from vqc.inference.detections import Detections
from vqc.inference.saliency import _masks, drise, faithfulness, similarity

Pixels = NDArray[np.uint8]
SPOT = (slice(40, 56), slice(60, 80))  # rows and columns in which the stand-in detector looks
TARGET = Detections(boxes=np.array([[55, 35, 85, 60]], np.float32), scores=np.ones(1, np.float32), labels=np.array([2]))
NOTHING = Detections.none()


def spotted() -> Pixels:
    """A dark part with one bright spot."""
    image = np.full((*SIZE, 3), 40, np.uint8)
    image[SPOT] = 240
    return image


class SpotBackend:
    """A stand-in detector whose score is how much of the spot's brightness is there; it sees nothing else."""

    device = "CPU, 1 thread"

    def __call__(self, images: Pixels) -> list[Detections]:
        shares = np.clip((images[:, SPOT[0], SPOT[1]].mean(axis=(1, 2, 3)) - 60) / 180, 0, 1)
        return [
            Detections(boxes=TARGET.boxes, scores=np.array([share], np.float32), labels=TARGET.labels)
            for share in shares
        ]


find_spot = SpotBackend()


def heat_at(rows: slice, columns: slice) -> NDArray[np.float32]:
    heat = np.zeros(SIZE, np.float32)
    heat[rows, columns] = 1
    return heat


@pytest.mark.parametrize(
    ("box", "score", "label", "expected"),
    [
        ((55, 35, 85, 60), 0.8, 2, 0.8),
        ((55, 35, 70, 60), 0.8, 2, 0.4),
        ((55, 35, 85, 60), 0.8, 1, 0.0),
        ((0, 0, 10, 10), 0.8, 2, 0.0),
        ((55, 35, 55, 35), 0.8, 2, 0.0),
    ],
)
def test_similarity_is_overlap_times_score_of_the_same_class(
    box: tuple[float, ...], score: float, label: int, expected: float
) -> None:
    one = Detections(boxes=np.array([box], np.float32), scores=np.array([score], np.float32), labels=np.array([label]))
    assert similarity(TARGET, one) == pytest.approx([expected])
    assert similarity(TARGET, NOTHING) == 0


@settings(max_examples=25)
@given(height=st.integers(32, 200), width=st.integers(32, 200), seed=st.integers(0, 2**32 - 1))
def test_masks_cover_any_size_and_keep_half(height: int, width: int, seed: int) -> None:
    masks = _masks(np.random.default_rng(seed), 8, height=height, width=width)
    assert masks.shape == (8, height, width)
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert 0.3 < masks.mean() < 0.7


def test_drise_finds_where_the_detector_looks() -> None:
    (heat,) = drise(find_spot, spotted(), TARGET, masks=300, seed=0)
    assert heat is not None
    assert heat.max() == 1
    inside = heat[SPOT].mean()
    assert inside > 0.4
    assert inside > 4 * heat.mean()
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 40 <= row < 56
    assert 60 <= column < 80


def test_drise_is_a_function_of_its_seed_and_not_of_the_batch() -> None:
    one, two, other = (
        drise(find_spot, spotted(), TARGET, masks=40, seed=seed, batch=batch)[0]
        for seed, batch in ((3, 16), (3, 7), (4, 16))
    )
    assert one is not None
    assert two is not None
    assert other is not None
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert np.abs(one - other).max() > 0.1


def test_a_detection_that_no_mask_leaves_has_no_map() -> None:
    assert drise(StubBackend(), spotted(), TARGET, masks=10, seed=0) == [None]


def test_a_right_map_is_trusted_and_a_wrong_one_is_not() -> None:
    right = faithfulness(find_spot, spotted(), TARGET, heat_at(*SPOT), inner=SIZE, seed=0)
    wrong = faithfulness(find_spot, spotted(), TARGET, heat_at(slice(0, 16), slice(0, 20)), inner=SIZE, seed=0)
    assert right is not None
    assert wrong is not None
    assert right.trusted
    assert not wrong.trusted
    assert right.deletion < 0.3 < wrong.deletion
    assert right.insertion > 0.9 > wrong.insertion
    assert right.blank < 0.1


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_faithfulness_is_a_share(seed: int) -> None:
    heat = np.random.default_rng(seed).random(SIZE, dtype=np.float32)
    found = faithfulness(find_spot, spotted(), TARGET, heat, inner=SIZE, seed=seed)
    assert found is not None
    assert 0 <= found.deletion <= 1
    assert 0 <= found.insertion <= 1
    assert 0 <= found.beaten <= found.controls


def test_what_is_not_found_cannot_be_told() -> None:
    assert faithfulness(StubBackend(), spotted(), TARGET, heat_at(*SPOT), inner=SIZE, seed=0) is None


def test_a_map_that_says_nothing_is_trusted_once_in_20() -> None:
    """Blobs in random places; against four displaced copies one in five would pass."""
    rng = np.random.default_rng(0)
    image = spotted()
    trusted = 0
    for seed in range(40):
        heat = np.zeros(SIZE, np.float32)
        heat[:24, :32] = 0.5 + 0.5 * rng.random((24, 32), dtype=np.float32)
        heat = np.roll(heat, (int(rng.integers(SIZE[0])), int(rng.integers(SIZE[1]))), axis=(0, 1))
        found = faithfulness(find_spot, image, TARGET, heat, inner=SIZE, seed=seed)
        assert found is not None
        assert found.controls == 19
        trusted += found.trusted
    assert trusted / 40 <= 0.10  # 0.05 is expected


class Watching(SpotBackend):
    def __init__(self) -> None:
        self.batches: list[Pixels] = []

    def __call__(self, images: Pixels) -> list[Detections]:
        self.batches.append(images)
        return super().__call__(images)


def test_displaced_copies_stay_on_the_photograph() -> None:
    """Heat in the padding would be beaten by any map, and a map of no use be trusted."""
    image = np.random.default_rng(0).integers(100, 256, (*SIZE, 3), dtype=np.uint8)
    backend = Watching()
    assert faithfulness(backend, image, TARGET, heat_at(slice(0, 32), slice(0, 48)), inner=(64, 96), seed=0) is not None
    assert sum(map(len, backend.batches)) == 2 + 20 * 30
    for batch in backend.batches[1::2]:  # its first image lacks the hottest sixteenth
        changed = (batch[0] != image).any(axis=2)
        assert changed[:64, :96].sum() > 700
        assert changed.sum() == changed[:64, :96].sum()
