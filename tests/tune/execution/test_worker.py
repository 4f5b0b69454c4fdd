"""A worker: trains epoch by epoch, keeps checkpoints, goes on where the last worker was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tune.execution.worker import Assignment, Reports, Worker, train, train_in_background
from vqc.config import TrainConfig
from vqc.data.dataset import Data
from vqc.epoch import EpochReport
from vqc.models.checkpoint import load_model, read_info
from vqc.training.state import read_report

CONFIG = TrainConfig(model="fcos_tiny", weights="none", image_size=(64, 64), num_epochs=3, batch_size=4)


WAYS = pytest.mark.parametrize("way", [train, train_in_background])


def assignment(folder: Path, *, after_epoch: int = 0) -> Assignment:
    return Assignment(
        config=CONFIG,
        metric="ap50",
        after_epoch=after_epoch,
        folder=folder / "t",
        cache=folder / "c",
        decided_after=frozenset(),
    )


def figures(report: EpochReport) -> dict[str, object]:
    """A report less what no two runs share."""
    measured = {"data_s", "train_s", "eval_s", "images_per_s", "peak_ram_gb", "peak_vram_gb", "machine", "measured_ms"}
    return {key: value for key, value in report.model_dump().items() if key not in measured}


@pytest.fixture(scope="module")
def whole(tiny: Data, tmp_path_factory: pytest.TempPathFactory) -> list[EpochReport]:
    """The reports of a trial that nobody disturbed."""
    worker = Worker(tiny, threads=1, reports=train)
    worker.begin(assignment(tmp_path_factory.mktemp("whole")))
    return [worker.epoch() for _ in range(3)]


@WAYS
def test_checkpoints_are_there_before_the_report(tiny: Data, tmp_path: Path, way: Reports) -> None:
    worker = Worker(tiny, threads=1, reports=way)
    worker.begin(assignment(tmp_path))
    report = worker.epoch()
    saved = read_report(tmp_path / "t" / "last.safetensors")
    assert saved.epoch == report.epoch
    assert read_info(tmp_path / "t" / "best.safetensors").epoch >= 1
    worker.release()
    assert not list((tmp_path / "t").glob("*.tmp"))


def test_weights_are_the_same_to_the_last_byte_whichever_way(tiny: Data, tmp_path: Path) -> None:
    saved = []
    for name, way in {"plain": train, "ahead": train_in_background}.items():
        reports = list(way(assignment(tmp_path / name), tiny))
        assert [report.epoch for report in reports] == [1, 2, 3]
        model, _ = load_model(tmp_path / name / "t" / "last.safetensors")
        saved.append(model.state_dict())
    assert all(torch.equal(saved[0][key], saved[1][key]) for key in saved[0])


@WAYS
@pytest.mark.parametrize(
    "heard", [0, 1, 2], ids=["journal lost two", "journal heard one epoch less", "journal heard all"]
)
def test_another_worker_goes_on_with_the_same_figures(
    tiny: Data, tmp_path: Path, whole: list[EpochReport], heard: int, way: Reports
) -> None:
    first = Worker(tiny, threads=1, reports=way)
    first.begin(assignment(tmp_path))
    for _ in range(2):
        first.epoch()
    first.release()
    second = Worker(tiny, threads=1, reports=way)
    second.begin(assignment(tmp_path, after_epoch=heard))
    reports = [second.epoch() for _ in range(3 - heard)]
    assert [figures(report) for report in reports] == [figures(report) for report in whole[heard:]]


def test_a_damaged_checkpoint_costs_its_epochs_and_nothing_else(
    tiny: Data, tmp_path: Path, whole: list[EpochReport]
) -> None:
    first = Worker(tiny, threads=1)
    first.begin(assignment(tmp_path))
    first.epoch()
    first.release()
    last = tmp_path / "t" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    draft = last.with_name(".best.safetensors.0123abcd.tmp")
    draft.touch()
    second = Worker(tiny, threads=1)
    second.begin(assignment(tmp_path, after_epoch=1))
    assert figures(second.epoch()) == figures(whole[0])
    assert not draft.exists()
    second.release()


@WAYS
def test_a_released_worker_has_let_go(tiny: Data, tmp_path: Path, way: Reports) -> None:
    worker = Worker(tiny, threads=1, reports=way)
    worker.begin(assignment(tmp_path))
    worker.epoch()
    assert worker.release() == 0
    with pytest.raises(StopIteration):
        worker.epoch()
