"""``vqc train`` as a person meets it: sentences, files, exit status, Ctrl-C, the terminal."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.builders import epoch_report
from tests.cards import out_of_memory
from tests.vqc.training.test_loop import MEASURED, config
from vqc.cli.main import main
from vqc.config import TrainConfig, load_record, shipped_settings
from vqc.data.dataset import Data
from vqc.epoch import MachineUse
from vqc.errors import NonFiniteLossError
from vqc.hardware.gpu import GpuReading, choose_gpu
from vqc.hardware.thermal import ThermalGuard
from vqc.reporting.live_display import TrainDisplay, epoch_line
from vqc.training.run import find_run

FILES = {"run.json", "train_config.json", "reports.jsonl", "last.safetensors", "best_model.safetensors", "training.log"}
AWAY = "http://127.0.0.1:9"  # nobody listens: MLflow's own start takes seconds, and nothing may depend on it


@pytest.fixture
def folder(tmp_path: Path, tiny: Data, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a small configuration; the data is given by its path."""
    monkeypatch.chdir(tmp_path)
    values = {**config().model_dump(mode="json"), "num_epochs": 2}
    (tmp_path / "small.json").write_text(json.dumps(values), encoding="utf-8")
    return tmp_path


def words(tiny: Data, *more: str) -> list[str]:
    return ["train", "--config", "small.json", "--data", str(tiny.root), "--mlflow", AWAY, *more]


def test_a_run_from_beginning_to_end(folder: Path, tiny: Data, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tiny, "--gpu", "0", "--name", "a")) == 0
    shown = capsys.readouterr().out
    run = find_run(folder / "results", "a")
    assert {path.name for path in run.folder.iterdir()} - {"lock"} == FILES
    assert "No GPU found: the CPU trains instead of GPU 0." in shown
    assert "epoch 2 of 2: loss" in shown
    assert "Best on val: AP50" in shown
    assert "MLflow is behind: cannot reach MLflow" in shown
    assert "vqc train --name a --resume" in shown
    log = (run.folder / "training.log").read_text(encoding="utf-8").splitlines()
    assert [line[21:].partition(":")[0] for line in log] == ["started", "epoch 1 of 2", "epoch 2 of 2", "completed"]
    assert run.config == config(num_epochs=2)


def test_resume_of_a_finished_run_tells_so(folder: Path, tiny: Data, capsys: pytest.CaptureFixture[str]) -> None:
    main(words(tiny, "--epochs", "1"))
    capsys.readouterr()
    assert main(["train", "--resume", "--mlflow", AWAY]) == 0
    assert "1 of 1 epochs are done." in capsys.readouterr().out


def test_a_runs_configuration_trains_again(folder: Path, tiny: Data) -> None:
    main(words(tiny, "--epochs", "1", "--name", "a"))
    again = ["train", "--config", "results/a/train_config.json", "--data", str(tiny.root), "--mlflow", AWAY]
    assert main([*again, "--name", "b"]) == 0
    first, second = (find_run(folder / "results", name).reports() for name in "ab")
    assert [r.model_dump(exclude=MEASURED) for r in first] == [r.model_dump(exclude=MEASURED) for r in second]


@pytest.mark.slow
def test_profile_writes_a_trace_and_scalars(folder: Path, tiny: Data) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(words(tiny, "--name", "a", "--profile")) == 0
    written = folder / "results/a/profile"
    assert (written / "trace.json.gz").stat().st_size > 1000
    assert "aten::" in (written / "operators.txt").read_text(encoding="utf-8")
    events = EventAccumulator(str(written)).Reload()
    reports = find_run(folder / "results", "a").reports()
    assert [point.value for point in events.Scalars("loss/total")] == pytest.approx(
        [report.losses["total"] for report in reports]
    )


# Mistakes


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--config", "none.json"], "none.json: no such file"),
        (["--epochs", "0"], "--epochs: num_epochs: got 0, expected greater than or equal to 1"),
        (["--threads", "0"], f"--threads: got 0, expected 1 to {os.cpu_count()}, which is every core"),
        (["--name", "a/b"], "--name: got 'a/b', expected up to 40 letters"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--resume"], "--resume: no training run in results"),
        (["--resume", "--epochs", "3"], "command line: --epochs: expected it without --resume"),
        (["--config", "float16.json"], "got 'float16' without a GPU"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], told: str
) -> None:
    values = {**config().model_dump(mode="json"), "gpu_optimization": {"mixed_precision": "float16"}}
    (folder / "float16.json").write_text(json.dumps(values), encoding="utf-8")
    given = [] if "--config" in argv or "--resume" in argv else ["--config", "small.json"]
    assert main(["train", *given, *argv]) == 2
    assert told in capsys.readouterr().err
    assert not list(folder.glob("results/*/run.json"))


