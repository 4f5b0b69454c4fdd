"""A training run on the disk: what is written when, resumed after a kill at any instant, shown in MLflow."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import epoch_report
from tests.images import write_data
from tests.vqc.training.test_loop import MEASURED, config
from vqc.data.dataset import Data, load_data
from vqc.epoch import EpochReport, MachineUse
from vqc.errors import ConfigError, DataError, ModelError
from vqc.files import LineFile, whole_lines
from vqc.models.checkpoint import load_model, read_info
from vqc.tracking.metric_names import epoch_figures
from vqc.tracking.mlflow_client import Tracker, default_uri
from vqc.tracking.mlflow_run import RunMirror
from vqc.training.run import Run, best_of, find_run, run_lock, run_names, start_run, train_run

COMMAND = "vqc train"


def started(results: Path, data: Data, name: str = "a") -> Run:
    return start_run(results, name, config=config(), data=data, command=COMMAND)


def trained(run: Run, data: Data, *, epochs: int | None = None) -> list[EpochReport]:
    """The reports of a run that is left after so many epochs."""
    reports = []
    for report in train_run(run, data, cache=run.folder.parent / "cache", gpu=None, on_step=None):
        reports.append(report)
        if len(reports) == epochs:
            break
    return reports


def weights(path: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_model(path)[0].state_dict().items()}


def computed(reports: list[EpochReport]) -> list[dict[str, object]]:
    return [report.model_dump(exclude=MEASURED) for report in reports]


@pytest.fixture(scope="module")
def whole(tiny: Data, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was never stopped."""
    run = started(tmp_path_factory.mktemp("results"), tiny, "whole")
    trained(run, tiny)
    return run


@pytest.fixture
def results(whole: Run, tmp_path: Path) -> Path:
    """A copy of the folder of results with that run in it."""
    return Path(shutil.copytree(whole.folder.parent, tmp_path / "results"))


def test_all_files_of_a_run(whole: Run) -> None:
    names = {path.name for path in whole.folder.iterdir()}
    assert names == {"run.json", "train_config.json", "reports.jsonl", "last.safetensors", "best_model.safetensors"}
    assert [report.epoch for report in whole.reports()] == [1, 2, 3]


def test_the_best_model_is_that_of_the_best_epoch(whole: Run) -> None:
    best = best_of(whole.reports())
    assert best is not None
    assert read_info(whole.best).epoch == best.epoch
    assert read_info(whole.best).scores == best.scores


def test_every_epoch_knows_what_the_machine_did(whole: Run) -> None:
    report = whole.reports()[-1]
    assert report.machine is not None
    assert report.machine.cpu_utilisation is None or 0 <= report.machine.cpu_utilisation <= 1
    assert report.machine.gpu_utilisation is None
    assert report.measured_ms is not None
    assert whole.info.started_ms < report.measured_ms


# Resuming


@pytest.mark.parametrize("epochs", [1, 2])
def test_resumed_after_an_epoch(whole: Run, tiny: Data, tmp_path: Path, epochs: int) -> None:
    run = started(tmp_path, tiny)
    trained(run, tiny, epochs=epochs)
    rest = trained(find_run(tmp_path, None), tiny)
    assert [report.epoch for report in rest] == list(range(epochs + 1, 4))
    assert computed(run.reports()) == computed(whole.reports())
    assert weights(run.best) == weights(whole.best)
    assert weights(run.last) == weights(whole.last)


def test_killed_between_the_checkpoint_and_the_line(whole: Run, results: Path, tiny: Data) -> None:
    run = find_run(results, "whole")
    run.reports_file.write_bytes(b"\n".join(whole_lines(run.reports_file)[:2]) + b"\n")
    assert computed(trained(run, tiny)) == computed(whole.reports()[2:])
    assert run.reports_file.read_bytes() == whole.reports_file.read_bytes()


def test_killed_within_the_line(whole: Run, results: Path, tiny: Data) -> None:
    run = find_run(results, "whole")
    run.reports_file.write_bytes(run.reports_file.read_bytes()[:-9])
    assert len(run.reports()) == 2
    trained(run, tiny)
    assert run.reports_file.read_bytes() == whole.reports_file.read_bytes()


def test_a_finished_run_has_nothing_left(results: Path, tiny: Data) -> None:
    assert trained(find_run(results, "whole"), tiny) == []


def test_other_data_is_refused(results: Path, tmp_path: Path) -> None:
    other = load_data(write_data(tmp_path / "other", train=4, val=2))
    with pytest.raises(DataError, match="changed since the run 'whole' started"):
        trained(find_run(results, "whole"), other)


def test_a_lost_checkpoint_is_told(results: Path, tiny: Data) -> None:
    run = find_run(results, "whole")
    run.last.unlink()
    with pytest.raises(ModelError, match="no such file"):
        trained(run, tiny)


@pytest.mark.parametrize("line", [b"{}", b"not json", b""])
def test_a_broken_line_is_told(results: Path, line: bytes) -> None:
    run = find_run(results, "whole")
    run.reports_file.write_bytes(line + b"\n")
    with pytest.raises(ModelError, match=r"reports.jsonl, line 1: not the report of an epoch"):
        run.reports()


def test_a_missing_line_is_told(results: Path) -> None:
    run = find_run(results, "whole")
    run.reports_file.write_bytes(b"\n".join(whole_lines(run.reports_file)[1:]) + b"\n")
    with pytest.raises(ModelError, match="line 1: got epoch 2, expected 1"):
        run.reports()


