"""Weights are decided before a run begins, with or without a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model, get_weight

from vqc.config import InitialModel, TrainConfig
from vqc.data.dataset import Data
from vqc.errors import ModelError
from vqc.files import file_sha256
from vqc.models.build import HEADS, build_detector
from vqc.models.checkpoint import ModelInfo, load_model, read_info, save_model
from vqc.models.pretrained import check_initial_model, load_initial_model, resolve_weights
from vqc.models.registry import ARCHITECTURES
from vqc.training.loop import fit


def config(name: str = "fcos_tiny", **values: object) -> TrainConfig:
    return TrainConfig.model_validate({"model": name, "weights": "none", "image_size": (64, 96), **values})


def test_offline_auto_starts_from_random_weights_and_says_why(offline: None) -> None:
    decided, told = resolve_weights(config("fasterrcnn_resnet50_fpn", weights="auto"))
    assert decided == config("fasterrcnn_resnet50_fpn", weights="none")
    assert told.startswith("random initial weights; fasterrcnn_resnet50_fpn_coco-258fb6c6.pth is neither in ")
    assert "; resnet50-0676ba61.pth is neither in " in told
    assert "\n" not in told


def test_offline_weights_that_are_asked_for_are_an_error(offline: None) -> None:
    with pytest.raises(
        ModelError, match="neither in .* nor on the network .*; expected it there, or 'weights': 'none'"
    ):
        resolve_weights(config("fasterrcnn_resnet50_fpn", weights="backbone"))


@pytest.fixture
def stored(offline: None, tmp_path: Path) -> Path:
    """A file where torch keeps ResNet-50's weights; it holds something else."""
    path = tmp_path / "torch" / "hub" / "checkpoints" / "resnet50-0676ba61.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no weights")
    return path


def test_weights_on_the_disk_need_no_network(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "vqc.models.pretrained.file_sha256", lambda path: "0676ba61" + "0" * 56
    )  # the real file is 98 MB
    decided, told = resolve_weights(config("fasterrcnn_resnet50_fpn", weights="auto"))
    assert decided.weights == "backbone"
    assert told.startswith(
        "backbone weights ResNet50_Weights.IMAGENET1K_V1; fasterrcnn_resnet50_fpn_coco-258fb6c6.pth is"
    )


def test_a_file_that_is_not_what_its_name_says_is_refused(stored: Path) -> None:
    with pytest.raises(ModelError, match=r"0676ba61\.pth: damaged, or not .* sha256 of 0676ba61\.\.\., got .*; delete"):
        resolve_weights(config("fasterrcnn_resnet50_fpn", weights="auto"))


@pytest.mark.parametrize("weights", ["auto", "none"])
def test_a_detector_without_backbone_weights(weights: str) -> None:
    assert resolve_weights(config(weights=weights)) == (config(), "random initial weights")


def test_lite0_has_its_weights_without_a_network(offline: None) -> None:
    decided, told = resolve_weights(config("fcos_lite0", weights="auto"))
    assert (decided.weights, told) == ("backbone", "backbone weights EfficientNet_Lite0_Weights.IMAGENET1K")


def test_backbone_weights_that_do_not_exist() -> None:
    with pytest.raises(ModelError, match="there are no backbone weights for 'fcos_tiny', expected 'auto'"):
        resolve_weights(config(weights="backbone"))


