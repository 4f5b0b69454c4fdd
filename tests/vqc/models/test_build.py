"""Every detector of the table: built from its seed alone, trained a step, evaluated, written and read back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchvision.models import WeightsEnum, detection

from tests.models import decided
from vqc.config import TrainConfig
from vqc.errors import ModelError
from vqc.models.build import build_detector, loss_count, move_detector
from vqc.models.checkpoint import ModelInfo, load_model, save_model
from vqc.models.registry import ARCHITECTURES, check_model

LIGHT = {"fcos_lite0", "fcos_tiny", "ssdlite320_mobilenet_v3_large"}


def every(names: Iterable[str]) -> pytest.MarkDecorator:
    cases = [name if name in LIGHT else pytest.param(name, marks=pytest.mark.slow) for name in names]
    return pytest.mark.parametrize("name", cases)


EVERY = every(ARCHITECTURES)
EVERY_PRETRAINED = every(name for name, found in ARCHITECTURES.items() if found.backbone_weights)
SIZE = (64, 96)
FORMATS = (torch.contiguous_format, torch.channels_last)


def config(name: str = "fcos_tiny", **values: object) -> TrainConfig:
    return TrainConfig.model_validate({"model": name, "weights": "none", "image_size": SIZE, "seed": 4, **values})


def targets(*counts: int) -> list[dict[str, Tensor]]:
    """So many boxes on each image, with the labels 1 and 2."""
    row = torch.tensor([[4.0, 6.0, 40.0, 50.0], [50.0, 10.0, 90.0, 40.0]])
    return [{"boxes": row[:count].clone(), "labels": torch.arange(1, 3)[:count]} for count in counts]


def pictures(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def train_step(model: nn.Module, *counts: int) -> dict[str, float]:
    torch.manual_seed(0)
    terms = model.train()(pictures(len(counts)), targets(*counts))
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    return {name: float(term.detach()) for name, term in terms.items()}


@EVERY
def test_trains_with_a_good_part_in_the_batch_evaluates_and_is_read_back(name: str, tmp_path: Path) -> None:
    model = build_detector(config(name), num_classes=2)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    losses = train_step(model, 2, 0)
    assert all(math.isfinite(value) for value in losses.values())
    torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3).step()
    assert any(not torch.equal(parameter, before[key]) for key, parameter in model.named_parameters())

    info = ModelInfo(config=config(name), categories=((3, "a"), (7, "b")), fingerprint="", epoch=1)
    save_model(tmp_path / "best", model, info)
    back, told = load_model(tmp_path / "best")
    assert told == info
    with torch.inference_mode():
        answers, again = model.eval()(pictures(2)), back(pictures(2))
    for answer, same in zip(answers, again, strict=True):
        assert set(answer) == {"boxes", "scores", "labels"}
        assert all(torch.equal(answer[key], same[key]) for key in answer)
        assert (answer["boxes"] >= 0).all()
        assert (answer["boxes"] <= torch.tensor([96, 64, 96, 64])).all()
        assert ((answer["scores"] >= 0) & (answer["scores"] <= 1)).all()
        assert set(answer["labels"].tolist()) <= {1, 2}


@EVERY
def test_gradients_lie_in_memory_as_their_weights(name: str) -> None:
    """A fused step of the optimiser goes through both by address."""
    model = build_detector(config(name), num_classes=2)
    train_step(model, 2, 1)
    lying = [
        (one.stride(), one.grad.stride()) for one in model.parameters() if one.grad is not None and min(one.shape) > 1
    ]
    assert lying
    assert all(weight == gradient for weight, gradient in lying)


@pytest.mark.parametrize(
    "name", [*sorted(LIGHT), pytest.param("fasterrcnn_mobilenet_v3_large_320_fpn", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("counts", [(0, 0), (1,), (0,)], ids=str)
def test_batches_of_good_parts_and_of_one_image_train(name: str, counts: tuple[int, ...]) -> None:
    """An epoch's last batch may be one image, and SSDlite's last map is one cell."""
    assert all(
        math.isfinite(value) for value in train_step(build_detector(config(name), num_classes=2), *counts).values()
    )


@pytest.mark.parametrize(
    "name",
    [
        "ssdlite320_mobilenet_v3_large",
        "fcos_lite0",
        pytest.param("fasterrcnn_mobilenet_v3_large_320_fpn", marks=pytest.mark.slow),
        pytest.param("fcos_resnet50_fpn", marks=pytest.mark.slow),
    ],
)
def test_a_model_begun_from_a_backbone_is_read_back_without_the_network(
    name: str, tmp_path: Path, offline: None
) -> None:
    """Its structure differs from one begun at random: frozen batch norm, no reduced tail."""
    started = config(name, weights="backbone")
    model = build_detector(started, num_classes=2, load_backbone=False)
    plain = build_detector(config(name), num_classes=2)
    assert {k: v.shape for k, v in model.state_dict().items()} != {k: v.shape for k, v in plain.state_dict().items()}
    save_model(
        tmp_path / "best", model, ModelInfo(config=started, categories=((1, "a"), (2, "b")), fingerprint="", epoch=1)
    )
    back, _ = load_model(tmp_path / "best")
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in back.state_dict().items())


# Mixed precision


@pytest.fixture
def float_inputs(monkeypatch: pytest.MonkeyPatch) -> set[torch.dtype]:
    """The number formats that losses on boxes and non-maximum suppression are given."""
    seen: set[torch.dtype] = set()

    def spied(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def spy(*inputs: Any, **options: Any) -> Tensor:
            seen.update(one.dtype for one in inputs if isinstance(one, Tensor) and one.is_floating_point())
            return plain(*inputs, **options)

        return spy

    for module, name in (
        (nn.functional, "l1_loss"),
        (nn.functional, "smooth_l1_loss"),
        (detection.fcos, "generalized_box_iou_loss"),
        (detection._utils, "generalized_box_iou_loss"),
        (torchvision.ops.boxes, "batched_nms"),
    ):
        monkeypatch.setattr(module, name, spied(getattr(module, name)))
    return seen


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Boxes as they were decoded, each with the exact ones of the same regression."""
    pairs: list[tuple[Tensor, Tensor]] = []

    def spied(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def spy(coder: object, regression: Tensor, anchors: Tensor) -> Tensor:
            found = plain(coder, regression, anchors)
            pairs.append((found.detach(), plain(coder, regression.detach().double(), anchors.double())))
            return found

        return spy

    for coder, name in ((detection._utils.BoxCoder, "decode_single"), (detection._utils.BoxLinearCoder, "decode")):
        monkeypatch.setattr(coder, name, spied(getattr(coder, name)))
    return pairs


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_boxes_and_their_losses_are_float32_under_autocast(
    name: str, dtype: torch.dtype, float_inputs: set[torch.dtype], decoded: list[tuple[Tensor, Tensor]]
) -> None:
    model = build_detector(config(name), num_classes=2)
    with torch.autocast("cpu", dtype=dtype):
        losses = train_step(model, 2, 0)
        answers = model.eval()(pictures(2))
    assert all(math.isfinite(value) for value in losses.values())
    assert {tensor.dtype for answer in answers for tensor in answer.values()} == {torch.float32, torch.int64}
    assert float_inputs == {torch.float32}
    assert decoded
    for found, exact in decoded:
        assert bool(((found - exact).abs() < 0.05).all())  # pixels; bfloat16 steps by 0.5 beyond 64


# Normalisation


@EVERY_PRETRAINED
def test_an_image_is_trained_alike_with_any_others_where_weights_are_pretrained(name: str) -> None:
    """All norms are in training mode; in double precision, because an untrained network magnifies rounding."""
    model: Any = build_detector(config(name, weights="backbone"), num_classes=2, load_backbone=False).double()
    heads = [model.rpn.head, model.roi_heads.box_head] if hasattr(model, "rpn") else [model.head]
    answers = []
    for count in (1, 3):
        maps = model.backbone(pictures(3)[:count].double() / 255)
        given = [list(maps.values()), nn.functional.adaptive_avg_pool2d(next(iter(maps.values())), 7)]
        answers.append([maps, *(head(one) for head, one in zip(heads, given, strict=False))])
    for one, among in zip(*map(tree_leaves, answers), strict=True):
        torch.testing.assert_close(one[0], among[0])


# Weights at the start


def start(seed: int) -> dict[str, Tensor]:
    return build_detector(config(seed=seed), num_classes=2).state_dict()


def test_the_start_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = start(4)
    torch.manual_seed(2)
    torch.rand(5)
    second = start(4)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, second[name]) for name, tensor in start(5).items())


