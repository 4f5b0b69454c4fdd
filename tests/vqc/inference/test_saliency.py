"""Maps that show what speaks for a box, figures that say how far to trust them, and the command around both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import spearmanr

from tests import images
from tests.models import SIZE, decided, picture, write_models
from vqc.cli.main import main
from vqc.config import TrainConfig
from vqc.inference.saliency import Found, Target, _masks, drise, faithfulness, grad_cam, similarity, torch_finder
from vqc.models.build import build_detector

Pixels = NDArray[np.uint8]
SPOT = (slice(40, 56), slice(60, 80))  # rows and columns in which the stand-in detector looks
TARGET = Target(box=np.array([55, 35, 85, 60], np.float32), label=2)
NOTHING = Found(boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, np.int64))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def spotted() -> Pixels:
    """A dark part with one bright spot."""
    image = np.full((*SIZE, 3), 40, np.uint8)
    image[SPOT] = 240
    return image


def find_spot(batch: Pixels) -> list[Found]:
    """A stand-in detector whose score is how much of the spot's brightness is there; it sees nothing else."""
    shares = np.clip((batch[:, SPOT[0], SPOT[1]].mean(axis=(1, 2, 3)) - 60) / 180, 0, 1)
    return [
        Found(boxes=TARGET.box[None], scores=np.array([share], np.float32), labels=np.array([TARGET.label]))
        for share in shares
    ]


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
    one = Found(boxes=np.array([box], np.float32), scores=np.array([score], np.float32), labels=np.array([label]))
    assert similarity(TARGET, one) == pytest.approx(expected)
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
    (heat,) = drise(find_spot, spotted(), [TARGET], masks=300, seed=0)
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
        drise(find_spot, spotted(), [TARGET], masks=40, seed=seed, batch=batch)[0]
        for seed, batch in ((3, 16), (3, 7), (4, 16))
    )
    assert one is not None
    assert two is not None
    assert other is not None
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert np.abs(one - other).max() > 0.1


def test_a_detection_that_no_mask_leaves_has_no_map() -> None:
    assert drise(lambda batch: [NOTHING] * len(batch), spotted(), [TARGET], masks=10, seed=0) == [None]


def test_a_right_map_is_trusted_and_a_wrong_one_is_not() -> None:
    right = faithfulness(find_spot, spotted(), TARGET, heat_at(*SPOT), seed=0)
    wrong = faithfulness(find_spot, spotted(), TARGET, heat_at(slice(0, 16), slice(0, 20)), seed=0)
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
    found = faithfulness(find_spot, spotted(), TARGET, heat, seed=seed)
    assert found is not None
    assert 0 <= found.deletion <= 1
    assert 0 <= found.insertion <= 1
    assert 0 <= found.beaten <= found.controls


def test_what_is_not_found_cannot_be_told() -> None:
    assert faithfulness(lambda batch: [NOTHING] * len(batch), spotted(), TARGET, heat_at(*SPOT), seed=0) is None


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
    model, _ = decided(name, size)
    image = picture(11, size)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    (found,) = torch_finder(model)(image[None])

    def first_map(order: np.ndarray) -> np.ndarray:
        """Random weights may leave a detection without one: nothing that speaks for it."""
        targets = (Target(box=found.boxes[i], label=int(found.labels[i])) for i in order)
        return next(heat for target in targets if (heat := grad_cam(model, image, target)) is not None)

    from_left = found.boxes[:, 0].argsort()
    left, right = first_map(from_left), first_map(from_left[::-1])
    assert (left.shape, left.dtype.name, float(left.min()), float(left.max())) == (size, "float32", 0.0, 1.0)
    assert np.abs(left - right).max() > 0.1
    after = model.state_dict()
    assert list(after) == list(before)  # nothing is left of the taps
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(weights.grad is None for weights in model.parameters())