def test_deciding_on_random_weights_does_not_import_torch() -> None:
    code = (
        "import sys; from vqc.config import TrainConfig; from vqc.models.pretrained import resolve_weights;"
        "resolve_weights(TrainConfig(model='fcos_tiny', weights='auto')); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# COCO's detectors, from files of the true format that are served from a folder

COCO = [name for name, known in ARCHITECTURES.items() if known.coco_weights]
QUICK = {"ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"}


def serve(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A file of random weights where torchvision looks for its own; returns the weights' name, and the file."""
    torch.manual_seed(0)
    tensors = get_model(name, weights=None, weights_backbone=None).state_dict()
    for key, tensor in tensors.items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.02)
    frozen = "_v2" not in name and "ssdlite" not in name  # of these torchvision stored frozen norms
    draft = folder / "draft"
    torch.save({key: one for key, one in tensors.items() if not (frozen and "num_batches" in key)}, draft)
    path = draft.rename(folder / f"{name}-{file_sha256(draft)[:8]}.pth")
    weights = str(ARCHITECTURES[name].coco_weights)
    monkeypatch.setattr(get_weight(weights).value, "url", path.as_uri())
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    return weights, path


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in COCO])
def test_a_detector_starts_from_all_of_cocos_weights_but_the_head(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside torchvision's own detector with those weights: the same tensors, and the same maps of the backbone."""
    weights, _ = serve(name, tmp_path, monkeypatch)
    decided, told = resolve_weights(config(name, weights="auto"))
    assert (decided.weights, told) == ("coco", f"coco weights {weights}")
    ours, theirs = build_detector(decided, num_classes=2).eval(), get_model(name, weights=weights).eval()
    own, expected = ours.state_dict(), theirs.state_dict()
    heads = {key for key in own if key.startswith(HEADS)}
    assert heads
    assert all(torch.equal(own[key], expected[key]) for key in own.keys() - heads)
    assert {key for key in expected.keys() - own.keys() if not key.startswith(HEADS)} <= {
        key for key in expected if key.endswith("num_batches_tracked")
    }
    pixels = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for map_, other in zip(ours.backbone(pixels).values(), theirs.backbone(pixels).values(), strict=True):  # type: ignore[operator]
            torch.testing.assert_close(map_, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", sorted(QUICK))
def test_begun_from_coco_it_is_read_back_and_trains_without_the_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    started = config(name, weights="coco")
    model = build_detector(started, num_classes=2, load_backbone=False)
    info = ModelInfo(config=started, categories=((1, "a"), (2, "b")), fingerprint="", epoch=1)
    save_model(tmp_path / "best", model, info)
    back, _ = load_model(tmp_path / "best")
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in back.state_dict().items())
    target = {"boxes": torch.tensor([[4.0, 6.0, 40.0, 50.0]]), "labels": torch.tensor([2])}
    terms = back.train()(torch.zeros(1, 3, 64, 96, dtype=torch.uint8), [target])
    assert all(bool(term.isfinite()) for term in terms.values())


@pytest.mark.parametrize("downloaded", [False, True])
def test_a_file_with_another_sha256_is_refused(
    downloaded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On its way, and where it lies already."""
    weights, path = serve("ssdlite320_mobilenet_v3_large", tmp_path, monkeypatch)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    if downloaded:
        stored = tmp_path / "torch" / "hub" / "checkpoints" / path.name
        stored.parent.mkdir(parents=True)
        path.rename(stored)
    with pytest.raises(ModelError, match=r"damaged, or not what its name says" if downloaded else "invalid hash value"):
        resolve_weights(config("ssdlite320_mobilenet_v3_large", weights="coco"))


def test_offline_cocos_weights_are_one_sentence_with_file_and_folder(offline: None, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_weights(config("fcos_resnet50_fpn", weights="coco"))
    assert caught.value.what.startswith("weights: fcos_resnet50_fpn_coco-99b0c9b7.pth is neither in ")
    assert str(tmp_path / "torch" / "hub" / "checkpoints") in caught.value.what
    assert "\n" not in caught.value.what


def test_frozen_stages_of_cocos_ssdlite_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve("ssdlite320_mobilenet_v3_large", tmp_path, monkeypatch)
    with pytest.raises(ModelError, match="frozen_stages: got 2, expected 0"):
        resolve_weights(config("ssdlite320_mobilenet_v3_large", weights="coco", frozen_stages=2))


# Going on from an own model


@pytest.fixture
def own_model(tmp_path: Path) -> Path:
    """The bundle's folder of a detector for the categories a and b."""
    info = ModelInfo(config=config(seed=9), categories=((1, "a"), (2, "b")), fingerprint="", epoch=1)
    save_model(tmp_path / "bundle" / "model.safetensors", build_detector(config(seed=9), num_classes=2), info)
    return tmp_path / "bundle"


@pytest.mark.parametrize("given", ["bundle", "file"])
@pytest.mark.parametrize("categories", [("a", "b"), ("a", "c"), ("a", "b", "c")])
def test_training_goes_on_from_an_own_model(own_model: Path, given: str, categories: tuple[str, ...]) -> None:
    path = own_model / "model.safetensors"
    asked = config(weights=str(own_model if given == "bundle" else path), seed=3)
    decided, told = resolve_weights(asked, categories)
    assert decided.initial_model == InitialModel(
        path=str(path.resolve()), sha256=file_sha256(path), same_categories=categories == ("a", "b")
    )
    assert ("has others" in told) == (categories != ("a", "b"))
    assert resolve_weights(decided, categories)[0] == decided
    fresh = build_detector(decided, num_classes=len(categories)).state_dict()
    model = build_detector(decided, num_classes=len(categories))
    load_initial_model(model, decided)
    stored = load_model(path)[0].state_dict()
    for key, tensor in model.state_dict().items():
        kept = key.startswith(HEADS) and categories != ("a", "b")
        assert torch.equal(tensor, (fresh if kept else stored)[key]), key


def test_the_first_epoch_begins_at_the_own_model(own_model: Path, tiny: Data) -> None:
    """At a rate that moves nothing, training returns the model that it went on from."""
    decided, _ = resolve_weights(config(weights=str(own_model), learning_rate=1e-12, num_epochs=1), ("a", "b"))
    (epoch,) = fit(decided, tiny)
    stored = load_model(own_model / "model.safetensors")[0]
    for key, parameter in stored.named_parameters():
        torch.testing.assert_close(epoch.state.model.get_parameter(key), parameter, msg=key)


def test_an_own_model_that_changed_is_noticed(own_model: Path) -> None:
    decided, _ = resolve_weights(config(weights=str(own_model)), ("a", "b"))
    path = own_model / "model.safetensors"
    save_model(path, build_detector(config(), num_classes=2), read_info(path))
    with pytest.raises(ModelError, match=r"model\.safetensors changed: expected a sha256 of \w{8}\.\.\., got"):
        check_initial_model(decided)
    path.unlink()
    with pytest.raises(ModelError, match=r"weights: .*model\.safetensors: cannot be read"):
        check_initial_model(decided)


@pytest.mark.parametrize(
    ("model", "file", "told"),
    [
        ("fcos_lite0", "bundle", "is of 'fcos_tiny', expected one of 'fcos_lite0'"),
        ("fcos_tiny", "none.safetensors", "no such file"),
    ],
)
def test_an_own_model_that_does_not_fit(own_model: Path, model: str, file: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        resolve_weights(config(model, weights=str(own_model.parent / file)))