def test_the_global_stream_is_not_moved() -> None:
    before = torch.get_rng_state()
    start(4)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_what_an_untrained_detector_returns_is_above_its_threshold(name: str) -> None:
    model = build_detector(config(name), num_classes=2).eval()
    with torch.inference_mode():
        (answer,) = model(pictures(1))
    assert (answer["scores"] >= ARCHITECTURES[name].score_threshold).all()
    assert answer["scores"].tolist() == sorted(answer["scores"].tolist(), reverse=True)


@EVERY
def test_the_registry_knows_the_finest_feature_map(name: str) -> None:
    model = build_detector(config(name), num_classes=1).eval()
    with torch.inference_mode():
        maps = model.get_submodule("backbone")(torch.zeros(1, 3, 128, 128))
    assert max(one.shape[-1] for one in maps.values()) == 128 / ARCHITECTURES[name].finest_stride_px


@pytest.mark.parametrize("classes", [1, 5])
def test_labels_have_room_for_every_category(classes: int) -> None:
    model = build_detector(config(), num_classes=classes)
    boxes = torch.tensor([[4.0, 4.0, 30.0, 30.0]])
    terms = model(pictures(1), [{"boxes": boxes, "labels": torch.tensor([classes])}])
    assert all(math.isfinite(float(term.detach())) for term in terms.values())


