"""Scores against pycocotools' own summary, and detections in the pixels of the annotated image."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn

from tests.images import annotation, edit_json, image, save_rotated, write_data
from vqc.data.dataset import Category, Data, ImageRecord, Split, load_data, read_to_fit
from vqc.data.loader import FittedImages, evaluation_batches
from vqc.data.tiles.views import TilePlan
from vqc.evaluation.coco_metrics import coco_scores, detect
from vqc.hardware.precision import Precision
from vqc.inference.detections import Detections

CATEGORIES = (Category(id=3, name="scratch"), Category(id=7, name="dent"), Category(id=90, name="stain"))
CPU = Precision(device=torch.device("cpu"), dtype=torch.float32)
EDGE = 200.0


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """``[count, 4]`` float32 xyxy inside a picture of 200 px, of all of COCO's sizes."""
    corners = rng.uniform(0, 150, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(1, 50, (count, 2)) ** rng.uniform(0.5, 1)], 1).astype(
        np.float32
    )


def record(image_id: int, boxes: np.ndarray, labels: np.ndarray, crowd: np.ndarray) -> ImageRecord:
    return ImageRecord(
        image_id=image_id,
        path=Path("none.png"),
        sha256="",
        group=f"{image_id}.png",
        width=int(EDGE),
        height=int(EDGE),
        rotate=False,
        boxes=boxes,
        labels=labels.astype(np.int64),
        areas=((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).astype(np.float32),
        crowd=crowd,
    )


def random_case(seed: int, *, images: int = 30, crowd: float = 0.15) -> tuple[Split, list[Detections]]:
    """Ground truth with good images and crowds; detections around it, some false, some of the wrong label."""
    rng = np.random.default_rng(seed)
    records, found = [], []
    for image_id in rng.permutation(1000)[:images].tolist():
        crowded = image_id % 10 == 0  # more on it than COCO's limits of 10 and 100 detections
        count = 20 if crowded else int(rng.integers(0, 5))
        boxes, labels = random_boxes(rng, count), rng.integers(1, 3, count)  # 'stain' never occurs
        records.append(record(image_id, boxes, labels, rng.random(count) < crowd))
        near = np.clip(boxes + rng.normal(0, 4, boxes.shape), 0, EDGE).astype(np.float32)
        guessed = np.concatenate([near, random_boxes(rng, 120 if crowded else int(rng.integers(0, 4)))])
        guesses = np.where(rng.random(len(guessed)) < 0.2, 3, np.resize(np.append(labels, 1), len(guessed)))
        scores = rng.choice(np.linspace(0.05, 1, 12), len(guessed)).astype(np.float32)  # with ties
        order = np.argsort(-scores, kind="stable")
        if rng.random() < 0.9:
            found.append(
                Detections(
                    image_id=image_id,
                    boxes=guessed[order],
                    scores=scores[order],
                    labels=guesses[order].astype(np.int64),
                )
            )
    return Split(name="val", categories=CATEGORIES, images=tuple(records)), found


def reference(split: Split, detections: Sequence[Detections]) -> np.ndarray:
    """``COCOeval.stats`` by the documented way: a dataset with the annotations' own ids, loadRes, summarize."""

    def rows(image_id: int, boxes: np.ndarray, labels: np.ndarray) -> list[dict[str, object]]:
        return [
            {
                "image_id": image_id,
                "category_id": CATEGORIES[label - 1].id,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
            }
            for (x0, y0, x1, y1), label in zip(boxes.tolist(), labels.tolist(), strict=True)
        ]

    annotations = [
        {**row, "id": 1000 * one.image_id + number, "area": float(area), "iscrowd": int(crowd)}
        for one in split.images
        for number, (row, area, crowd) in enumerate(
            zip(rows(one.image_id, one.boxes, one.labels), one.areas, one.crowd, strict=True)
        )
    ]
    results = [
        {**row, "score": score}
        for one in detections
        for row, score in zip(rows(one.image_id, one.boxes, one.labels), one.scores.tolist(), strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": one.image_id, "width": 200, "height": 200} for one in split.images],
            "categories": [{"id": c.id, "name": c.name} for c in CATEGORIES],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.asarray(evaluation.stats)


@pytest.mark.parametrize("seed", range(12))
def test_scores_are_pycocotools_own(seed: int) -> None:
    split, found = random_case(seed)
    scores, stats = coco_scores(split, found), reference(split, found)
    assert [scores.ap, scores.ap50, scores.ap75, scores.ar] == pytest.approx(stats[[0, 1, 2, 8]], abs=1e-9)
    assert scores.ap is not None
    assert 0 < scores.ap < 1


@pytest.mark.parametrize("seed", range(4))
def test_the_mean_over_classes_is_the_score(seed: int) -> None:
    scores = coco_scores(*random_case(seed))
    known = [value for value in scores.class_ap.values() if value is not None]
    assert list(scores.class_ap) == ["scratch", "dent", "stain"]
    assert scores.class_ap["stain"] is None
    assert scores.ap == pytest.approx(np.mean(known), abs=1e-12)


def test_the_order_of_images_does_not_matter() -> None:
    split, found = random_case(3)
    assert coco_scores(split, found) == coco_scores(split, found[::-1])


def test_no_detections_score_0() -> None:
    split, _ = random_case(0)
    scores = coco_scores(split, [])
    assert (scores.ap, scores.ap50, scores.ap75, scores.ar) == (0, 0, 0, 0)
    assert scores.class_ap == {"scratch": 0, "dent": 0, "stain": None}


@pytest.mark.parametrize("with_detections", [False, True])
def test_without_ground_truth_there_is_no_score(with_detections: bool) -> None:
    split, found = random_case(0)
    nothing = np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, bool)
    good = Split(
        name="val", categories=CATEGORIES, images=tuple(record(one.image_id, *nothing) for one in split.images)
    )
    scores = coco_scores(good, found if with_detections else [])
    assert (scores.ap, scores.ap50, scores.ap75, scores.ar) == (None, None, None, None)
    assert set(scores.class_ap.values()) == {None}


def test_only_crowds_are_no_ground_truth() -> None:
    split, found = random_case(1, crowd=1.0)
    assert coco_scores(split, found).ap is None


def test_a_detection_in_a_crowd_is_neither_right_nor_wrong() -> None:
    boxes = np.array([[10, 10, 30, 30], [100, 100, 180, 180]], np.float32)
    split = Split(
        name="val", categories=CATEGORIES, images=(record(1, boxes, np.array([1, 1]), np.array([False, True])),)
    )
    found = Detections(
        image_id=1,
        boxes=np.array([[110, 110, 140, 140], [10, 10, 30, 30]], np.float32),
        scores=np.array([0.9, 0.5], np.float32),
        labels=np.array([1, 1]),
    )
    assert coco_scores(split, [found]).ap == pytest.approx(1)


# Detections


class Oracle(nn.Module):
    """Says what is annotated, in the pixels of the fitted image, worst first."""

    def __init__(self, images: FittedImages) -> None:
        super().__init__()
        batches = evaluation_batches(images, batch_size=1, threads=0)
        self.answers = [batch.targets[0] for batch in batches]
        self.asked = 0

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        assert not self.training
        answers = self.answers[self.asked : self.asked + len(images)]
        self.asked += len(images)
        return [{**one, "scores": torch.linspace(0.1, 0.9, len(one["boxes"]))} for one in answers]


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Pictures of 64 x 48 px, and one that is stored so and annotated upright as 48 x 64."""
    root = write_data(tmp_path_factory.mktemp("turned"), val=4)
    save_rotated(root / "val" / "images" / "turned.png", 6, seed=77)

    def add(document: dict[str, list[object]]) -> None:
        document["images"].append(image(900, "turned.png", (48, 64)))
        document["annotations"].append(annotation(900, 900, (4, 30, 20, 30), category_id=7))

    edit_json(root / "val" / "annotations.json", add)
    return load_data(root)


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 320)])
def test_who_finds_everything_scores_1_at_any_size(turned: Data, size: tuple[int, int]) -> None:
    images = FittedImages(turned, "val", size=size, cache=None)
    oracle = Oracle(images).train()
    batches = evaluation_batches(images, batch_size=2, threads=0)
    found = detect(oracle, batches, images, precision=CPU)
    assert [one.image_id for one in found] == [one.image_id for one in turned.val.images]
    np.testing.assert_allclose(found[-1].boxes, [[4, 30, 24, 60]], rtol=1e-5)
    assert coco_scores(turned.val, found).ap == pytest.approx(1)
    assert oracle.training


@pytest.mark.parametrize("whole", [False, True])
def test_who_finds_everything_on_the_tiles_scores_1_on_the_photographs(turned: Data, whole: bool) -> None:
    """Also where several tiles show a defect, and where borders cut one."""
    plan = TilePlan(tile_px=40, overlap_px=30, whole=whole)
    images = FittedImages(turned, "val", size=(64, 64), cache=None, tiles=plan)
    assert len(images) > 2 * len(turned.val.images)
    found = detect(Oracle(images), evaluation_batches(images, batch_size=2, threads=0), images, precision=CPU)
    assert [one.image_id for one in found] == [one.image_id for one in turned.val.images]
    assert coco_scores(turned.val, found).ap == pytest.approx(1)


def test_without_a_cache_a_photograph_is_decoded_once_for_all_its_tiles(
    turned: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    monkeypatch.setattr(
        "vqc.data.loader.read_to_fit", lambda record, size: (read.append(record.image_id), read_to_fit(record, size))[1]
    )
    plan = TilePlan(tile_px=40, overlap_px=20, whole=False)
    images = FittedImages(turned, "val", size=(64, 64), cache=None, tiles=plan)
    assert len(list(evaluation_batches(images, batch_size=3, threads=0))) > 2
    assert read == [record.image_id for record in turned.val.images]


def test_the_mode_is_put_back_after_an_error(turned: Data) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> None:
            raise RuntimeError("boom")

    model = Broken().train()
    images = FittedImages(turned, "val", size=(64, 64), cache=None)
    with pytest.raises(RuntimeError, match="boom"):
        detect(model, evaluation_batches(images, batch_size=2, threads=0), images, precision=CPU)
    assert model.training
