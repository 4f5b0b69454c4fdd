"""Images fitted into one size, their cache, and batches that depend on nothing but their seed."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.images import annotation, edit_json, image, rgb, save_picture, save_rotated, write_data
from tests.models import StubBackend, stub_predictor
from vqc.config import Augmentation, TrainConfig, Workers
from vqc.data.dataset import Data, ImageRecord, load_data, read_image, read_to_fit
from vqc.data.image_io import DecodedPicture
from vqc.data.letterbox import PAD_VALUE, fit_image, fit_scale
from vqc.data.loader import Batch, FittedImages, evaluation_batches, training_batches
from vqc.data.tiles.views import TilePlan
from vqc.errors import DataError
from vqc.inference.detections import Detections

SIZE = (64, 96)
PLAIN = Augmentation(horizontal_flip=0, vertical_flip=0, brightness=0, contrast=0)


def config(**values: object) -> TrainConfig:
    return TrainConfig.model_validate({"batch_size": 4, "image_size": SIZE, "seed": 3, **values})


def bits(batches: Iterator[Batch]) -> list[tuple[object, ...]]:
    """Everything in the batches, as something that can be compared."""
    return [
        (
            batch.indices,
            batch.images.numpy().tobytes(),
            *(one[name].numpy().tobytes() for one in batch.targets for name in ("boxes", "labels")),
        )
        for batch in batches
    ]


# Fitting

EDGES = st.integers(1, 300)
CELLS = st.integers(2, 10).map(lambda cells: 32 * cells)


@given(EDGES, EDGES, CELLS, CELLS)
def test_an_image_fits_and_fills_one_direction(width: int, height: int, high: int, wide: int) -> None:
    scale = fit_scale(width, height, (high, wide))
    assert width * scale <= wide * (1 + 1e-12)
    assert height * scale <= high * (1 + 1e-12)
    assert width * scale == pytest.approx(wide) or height * scale == pytest.approx(high)


@given(EDGES, EDGES, CELLS, CELLS)
def test_what_is_not_image_is_padding(width: int, height: int, high: int, wide: int) -> None:
    fitted = fit_image(np.full((height, width, 3), 255, np.uint8), (high, wide))
    scale = fit_scale(width, height, (high, wide))
    inner = fitted[: max(1, round(height * scale)), : max(1, round(width * scale))]
    assert fitted.shape == (high, wide, 3)
    assert (inner == 255).all()
    assert int((fitted == PAD_VALUE).sum()) == fitted.size - inner.size


@given(EDGES, EDGES, CELLS, CELLS, st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_boxes_go_there_and_back(width: int, height: int, high: int, wide: int, shares: list[float]) -> None:
    box = np.array(shares, np.float32) * np.array([width, height] * 2, np.float32)
    scale = np.float32(fit_scale(width, height, (high, wide)))
    np.testing.assert_allclose(box * scale / scale, box, rtol=1e-6, atol=1e-6)  # of a pixel: some are denormal


@pytest.mark.parametrize("size", [(64, 64), (64, 128), (96, 64), (320, 320)])
def test_a_rectangle_lies_where_its_box_says(size: tuple[int, int]) -> None:
    pixels = np.zeros((120, 200, 3), np.uint8)
    pixels[30:90, 50:160] = 255
    scale = fit_scale(200, 120, size)
    rows, columns = np.nonzero(fit_image(pixels, size)[: int(120 * scale), : int(200 * scale), 0] > 127)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    np.testing.assert_allclose(found, np.array([50, 30, 160, 90]) * scale, atol=1)


def test_an_image_of_the_right_size_is_left_alone() -> None:
    pixels = rgb(1, (96, 64))
    assert np.array_equal(fit_image(pixels, (64, 96)), pixels)


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (1, 1), (2, 40_000), (40_000, 2)])
def test_extreme_shapes(shape: tuple[int, int]) -> None:
    fitted = fit_image(np.full((*shape, 3), 7, np.uint8), SIZE)
    assert fitted.shape == (*SIZE, 3)
    assert (fitted[0, 0] == 7).all()


# Cache


@settings(max_examples=20)
@given(CELLS, CELLS, st.sampled_from(["train", "val", "test"]))
def test_cached_and_decoded_are_the_same_bytes(
    tiny: Data, tmp_path_factory: pytest.TempPathFactory, high: int, wide: int, split: str
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    written, mapped, decoded = (
        FittedImages(tiny, split, size=(high, wide), cache=cache) for cache in (folder, folder, None)
    )
    assert len(list(folder.glob("*.npy"))) == 1
    assert len(written) == len(mapped) == len(decoded) == len(tiny.split(split).images)
    assert all(np.array_equal(written[i], decoded[i]) for i in range(len(decoded)))
    assert all(np.array_equal(mapped[i], decoded[i]) for i in range(len(decoded)))


def test_the_cache_needs_no_images_any_more(tmp_path: Path) -> None:
    data = load_data(write_data(tmp_path / "data"))
    before = FittedImages(data, "val", size=SIZE, cache=tmp_path / "cache")[0].copy()
    for record in data.val.images:
        record.path.unlink()
    assert np.array_equal(FittedImages(data, "val", size=SIZE, cache=tmp_path / "cache")[0], before)


def test_a_broken_image_is_named_and_leaves_no_file(tmp_path: Path) -> None:
    data = load_data(write_data(tmp_path / "data"))
    data.val.images[2].path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        FittedImages(data, "val", size=SIZE, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*.npy*")) == []


def test_a_cache_that_cannot_be_had_changes_nothing(tiny: Data, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    without, decoded = (FittedImages(tiny, "val", size=SIZE, cache=cache) for cache in (tmp_path / "file", None))
    assert np.array_equal(without[3], decoded[3])


def test_other_data_another_split_and_another_size_have_files_of_their_own(tiny: Data, tmp_path: Path) -> None:
    other = load_data(write_data(tmp_path / "data", train=4, val=3, test=3))
    for data, split, size in ((tiny, "val", SIZE), (other, "val", SIZE), (tiny, "test", SIZE), (tiny, "val", (64, 64))):
        FittedImages(data, split, size=size, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 4


# Batches


@pytest.mark.parametrize("workers", [1, 3, "auto"])
@pytest.mark.parametrize("cached", [False, True])
def test_workers_and_cache_change_no_bit(tiny: Data, tmp_path: Path, workers: Workers, cached: bool) -> None:
    plain = FittedImages(tiny, "train", size=SIZE, cache=None)
    images = FittedImages(tiny, "train", size=SIZE, cache=tmp_path if cached else None)
    assert bits(training_batches(images, config(num_workers=workers), epoch=2)) == bits(
        training_batches(plain, config(num_workers=0), epoch=2)
    )
    assert bits(evaluation_batches(images, batch_size=2, threads=workers)) == bits(
        evaluation_batches(plain, batch_size=2, threads=0)
    )


@pytest.fixture
def images(tiny: Data) -> FittedImages:
    return FittedImages(tiny, "train", size=SIZE, cache=None)


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 9), (4, [4, 4, 1]), (9, [9]), (100, [9])])
def test_every_image_is_seen_once_an_epoch(images: FittedImages, batch_size: int, sizes: list[int]) -> None:
    batches = list(training_batches(images, config(batch_size=batch_size), epoch=1))
    assert [len(batch.indices) for batch in batches] == sizes
    assert sorted(index for batch in batches for index in batch.indices) == list(range(9))


def test_good_parts_make_room_for_rare_categories(images: FittedImages) -> None:
    """Six of nine images are defective; factors sqrt(3 / 2) and 1 share nine places."""
    settings = config(repeat_threshold=1.0)
    seen = [
        index
        for epoch in range(200)
        for batch in training_batches(images, settings, epoch=epoch)
        for index in batch.indices
    ]
    defective = sum(len(images.labels[index]) > 0 for index in seen)
    assert len(seen) == 9 * 200
    assert defective / len(seen) == pytest.approx(6 * 1.5**0.5 / (6 * 1.5**0.5 + 3), abs=0.02)


def test_good_parts_are_shown_with_the_defects_of_others(images: FittedImages) -> None:
    settings = config(augmentation=PLAIN.model_copy(update={"copy_paste": 1.0}), batch_size=9)
    batch = next(training_batches(images, settings, epoch=1))
    changed = [
        not np.array_equal(pixels.permute(1, 2, 0), images[index])
        for index, pixels in zip(batch.indices, batch.images, strict=True)
    ]
    assert changed == [len(images.labels[index]) == 0 for index in batch.indices]
    assert all(one["labels"].tolist() == [1, 2] and one["boxes"].shape == (2, 4) for one in batch.targets)


def test_more_tiles_than_photographs_are_trained_on(tiny: Data) -> None:
    plan = TilePlan(tile_px=32, overlap_px=16, whole=False)
    images = FittedImages(tiny, "train", size=(64, 64), cache=None, tiles=plan, for_training=True)
    hard = images.chosen.good[-images.chosen.most_hard :]
    batches = training_batches(images, config(image_size=64), epoch=1, hard=hard)
    seen = [index for batch in batches for index in batch.indices]
    assert len(set(seen)) == len(seen) == images.chosen.an_epoch > len(tiny.train.images)
    assert set(seen) >= set(hard)


@pytest.mark.parametrize("change", [{"epoch": 2}, {"seed": 4}])
def test_epochs_and_seeds_differ_in_order_and_pixels(images: FittedImages, change: dict[str, int]) -> None:
    def epoch(seed: int = 3, epoch: int = 1) -> tuple[list[int], dict[int, bytes]]:
        pixels = {
            index: picture.numpy().tobytes()
            for batch in training_batches(images, config(seed=seed), epoch=epoch)
            for index, picture in zip(batch.indices, batch.images, strict=True)
        }
        return list(pixels), pixels

    (order, pixels), (other_order, other_pixels) = epoch(), epoch(**change)
    assert order != other_order
    assert all(pixels[index] != other_pixels[index] for index in pixels)


def test_a_batch_is_what_it_says(images: FittedImages) -> None:
    batch = next(evaluation_batches(images, batch_size=3, threads=0))
    assert batch.indices == (0, 1, 2)
    assert (batch.images.dtype, batch.images.shape) == (torch.uint8, (3, 3, *SIZE))
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.images[1], torch.from_numpy(images[1].copy()).permute(2, 0, 1))
    assert [(one["boxes"].dtype, one["labels"].dtype) for one in batch.targets] == [(torch.float32, torch.int64)] * 3


def test_labels_count_categories_from_1_whatever_their_ids(images: FittedImages) -> None:
    """The categories of the builder are 3 and 7."""
    batch = next(evaluation_batches(images, batch_size=3, threads=0))
    assert [one["labels"].tolist() for one in batch.targets] == [[1, 2], [1, 2], []]


def test_boxes_are_scaled_as_the_image(images: FittedImages) -> None:
    """64 x 48 px into 96 x 64: by 4/3."""
    batch = next(evaluation_batches(images, batch_size=3, threads=0))
    np.testing.assert_allclose(
        batch.targets[0]["boxes"], np.array([[8, 6, 28, 16], [30, 20, 54.5, 36]]) * 4 / 3, rtol=1e-6
    )
    assert (batch.targets[2]["boxes"].shape, batch.targets[2]["labels"].shape) == ((0, 4), (0,))


def test_crowds_are_no_targets(tmp_path: Path) -> None:
    root = write_data(tmp_path)

    def crowd_in_front(document: dict[str, list[object]]) -> None:
        document["annotations"].insert(0, annotation(999, 1, (0, 0, 50, 40), iscrowd=1))

    edit_json(root / "train" / "annotations.json", crowd_in_front)
    images = FittedImages(load_data(root), "train", size=(48, 64), cache=None)
    for batches in (
        evaluation_batches(images, batch_size=1, threads=0),
        training_batches(images, config(batch_size=1, augmentation=PLAIN), epoch=1),
    ):
        (first,) = [batch for batch in batches if batch.indices == (0,)]
        np.testing.assert_allclose(first.targets[0]["boxes"], np.array([[8, 6, 28, 16], [30, 20, 54.5, 36]]), rtol=1e-5)


@pytest.mark.parametrize(("size", "scale"), [((64, 48), 1.0), ((48, 64), 0.75)])
def test_a_rotated_photograph_is_fitted_as_annotated(tmp_path: Path, size: tuple[int, int], scale: float) -> None:
    """Stored 64 x 48 px, annotated upright as 48 x 64."""
    root = write_data(tmp_path)
    save_rotated(root / "train" / "images" / "turned.png", 6, seed=77)

    def add(document: dict[str, list[object]]) -> None:
        document["images"].insert(0, image(900, "turned.png", (48, 64)))
        document["annotations"].append(annotation(900, 900, (4, 30, 20, 30)))

    edit_json(root / "train" / "annotations.json", add)
    data = load_data(root)
    fitted = FittedImages(data, "train", size=size, cache=None)
    target = next(evaluation_batches(fitted, batch_size=1, threads=0)).targets[0]
    assert np.array_equal(fitted[0], fit_image(read_image(data.train.images[0]), size))
    np.testing.assert_allclose(target["boxes"], np.array([[4, 30, 24, 60]]) * scale, rtol=1e-6)


class Eye(StubBackend):
    seen: NDArray[np.uint8]

    def __call__(self, images: NDArray[np.uint8]) -> list[Detections]:
        (self.seen,) = images
        return super().__call__(images)


def test_a_large_jpeg_is_fitted_as_a_detector_sees_it(tmp_path: Path) -> None:
    root = write_data(tmp_path)
    path = save_picture(root / "train" / "images", "jpeg", size=(1101, 803))

    def add(document: dict[str, list[object]]) -> None:
        document["images"].insert(0, image(900, path.name, (1101, 803)))

    edit_json(root / "train" / "annotations.json", add)
    eye = Eye()
    predictor = stub_predictor(eye)
    decoded = predictor.decode(path.read_bytes())
    predictor.detect(decoded)
    assert decoded.reduced
    assert np.array_equal(FittedImages(load_data(root), "train", size=predictor.image_size, cache=None)[0], eye.seen)


@pytest.mark.parametrize(("indices", "seen"), [(None, range(9)), (range(5), range(5)), ([7, 2], [7, 2]), ([], [])])
def test_evaluation_keeps_the_order(images: FittedImages, indices: Sequence[int] | None, seen: Sequence[int]) -> None:
    batches = evaluation_batches(images, batch_size=2, threads=2, indices=indices)
    assert [index for batch in batches for index in batch.indices] == list(seen)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_lost_in_the_middle_is_named(tmp_path: Path, workers: int) -> None:
    data = load_data(write_data(tmp_path))
    data.train.images[4].path.unlink()
    images = FittedImages(data, "train", size=SIZE, cache=None)
    batches = evaluation_batches(images, batch_size=1, threads=workers)
    assert [next(batches).indices for _ in range(4)] == [(0,), (1,), (2,), (3,)]
    with pytest.raises(DataError, match=data.train.images[4].path.name):
        next(batches)


def test_batches_left_early_leave_no_thread(images: FittedImages) -> None:
    before = threading.active_count()
    batches = training_batches(images, config(num_workers=3, batch_size=1), epoch=1)
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_batches_do_not_share_what_they_hold(images: FittedImages) -> None:
    """What is done to one batch must not reach the next epoch."""
    before = bits(evaluation_batches(images, batch_size=4, threads=0))
    for batch in evaluation_batches(images, batch_size=4, threads=0):
        batch.images.zero_()
        for target in batch.targets:
            target["boxes"].zero_()
            target["labels"].zero_()
    assert bits(evaluation_batches(images, batch_size=4, threads=0)) == before


# On a device


@given(st.integers(1, 9), st.integers(1, 9))
def test_a_batch_on_a_device_is_the_same_batch(tiny: Data, batch_size: int, part_size: int) -> None:
    fitted = FittedImages(tiny, "train", size=SIZE, cache=None)
    whole = next(evaluation_batches(fitted, batch_size=batch_size, threads=0))
    parts = whole.parts(part_size)
    assert bits(part.to(torch.device("cpu")) for part in parts) == bits(iter(parts))


def test_all_of_a_batch_goes_to_the_device(images: FittedImages) -> None:
    """On torch's device without memory, since there may be no other."""
    batch = next(evaluation_batches(images, batch_size=4, threads=0))
    there = batch.to(torch.device("meta"))
    tensors = [there.images, *(tensor for target in there.targets for tensor in target.values())]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert there.images.is_contiguous(memory_format=torch.channels_last)
    assert [target["boxes"].shape for target in there.targets] == [target["boxes"].shape for target in batch.targets]
    assert there.indices == batch.indices