def test_a_loss_that_is_not_finite(
    folder: Path, tiny: Data, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*args: object, **more: object) -> object:
        raise NonFiniteLossError(step=3, losses={"total": float("nan")}, learning_rate=1.0, scale=1.0)

    monkeypatch.setattr("vqc.training.loop.fit", explode)
    assert main(words(tiny, "--name", "a")) == 2
    assert "vqc train: the loss is not finite at step 3" in capsys.readouterr().err
    assert "NonFiniteLossError" in (folder / "results/a/training.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [out_of_memory(), MemoryError()], ids=["of the GPU", "of the machine"])
@pytest.mark.parametrize("at", ["vqc.training.loop.build_detector", "vqc.models.build.FixedAnchors.forward"])
def test_memory_that_is_too_small_is_one_sentence(
    folder: Path,
    tiny: Data,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    error: Exception,
) -> None:
    """Neither the detector itself, nor a step on one image, needs a traceback."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(at, fail)
    assert main(words(tiny, "--name", "a")) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("vqc train: ")
    assert "does not fit into memory" in sentence
    assert "a smaller image_size" in sentence
    assert "ended: " in (folder / "results/a/training.log").read_text(encoding="utf-8")


# Which device


@pytest.mark.parametrize(("asked", "gpu"), [(None, 0), (0, 0), (1, 1)])
def test_the_gpu_that_is_asked_for(monkeypatch: pytest.MonkeyPatch, asked: int | None, gpu: int) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose_gpu(asked) == (gpu, "")


@pytest.mark.parametrize("asked", [-1, 2])
def test_a_gpu_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, folder: Path, asked: int, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert main(["train", "--gpu", str(asked)]) == 2
    assert f"--gpu: got {asked}, expected 0 to 1" in capsys.readouterr().err


def test_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqc.hardware.gpu.gpu_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)  # the driver counts it all the same
    gpu, remark = choose_gpu(0)
    assert gpu is None
    assert "torch-backend=auto" in remark


def test_without_a_gpu_the_cpu_configuration_is_the_default(
    folder: Path, tiny: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", str(tiny.root), "--epochs", "1", "--mlflow", AWAY, "--name", "a"]) == 0
    path = shipped_settings("train_config_cpu.json")
    assert f"The CPU configuration is used ({path})." in capsys.readouterr().out
    shipped = load_record(TrainConfig, path)
    expected = shipped.model_copy(update={"num_epochs": 1, "weights": "backbone"})
    assert find_run(folder / "results", "a").config == expected


# Stopping


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal as a POSIX shell does")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (9, -9)])  # Windows has no SIGKILL
def test_stopped_and_resumed_equals_never_stopped(folder: Path, tiny: Data, number: int, status: int) -> None:
    values = json.loads((folder / "small.json").read_text(encoding="utf-8"))
    (folder / "small.json").write_text(json.dumps({**values, "num_epochs": 12}), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-m", "vqc.cli.main", *words(tiny, "--name", "a")], stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 2"):
                os.kill(process.pid, number)
                break
        rest = process.stdout.read()
    assert process.returncode == status
    assert ("vqc train --name a --resume" in rest) == (number == signal.SIGINT)
    stopped = len(find_run(folder / "results", "a").reports())
    assert 2 <= stopped < 12
    assert main(["train", "--resume", "--mlflow", AWAY]) == 0
    assert main(words(tiny, "--name", "b")) == 0
    first, second = (find_run(folder / "results", name).reports() for name in "ab")
    assert [r.model_dump(exclude=MEASURED) for r in first] == [r.model_dump(exclude=MEASURED) for r in second]


# Heat


def test_the_guard_warns_once_and_waits_until_cool(monkeypatch: pytest.MonkeyPatch) -> None:
    cooling = iter([84.0, 79.0, 74.0, 71.0])
    reading = GpuReading(name="", utilisation=None, used_gb=1, total_gb=6, temperature_c=None, power_w=None)
    monkeypatch.setattr(
        "vqc.hardware.thermal.read_gpu", lambda uuid: dataclasses.replace(reading, temperature_c=next(cooling))
    )
    said: list[str] = []
    guard = ThermalGuard(uuid="GPU-1", limit_c=80.0, pause=lambda seconds: False, say=said.append)
    guard.after_epoch(84.0)
    assert next(cooling, None) is None
    assert [line[:24] for line in said] == [
        "The GPU reached 84 °C, e",
        "The GPU is at 84 °C: wai",
        "Waited 0 s for the GPU t",
    ]


def test_it_warns_again_only_after_it_was_cool() -> None:
    said: list[str] = []
    guard = ThermalGuard(uuid="GPU-1", limit_c=None, pause=lambda seconds: False, say=said.append)
    for temperature_c in (81.0, 82.0, None, 70.0, 83.0):
        guard.after_epoch(temperature_c)
    assert [line[:22] for line in said] == ["The GPU reached 81 °C,", "The GPU reached 83 °C,"]


# The terminal


def screen(progress: TrainDisplay, *, width: int = 80, ascii_only: bool = False) -> str:
    from rich.console import Console, Group

    stream = io.StringIO()
    Console(file=stream, width=width).print(Group(*progress.lines(ascii_only=ascii_only)))
    return stream.getvalue()


def progress_at(epochs: int, *, clock: list[float]) -> TrainDisplay:
    shown = TrainDisplay(
        "parts", config(num_epochs=6), reports=[], gpu=None, stream=io.StringIO(), live=False, clock=lambda: clock[0]
    )
    for number in range(1, epochs + 1):
        shown.on_epoch(epoch_report(number, ap50=0.1 * number))
    return shown


def test_before_the_first_epoch_nothing_is_promised() -> None:
    shown = screen(progress_at(0, clock=[0.0]))
    assert "epoch 1 of 6" in shown
    assert "time left: known after the first epoch" in shown
    assert "no epoch is finished yet" in shown


def test_time_left_counts_down_from_the_pace_of_an_epoch() -> None:
    clock = [100.0]
    shown = progress_at(2, clock=clock)
    assert shown.left_s() == pytest.approx(4 * 2.3)
    clock[0] += 1.3
    assert shown.left_s() == pytest.approx(4 * 2.3 - 1.3)
    clock[0] += 1e6
    assert shown.left_s() == 0


def test_the_live_display() -> None:
    shown = screen(progress_at(3, clock=[0.0]))
    assert "epoch 4 of 6" in shown
    assert "0.300, best 0.300 after epoch 3" in shown
    assert "█" in shown
    assert "memory" in shown
    assert screen(progress_at(3, clock=[0.0]), ascii_only=True).count("#") >= 2


@pytest.mark.parametrize("asked", [False, True])
def test_it_says_that_it_is_about_to_stop(asked: bool) -> None:
    shown = TrainDisplay("a", config(), reports=[], gpu=None, stream=io.StringIO(), live=False, stopping=lambda: asked)
    assert ("Stopping after this epoch" in screen(shown)) == asked


def test_it_draws_in_a_terminal_and_leaves_what_was_said() -> None:
    stream = io.StringIO()
    with TrainDisplay("parts", config(), reports=[], gpu=None, stream=stream, live=True) as shown:
        shown.on_step(1, 9)
        shown.say("The GPU reached 84 °C")
        shown.on_epoch(epoch_report(1, ap50=0.5))
        time.sleep(0.3)
    assert "The GPU reached 84 °C" in stream.getvalue()
    assert "epoch 2 of 3" in stream.getvalue()


def test_a_line_says_nothing_of_what_is_not_known() -> None:
    blank = epoch_report(1, ap50=0.5)
    nothing = blank.model_copy(update={"scores": blank.scores.model_copy(update={"ap": None, "ap50": None})})
    line = epoch_line([nothing], config())
    assert line.startswith("epoch 1 of 3: loss 2.300, AP50 -, AP -, 2.3 s")
    assert "GPU" not in line
    assert "CPU" not in line
    assert "best" not in line


def test_a_line_with_a_gpu() -> None:
    machine = MachineUse(gpu_utilisation=0.93, gpu_temperature_c=71.2, cpu_utilisation=0.4)
    report = epoch_report(1, ap50=0.5).model_copy(update={"machine": machine, "peak_vram_gb": 5.25})
    assert epoch_line([report], config()).endswith("5.2 GB of GPU memory, GPU 93 %, 71 °C")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import contextlib, io, sys; from vqc.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main(['train', '--help'])\n"
        "print(sorted({'torch', 'mlflow', 'pydantic', 'rich', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What torch was told on a machine with two cores."""
    told: list[int] = []
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    return told


def resumed_with(threads: list[int], *flags: str) -> int:
    """The threads of a run of that name that is resumed."""
    threads.clear()
    assert main(["train", "--name", "a", "--resume", "--mlflow", AWAY, *flags]) == 0
    return threads[0]


@pytest.mark.parametrize(("asked", "expected"), [([], 1), (["--threads", "2"], 2)])
def test_one_core_stays_free_unless_it_is_asked_for_then_a_resumed_run_takes_it_too(
    folder: Path, tiny: Data, threads: list[int], asked: list[str], expected: int
) -> None:
    assert main(words(tiny, "--epochs", "1", "--name", "a", *asked)) == 0
    assert threads[0] == expected
    assert find_run(folder / "results", "a").info.command.partition("--threads")[2].split()[:1] == asked[1:]
    assert resumed_with(threads) == expected


def test_a_resumed_run_takes_the_threads_that_are_given_and_no_more_than_there_are_cores(
    folder: Path, tiny: Data, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(words(tiny, "--epochs", "1", "--name", "a", "--threads", "2")) == 0
    assert resumed_with(threads, "--threads", "1") == 1
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert resumed_with(threads) == 1


def test_the_same_name_twice(folder: Path, tiny: Data, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "results/a").mkdir(parents=True)
    shutil.copy(folder / "small.json", folder / "results/a/something.json")
    assert main(words(tiny, "--name", "a")) == 2
    assert "--name: got 'a', but results" in capsys.readouterr().err
    assert [path.name for path in (folder / "results/a").iterdir()] == ["something.json"]