def test_grad_cam_of_a_class_that_is_not_there_is_none() -> None:
    model, _ = decided("fcos_tiny", SIZE)
    assert grad_cam(model, picture(11), Target(box=np.array([0, 0, 9, 9], np.float32), label=99)) is None


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, list[Pixels], TrainConfig]:
    """A detector trained for some seconds on the generated sample, and the sample's test pictures."""
    from vqc.data.dataset import load_data, read_image
    from vqc.data.synthetic import write_sample
    from vqc.training.loop import fit

    root = write_sample(tmp_path_factory.mktemp("sample") / "sample", images={"train": 64, "val": 4, "test": 8})
    config = TrainConfig.model_validate(
        {"model": "fcos_tiny", "weights": "none", "image_size": 96, "num_epochs": 12, "learning_rate": 4e-3,
         "gpu_optimization": {"mixed_precision": "float32"}}
    )  # fmt: skip
    data = load_data(root)
    *_, last = fit(config, data, cache=tmp_path_factory.mktemp("cache"))
    from vqc.data.letterbox import fit_image

    assert data.test is not None
    return last.state.model.eval(), [fit_image(read_image(one), (96, 96)) for one in data.test.images], config


@pytest.mark.slow
@pytest.mark.parametrize(("method", "highest"), [("gradcam", 0.6), ("drise", 0.4)])
def test_maps_depend_on_what_was_learnt(
    method: str, highest: float, learnt: tuple[torch.nn.Module, list[Pixels], TrainConfig]
) -> None:
    """The model parameter randomisation test of Adebayo et al., Sanity Checks for Saliency Maps (NeurIPS 2018).

    Rank correlations of 1 would say that nothing learnt is shown. Compared where either map has heat, for both have
    none far from the box. The bound for Grad-CAM is higher: gradients fade with the distance from the box, whatever the
    weights are (0.46 was measured; D-RISE is free of that).
    """
    model, pictures, config = learnt
    random = build_detector(config.model_copy(update={"seed": 1}), num_classes=3).eval()
    random.score_thresh = 0.0  # type: ignore[assignment]
    correlations = []
    for image in pictures:
        (found,) = torch_finder(model)(image[None])
        if not len(found.scores):
            continue
        best = int(found.scores.argmax())
        target = Target(box=found.boxes[best], label=int(found.labels[best]))
        maps = [
            grad_cam(one, image, target)
            if method == "gradcam"
            else drise(torch_finder(one), image, [target], masks=150, seed=0)[0]
            for one in (model, random)
        ]
        assert maps[0] is not None
        if maps[1] is not None:
            hot = (maps[0] > 0) | (maps[1] > 0)
            correlations.append(spearmanr(maps[0][hot], maps[1][hot]).statistic)
    assert len(correlations) >= 3
    assert abs(float(np.mean(correlations))) < highest


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


def test_the_command_writes_pictures_and_one_page(models: tuple[Path, Path], tmp_path: Path) -> None:
    photo = images.save_picture(tmp_path, seed=3)
    flags = ["--images", str(photo), "--masks", "8", "--detections", "2", "--out", str(tmp_path / "out")]
    assert main(["explain", "--model", str(models[0]), *flags]) == 0
    page = (tmp_path / "out/explanations.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    (one,) = json.loads((tmp_path / "out/explanations.json").read_text(encoding="utf-8"))
    assert [(row["detection"], row["method"]) for row in one["figures"]] == [
        (1, "gradcam"), (1, "drise"), (2, "gradcam"), (2, "drise")
    ]  # fmt: skip
    shown = sum(row["faithfulness"] is not None for row in one["figures"])
    assert shown >= 2
    assert len(list((tmp_path / "out/pictures").iterdir())) >= shown
    assert page.count("score left while deleting") == shown


def test_an_exported_detector_is_explained_by_masks(models: tuple[Path, Path], tmp_path: Path) -> None:
    images.save_picture(tmp_path, seed=3)
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    flags = ["--images", str(tmp_path), "--masks", "8", "--detections", "1", "--out", str(tmp_path / "out")]
    assert main(["explain", "--model", str(models[1]), *flags]) == 1
    (one,) = json.loads((tmp_path / "out/explanations.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in one["figures"]] == ["drise"]
    assert "cut.png" in (tmp_path / "out/explanations.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--method", "gradcam"], "an ONNX file has no gradients"),
        (["--masks", "0"], "--masks: got 0, expected at least 1"),
        (["--detections", "0"], "--detections: got 0, expected at least 1"),
        (["--images", "nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_mistakes_are_one_sentence(
    flags: list[str], says: str, models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = images.save_picture(tmp_path)
    given_ = ["--model", str(models[1]), "--images", str(photo), "--out", str(tmp_path / "out"), *flags]
    assert main(["explain", *given_]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
