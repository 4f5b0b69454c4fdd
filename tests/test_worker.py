"""A worker: trains epoch by epoch, keeps checkpoints, goes on where the last worker was."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune.worker import Assignment, Worker
from vqc.checkpoint import read_info, read_report
from vqc.coco import Data
from vqc.config import TrainConfig
from vqc.epoch import EpochReport

CONFIG = TrainConfig(model="fcos_tiny", weights="none", image_size=(64, 64), num_epochs=3, batch_size=4)


def assignment(folder: Path, *, after_epoch: int = 0) -> Assignment:
    return Assignment(config=CONFIG, metric="ap50", after_epoch=after_epoch, folder=folder / "t", cache=folder / "c")


def figures(report: EpochReport) -> dict[str, object]:
    """A report less what no two runs share."""
    measured = {"data_s", "train_s", "eval_s", "images_per_s", "peak_ram_gb", "peak_vram_gb", "machine", "measured_ms"}
    return {key: value for key, value in report.model_dump().items() if key not in measured}


@pytest.fixture
def whole(tiny: Data, tmp_path: Path) -> list[EpochReport]:
    """The reports of a trial that nobody disturbed."""
    worker = Worker(tiny, threads=1)
    worker.begin(assignment(tmp_path / "whole"))
    return [worker.epoch() for _ in range(3)]


def test_checkpoints_are_there_before_the_report(tiny: Data, tmp_path: Path) -> None:
    worker = Worker(tiny, threads=1)
    worker.begin(assignment(tmp_path))
    report = worker.epoch()
    assert read_report(tmp_path / "t" / "last.safetensors") == report
    assert read_info(tmp_path / "t" / "best.safetensors").epoch == 1


@pytest.mark.parametrize("heard", [1, 2], ids=["journal heard one epoch less", "journal heard all"])
def test_another_worker_goes_on_with_the_same_figures(
    tiny: Data, tmp_path: Path, whole: list[EpochReport], heard: int
) -> None:
    first = Worker(tiny, threads=1)
    first.begin(assignment(tmp_path))
    for _ in range(2):
        first.epoch()
    first.release()
    second = Worker(tiny, threads=1)
    second.begin(assignment(tmp_path, after_epoch=heard))
    reports = [second.epoch() for _ in range(3 - heard)]
    assert [figures(report) for report in reports] == [figures(report) for report in whole[heard:]]


def test_a_damaged_checkpoint_costs_its_epochs_and_nothing_else(
    tiny: Data, tmp_path: Path, whole: list[EpochReport]
) -> None:
    first = Worker(tiny, threads=1)
    first.begin(assignment(tmp_path))
    first.epoch()
    last = tmp_path / "t" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    second = Worker(tiny, threads=1)
    second.begin(assignment(tmp_path, after_epoch=1))
    assert figures(second.epoch()) == figures(whole[0])


def test_a_released_worker_has_let_go(tiny: Data, tmp_path: Path) -> None:
    worker = Worker(tiny, threads=1)
    worker.begin(assignment(tmp_path))
    worker.epoch()
    assert worker.release() == 0
    with pytest.raises(StopIteration):
        worker.epoch()
