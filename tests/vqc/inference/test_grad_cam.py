"""Maps from gradients: one detection of every family, and nothing that was not learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr

from tests.images import annotation, document, write_json
from tests.images import image as entry
from tests.models import SIZE, decided, picture
from vqc.config import TrainConfig
from vqc.inference.detections import Detections
from vqc.inference.grad_cam import grad_cam
from vqc.inference.saliency import drise
from vqc.inference.torch_backend import torch_predictor
from vqc.models.build import build_detector
from vqc.models.checkpoint import ModelInfo

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("fcos_tiny", SIZE),
        pytest.param("fasterrcnn_mobilenet_v3_large_320_fpn", (128, 160), marks=pytest.mark.slow),
        pytest.param("retinanet_resnet50_fpn", (128, 160), marks=pytest.mark.slow),
        pytest.param("ssdlite320_mobilenet_v3_large", (320, 320), marks=pytest.mark.slow),
    ],
)
def test_grad_cam_explains_one_detection_of_every_family(name: str, size: tuple[int, int]) -> None:
    model, info = decided(name, size)
    image = picture(11, size)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    (found,) = torch_predictor(model, info).detect_fitted(image[None])

    def first_map(order: np.ndarray) -> np.ndarray:
        """Random weights may leave a detection without one."""
        return next(heat for i in order if (heat := grad_cam(model, image, found[[i]])) is not None)

    from_left = found.boxes[:, 0].argsort()
    left, right = first_map(from_left), first_map(from_left[::-1])
    assert (left.shape, left.dtype.name, float(left.min()), float(left.max())) == (size, "float32", 0.0, 1.0)
    assert np.abs(left - right).max() > 0.1
    after = model.state_dict()
    assert list(after) == list(before)  # nothing is left of the hook
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(weights.grad is None for weights in model.parameters())


def test_grad_cam_of_a_class_that_is_not_there_is_none() -> None:
    model, _ = decided("fcos_tiny", SIZE)
    nothing = Detections(
        boxes=np.array([[0, 0, 9, 9]], np.float32), scores=np.ones(1, np.float32), labels=np.array([99])
    )
    assert grad_cam(model, picture(11), nothing) is None


def write_plates(folder: Path, *, count: int, seed: int) -> None:
    """A split of grey plates [96, 96] with noise, each with a light square as a scratch or a dark one as a dent."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for id_ in range(1, count + 1):
        plate, side = rng.normal(128, 12, (96, 96, 3)), int(rng.integers(18, 36))
        left, top = (int(place) for place in rng.integers(2, 94 - side, 2))
        plate[top : top + side, left : left + side] += 60 if id_ % 2 else -60
        Image.fromarray(plate.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{id_}.png")
        images.append(entry(id_, f"{id_}.png", (96, 96)))
        annotations.append(annotation(id_, id_, (left, top, side, side), category_id=3 if id_ % 2 else 7))
    write_json(folder / "annotations.json", document(images, annotations))


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, list[Pixels], ModelInfo]:
    """A detector trained for some seconds on plates, and the test split's pictures."""
    from vqc.data.dataset import load_data, read_image
    from vqc.training.loop import fit

    root = tmp_path_factory.mktemp("plates")
    for seed, (split, count) in enumerate({"train": 64, "val": 4, "test": 8}.items()):
        write_plates(root / split, count=count, seed=seed)
    config = TrainConfig.model_validate(
        {"model": "fcos_tiny", "weights": "none", "image_size": 96, "num_epochs": 12, "learning_rate": 4e-3,
         "gpu_optimization": {"mixed_precision": "float32"}}
    )  # fmt: skip
    data = load_data(root)
    *_, last = fit(config, data, cache=tmp_path_factory.mktemp("cache"))
    assert data.test is not None
    return last.state.model.eval(), [read_image(one) for one in data.test.images], last.state.info


@pytest.mark.slow
@pytest.mark.parametrize(("method", "highest"), [("gradcam", 0.6), ("drise", 0.4)])
def test_maps_depend_on_what_was_learnt(
    method: str, highest: float, learnt: tuple[torch.nn.Module, list[Pixels], ModelInfo]
) -> None:
    """The model parameter randomisation test of Adebayo et al., Sanity Checks for Saliency Maps (NeurIPS 2018).

    Rank correlations of 1 would say that nothing learnt is shown. Compared where either map has heat, for both have
    none far from the box. The bound for Grad-CAM is higher: gradients fade with the distance from the box, whatever the
    weights are (0.46 was measured; D-RISE is free of that).
    """
    model, pictures, info = learnt
    random = build_detector(info.config.model_copy(update={"seed": 1}), num_classes=2).eval()
    random.score_thresh = 0.0  # type: ignore[assignment]
    correlations = []
    for image in pictures:
        (found,) = torch_predictor(model, info).detect_fitted(image[None])
        if not len(found):
            continue
        target = found[[0]]
        maps = [
            grad_cam(one, image, target)
            if method == "gradcam"
            else drise(torch_predictor(one, info).detect_fitted, image, target, masks=150, seed=0)[0]
            for one in (model, random)
        ]
        assert maps[0] is not None
        if maps[1] is not None:
            hot = (maps[0] > 0) | (maps[1] > 0)
            correlations.append(spearmanr(maps[0][hot], maps[1][hot]).statistic)
    assert len(correlations) >= 3
    assert abs(float(np.mean(correlations))) < highest