# Names


def test_a_name_is_taken_once(results: Path, tiny: Data) -> None:
    with pytest.raises(ConfigError, match="exists already") as caught:
        started(results, tiny, "whole")
    assert "vqc train --name whole --resume" in str(caught.value)


def test_the_latest_is_the_one_that_was_trained_last(results: Path, tiny: Data) -> None:
    started(results, tiny, "a")
    started(results, tiny, "z")
    (results / "a" / "reports.jsonl").write_bytes(b"")
    os.utime(results / "a" / "reports.jsonl", (2e9, 2e9))  # a file system's clock may tick only every few milliseconds
    assert set(run_names(results)) == {"whole", "a", "z"}
    assert find_run(results, None).info.name == "a"


@pytest.mark.parametrize(
    ("name", "told"), [("whol", "no training run in .* did you mean 'whole'"), ("zzzzz", "no training run")]
)
def test_an_unknown_name(results: Path, name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        find_run(results, name)


def test_only_one_process_trains_a_run(results: Path) -> None:
    run = find_run(results, "whole")
    with run_lock(run), pytest.raises(ConfigError, match="another process trains 'whole'"), run_lock(run):
        pass


# The best epoch


@pytest.mark.parametrize(
    ("values", "best"), [([0.1, 0.3, 0.2], 2), ([0.1, 0.3, 0.3], 3), ([0.0, 0.0], 2), ([None, None], 2), ([], None)]
)
def test_the_best_epoch(values: list[float | None], best: int | None) -> None:
    reports = [epoch_report(number, ap50=value or 0.0) for number, value in enumerate(values, start=1)]
    if None in values:
        unknown = reports[0].scores.model_copy(update={"ap50": None})
        reports = [report.model_copy(update={"scores": unknown}) for report in reports]
    found = best_of(reports)
    assert (found.epoch if found else None) == best


# Lines


@given(st.lists(st.text(st.characters(blacklist_characters="\n", blacklist_categories=["Cs"]))), st.binary())
def test_lines_survive_a_torn_end(tmp_path_factory: pytest.TempPathFactory, lines: list[str], torn: bytes) -> None:
    path = tmp_path_factory.mktemp("lines") / "file"
    with LineFile(path) as file:
        for line in lines:
            file.append(line)
    with path.open("ab") as raw:
        raw.write(torn.replace(b"\n", b""))
    with LineFile(path) as file:
        file.append("next")
    assert [line.decode() for line in whole_lines(path)] == [*lines, "next"]


# Figures


def test_what_is_not_known_is_not_logged() -> None:
    report = epoch_report(1, ap50=0.5)
    assert not any(name.startswith("system/gpu") for name in epoch_figures(report))
    watched = report.model_copy(update={"machine": MachineUse(gpu_power_w=61.5)})
    assert set(epoch_figures(watched)) - set(epoch_figures(report)) == {"system/gpu_power_w"}


# MLflow


def mirrored(run: Run, status: str = "FINISHED") -> str | None:
    results = run.folder.parent
    mirror = RunMirror(run, default_uri(results), artifacts=results / "mlartifacts")
    mirror.start()
    return mirror.stop(status, 60)  # type: ignore[arg-type]


@pytest.mark.slow
def test_mlflow_shows_a_run_once_however_often_it_is_told(results: Path) -> None:
    run = find_run(results, "whole")
    assert mirrored(run, "KILLED") is None
    assert mirrored(run) is None
    tracker = Tracker(default_uri(results))
    (known,) = tracker.runs({"vqc.run_id": run.info.run_id})
    assert (known.name, known.status, known.tags["vqc.state"]) == ("whole", "FINISHED", "completed")
    history = tracker._client.get_metric_history(known.run_id, "val/ap50")
    assert [(point.step, point.timestamp) for point in history] == [(r.epoch, r.measured_ms) for r in run.reports()]
    assert tracker._client.get_metric_history(known.run_id, "system/ram_used_gb")
    files = {file.path for file in tracker._client.list_artifacts(known.run_id)}
    assert files == {"train_config.json", "best_model.safetensors"}


def test_mlflow_away_is_a_sentence(results: Path) -> None:
    run = find_run(results, "whole")
    mirror = RunMirror(run, "http://127.0.0.1:9", artifacts=results / "mlartifacts")
    mirror.start()
    assert "cannot reach MLflow" in (mirror.stop("FINISHED", 60) or "")


def test_the_configuration_can_be_trained_again(whole: Run) -> None:
    from vqc.config import TrainConfig, load_record

    assert load_record(TrainConfig, whole.folder / "train_config.json") == config()
    assert json.loads((whole.folder / "run.json").read_text(encoding="utf-8"))["data"]["images"]["train"] == 9


@pytest.mark.parametrize(
    ("start", "now", "flags"), [(None, 2, " --threads 2"), (2, None, ""), (2, 2, ""), (2, 1, " --threads 1")]
)
def test_the_command_to_resume_repeats_threads_that_the_start_had_not(
    results: Path, tiny: Data, start: int | None, now: int | None, flags: str
) -> None:
    run = start_run(results, "a", config=config(), data=tiny, command=COMMAND, threads=start)
    assert replace(run, threads=now).resume_command == f"vqc train --name a --resume{flags}"
