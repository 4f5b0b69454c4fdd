"""The good tiles of an epoch come partly from where the model finds something that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.images import write_data
from vqc.config import TrainConfig
from vqc.data.dataset import load_data
from vqc.data.loader import FittedImages
from vqc.data.tiles.views import TilePlan
from vqc.hardware.memory import MicroBatch
from vqc.hardware.precision import Precision
from vqc.models.checkpoint import ModelInfo
from vqc.training.false_alarms import false_alarms
from vqc.training.state import LoopState

CPU = Precision(device=torch.device("cpu"), dtype=torch.float32)


class Bright(nn.Module):
    """Finds one defect on each picture, the surer the brighter it is, and nothing on the darker half of them."""

    def __init__(self, dark: float) -> None:
        super().__init__()
        self.dark = dark

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        means = [float(one.float().mean()) / 255 for one in images]
        found = [[[1.0, 1.0, 9.0, 9.0]] if mean > self.dark else [] for mean in means]
        return [
            {
                "boxes": torch.tensor(boxes).reshape(-1, 4),
                "scores": torch.tensor([mean] * len(boxes)),
                "labels": torch.ones(len(boxes), dtype=torch.int64),
            }
            for boxes, mean in zip(found, means, strict=True)
        ]


@pytest.fixture
def images(tmp_path: Path) -> FittedImages:
    data = load_data(write_data(tmp_path))
    plan = TilePlan(tile_px=32, overlap_px=16, whole=False)
    return FittedImages(data, "train", size=(64, 64), cache=None, tiles=plan, for_training=True)


def found(images: FittedImages, *, dark: float = 0.0, epoch: int = 2) -> list[int]:
    config = TrainConfig.model_validate({"model": "fcos_tiny", "weights": "none", "image_size": 64, "tile_px": 32})
    info = ModelInfo(config=config, categories=((1, "scratch"),), fingerprint="", tiles=None, epoch=1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    state = LoopState(info=info, step=0, model=Bright(dark), optimizer=optimizer, scaler=CPU.scaler())
    return false_alarms(state, images, epoch=epoch, precision=CPU, micro=MicroBatch(size=4))


def test_the_highest_false_alarms_are_taken(images: FittedImages) -> None:
    hard = found(images)
    means = {index: float(images[index].mean()) for index in images.chosen.good}
    assert hard == found(images)
    assert len(hard) == images.chosen.most_hard > 1
    assert [means[index] for index in hard] == sorted((means[index] for index in hard), reverse=True)
    assert set(hard) <= set(images.chosen.good)
    assert min(means[index] for index in hard) >= min(means.values())


def test_another_epoch_examines_other_tiles(images: FittedImages) -> None:
    assert len({tuple(found(images, epoch=epoch)) for epoch in range(2, 8)}) > 1


def test_without_a_false_alarm_none_is_hard(images: FittedImages) -> None:
    assert found(images, dark=1.0) == []


def test_nothing_is_looked_for_before_the_first_epoch(images: FittedImages) -> None:
    assert found(images, epoch=1) == []