IMAGENET = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])


@pytest.mark.parametrize(("name", "expected"), [("fcos_tiny", IMAGENET), ("fcos_lite0", torch.ones(3))])
def test_pixels_are_normalised_as_the_backbone_expects(name: str, expected: Tensor) -> None:
    model = build_detector(config(name), num_classes=1)
    images, _ = model.get_submodule("transform")(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8))
    torch.testing.assert_close(images.tensors[0, :, 0, 0], expected)
    assert images.image_sizes == [(64, 64)]


def test_pixels_are_normalised_alike_in_either_memory_format() -> None:
    transform = build_detector(config(), num_classes=1).get_submodule("transform")
    (planes, _), (last, _) = (transform(pictures(2).contiguous(memory_format=kind)) for kind in FORMATS)
    assert torch.equal(planes.tensors, last.tensors)
    assert last.tensors.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("device", ["cpu", "meta"])  # "meta" stands in for a GPU
def test_weights_are_channels_last(device: str) -> None:
    model = move_detector(build_detector(config(), num_classes=2), torch.device(device))
    kernels = [one for one in model.get_submodule("backbone").parameters() if one.dim() == 4 and one.shape[-1] > 1]
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in kernels)


def test_detections_do_not_depend_on_the_memory_format() -> None:
    model, _ = decided("fcos_tiny", SIZE)
    with torch.inference_mode():
        last = model(pictures(2))
        planes = model.to(memory_format=torch.contiguous_format)(pictures(2))  # type: ignore[call-overload]
    for one, other in zip(last, planes, strict=True):
        assert len(one["scores"]) > 10
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


# The count that a loss is divided by


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_loss_terms_times_their_count_add_up_over_the_images(name: str) -> None:
    """So a batch can be computed in parts; batch norm is in evaluation mode, or it would see each part by itself."""
    model = build_detector(config(name), num_classes=2).double()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    given = [{**target, "boxes": target["boxes"].double()} for target in targets(2, 0, 1)]
    whole = model(pictures(3), given)
    count = int(loss_count(model))
    sums, counts = dict.fromkeys(whole, 0.0), []
    for image, target in zip(pictures(3), given, strict=True):
        terms = model(image[None], [target])
        counts.append(int(loss_count(model)))
        for term, value in terms.items():
            sums[term] += float(value.detach()) * max(1, counts[-1])
    assert sum(counts) == count > 0
    assert counts[1] == 0
    assert sums["bbox_regression"] / count == pytest.approx(float(whole["bbox_regression"].detach()))


def test_without_foreground_cells_detectors_count_images() -> None:
    model = build_detector(config("fasterrcnn_mobilenet_v3_large_320_fpn"), num_classes=2)
    model(pictures(2), targets(2, 0))
    assert loss_count(model) == 2


def test_torchvisions_own_reading_of_weights_is_put_back() -> None:
    before = WeightsEnum.get_state_dict
    build_detector(config("ssdlite320_mobilenet_v3_large", weights="backbone"), num_classes=2, load_backbone=False)
    assert WeightsEnum.get_state_dict is before


# Names and weights


@pytest.mark.parametrize(
    ("name", "hint"),
    [("fasterrcnn_resnet50", "; did you mean 'fasterrcnn_resnet50_fpn'?"), ("yolo", "expected one of"), ("", "got ''")],
)
def test_an_unknown_name(name: str, hint: str) -> None:
    for ask in (check_model, lambda wrong: build_detector(config(wrong), num_classes=1)):
        with pytest.raises(ModelError) as caught:
            ask(name)
        assert hint in caught.value.what
        assert caught.value.command == "vqc models"


def test_weights_must_be_decided_before_anything_is_built() -> None:
    with pytest.raises(ModelError, match="'auto' must be resolved"):
        build_detector(config(weights="auto"), num_classes=1)


@pytest.mark.parametrize(("floor", "found"), [(0.0, True), (0.5, False)])
def test_what_scores_below_the_floor_is_not_returned(floor: float, found: bool) -> None:
    """An untrained FCOS gives every cell about 0.01."""
    model = build_detector(config(score_floor=floor), num_classes=2).eval()
    with torch.inference_mode():
        (answer,) = model(pictures(1))
    assert bool(len(answer["scores"])) is found