@pytest.mark.gpu
def test_batches_for_a_gpu_lie_where_it_fetches_them(images: FittedImages) -> None:
    torch.cuda.init()  # type: ignore[no-untyped-call]
    batch = next(evaluation_batches(images, batch_size=4, threads=1))
    assert batch.images.is_pinned()
    assert bits(iter([batch.to(torch.device("cuda")).to(torch.device("cpu"))])) == bits(iter([batch]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a system that refuses pinned memory")
def test_without_pinned_memory_batches_lie_elsewhere(images: FittedImages, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = bits(evaluation_batches(images, batch_size=4, threads=0))
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    with pytest.raises(RuntimeError):
        torch.empty(1, pin_memory=True)
    assert bits(evaluation_batches(images, batch_size=4, threads=0)) == expected


@pytest.mark.parametrize("cached", [True, False])
def test_at_most_three_photographs_are_in_memory(
    cached: bool, tiny: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting, alive, most, reads = threading.Lock(), [0], [0], [0]

    def count(change: int) -> None:
        with counting:
            alive[0] += change
            most[0] = max(most[0], alive[0])

    def read(record: ImageRecord, size: None) -> DecodedPicture:
        count(1)  # before it is decoded
        reads[0] += 1
        time.sleep(0.002)  # so that threads overlap
        photograph = read_to_fit(record, size)
        weakref.finalize(photograph.pixels, count, -1)
        return photograph

    monkeypatch.setattr("vqc.data.loader.read_to_fit", read)
    plan = TilePlan(tile_px=32, overlap_px=16, whole=False)
    images = FittedImages(tiny, "train", size=(64, 64), cache=tmp_path if cached else None, tiles=plan)
    assert len(list(evaluation_batches(images, batch_size=2, threads=6))) > len(tiny.train.images)
    assert 0 < most[0] <= 3
    assert reads[0] == len(tiny.train.images) or not cached
