"""A worker: trains epoch by epoch, keeps checkpoints, goes on where the last worker was."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tune.execution.background_training import TrainingThread
from tune.execution.worker import Assignment, Reports, Worker, train, train_in_background
from vqc.config import TrainConfig
from vqc.data.dataset import Data
from vqc.epoch import EpochReport
from vqc.models.checkpoint import load_model, read_info, save_model
from vqc.training.state import read_report

CONFIG = TrainConfig(model="fcos_tiny", weights="none", image_size=(64, 64), num_epochs=3, batch_size=4)


def ahead(assignment: Assignment, data: Data) -> Iterator[EpochReport]:
    return train_in_background(assignment, data, thread=TrainingThread())


WAYS = pytest.mark.parametrize("way", [train, ahead])


def assignment(folder: Path, *, after_epoch: int = 0, every_s: float = 0.0, rung: int | None = None) -> Assignment:
    return Assignment(
        config=CONFIG,
        metric="ap50",
        after_epoch=after_epoch,
        folder=folder / "t",
        cache=folder / "c",
        decided_after=frozenset() if rung is None else frozenset({rung}),
        checkpoint_every_s=every_s,
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
    assert saved(tmp_path) == report.epoch
    assert read_info(tmp_path / "t" / "best.safetensors").epoch >= 1
    worker.release()
    assert not list((tmp_path / "t").glob("*.tmp"))


def test_weights_are_the_same_to_the_last_byte_whichever_way(tiny: Data, tmp_path: Path) -> None:
    weights = []
    for name, way in {"plain": train, "ahead": ahead}.items():
        reports = list(way(assignment(tmp_path / name), tiny))
        assert [report.epoch for report in reports] == [1, 2, 3]
        model, _ = load_model(tmp_path / name / "t" / "last.safetensors")
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


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


def saved(folder: Path) -> int:
    """The epoch that a trial would go on from; 0 is its start."""
    last = folder / "t" / "last.safetensors"
    return read_report(last).epoch if last.exists() else 0


@WAYS
@pytest.mark.parametrize(("every_s", "rung", "expected"), [(0.0, None, [1, 2]), (1e6, None, [0, 0]), (1e6, 1, [1, 1])])
def test_the_state_is_written_when_it_is_due_or_may_pause(
    tiny: Data, tmp_path: Path, way: Reports, every_s: float, rung: int | None, expected: list[int]
) -> None:
    worker = Worker(tiny, threads=1, reports=way)
    worker.begin(assignment(tmp_path, every_s=every_s, rung=rung))
    found = []
    for _ in expected:
        worker.epoch()
        found.append(saved(tmp_path))
    worker.release()
    assert found == expected


@WAYS
@pytest.mark.parametrize("rung", [None, 1])
def test_epochs_behind_the_state_are_repeated_exactly_and_the_best_weights_kept(
    tiny: Data, tmp_path: Path, whole: list[EpochReport], rung: int | None, way: Reports
) -> None:
    first = Worker(tiny, threads=1, reports=way)
    first.begin(assignment(tmp_path, every_s=1e6, rung=rung))
    reports = [first.epoch(), first.epoch()]
    first.release()
    best = max(reports, key=lambda report: (report.scores.ap50 or 0.0, -report.epoch))
    assert read_info(tmp_path / "t" / "best.safetensors").epoch == best.epoch
    second = Worker(tiny, threads=1, reports=way)
    second.begin(assignment(tmp_path, after_epoch=2, every_s=1e6, rung=rung))
    again = [second.epoch() for _ in range(3 - saved(tmp_path))]
    second.release()
    assert [figures(report) for report in again] == [figures(report) for report in whole[-len(again) :]]


def test_best_weights_of_an_epoch_that_the_journal_lost_do_not_stay(
    tiny: Data, tmp_path: Path, whole: list[EpochReport]
) -> None:
    """The state may be older than the best weights; both must be of epochs that the journal may know."""
    first = Worker(tiny, threads=1, reports=train)
    first.begin(assignment(tmp_path, every_s=1e6, rung=1))
    for _ in range(3):
        first.epoch()
    first.release()
    best = tmp_path / "t" / "best.safetensors"
    save_model(best, load_model(best)[0], read_info(best).model_copy(update={"epoch": 3}))
    second = Worker(tiny, threads=1, reports=train)
    second.begin(assignment(tmp_path, after_epoch=1, every_s=1e6, rung=1))
    assert second.epoch().epoch == 1
    assert read_info(best).epoch == 1
    second.release()


# A hot GPU


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What a thermometer will say, one reading after the other; then always its last. It is looked at often."""
    coming: list[float] = []
    read = lambda: coming.pop(0) if len(coming) > 1 else coming[0]  # noqa: E731
    monkeypatch.setattr("tune.execution.worker.thermometer", lambda uuid: read)
    monkeypatch.setattr("vqc.hardware.thermal.POLL_S", 0.01)
    return coming


@WAYS
def test_an_epoch_waits_for_a_hot_gpu_and_says_how_long(
    tiny: Data, tmp_path: Path, way: Reports, readings: list[float]
) -> None:
    readings += [86.9, 87.0, 85.0, 79.0, 79.0]  # before the first epoch; before the second; the third
    worker = Worker(tiny, threads=1, reports=way)
    worker.begin(dataclasses.replace(assignment(tmp_path), max_temperature_c=87.0))
    waited_s = [worker.epoch().cooling_s for _ in range(3)]
    assert [seconds > 0 for seconds in waited_s] == [False, True, False]
    assert read_report(tmp_path / "t" / "last.safetensors").cooling_s == waited_s[2]


def test_a_warm_room_does_not_end_the_night(
    tiny: Data, tmp_path: Path, readings: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    readings.append(99.0)
    monkeypatch.setattr("tune.execution.worker.LONGEST_COOLING_S", 0.05)
    worker = Worker(tiny, threads=1, reports=train)
    worker.begin(dataclasses.replace(assignment(tmp_path), max_temperature_c=87.0))
    assert worker.epoch().cooling_s >= 0.05


def test_a_trial_that_is_dropped_waits_no_longer(
    tiny: Data, tmp_path: Path, readings: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    readings.append(99.0)
    waiting = threading.Event()
    monkeypatch.setattr("tune.execution.worker.time.sleep", lambda seconds: waiting.set())
    hot = dataclasses.replace(assignment(tmp_path), max_temperature_c=87.0)
    epochs = train_in_background(hot, tiny, thread=TrainingThread())
    with ThreadPoolExecutor(1) as other:
        report = other.submit(next, epochs, None)
        assert waiting.wait(60)
        epochs.close()
        assert report.result() is None
