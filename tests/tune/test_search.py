"""The main job as a user runs it: real processes, real Ray, real MLflow."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.images import write_data
from tune import search
from tune.history.journal import read_table
from tune.policy.replication import best_trial
from tune.reporting import html_report
from tune.search import main
from vqc.errors import SearchError
from vqc.tracking.mlflow_client import Tracker, default_uri

SCRIPT = Path(__file__).parents[2] / "tune" / "search.py"
SMALL = {
    "train": {"model": "fcos_tiny", "weights": "none", "image_size": 64, "num_epochs": 2, "batch_size": 4},
    "space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "batch_size": {"choices": [2, 4]}},
    "startup_trials": 2,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny data set and search settings for it."""
    folder = tmp_path_factory.mktemp("search")
    write_data(folder / "data")
    (folder / "small.json").write_text(json.dumps(SMALL), encoding="utf-8")
    (folder / "full.json").write_text(json.dumps({**SMALL, "rungs": []}), encoding="utf-8")  # nothing pauses
    return folder


def start(place: Path, *words: str, script: Path = SCRIPT) -> subprocess.Popen[str]:
    """Begin a search in a session of its own, so that signals to it spare the tests."""
    environment = {key: value for key, value in os.environ.items() if key != "UV_RUN_RECURSION_DEPTH"}
    return subprocess.Popen(
        [sys.executable, str(script), *words],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=environment,
    )


def finish(process: subprocess.Popen[str], *, status: int = 0) -> str:
    """What it printed, once it has ended as it should."""
    said, _ = process.communicate(timeout=240)
    assert process.returncode == status, said
    return said


def journal_lines(place: Path, name: str) -> list[str]:
    return (place / "results" / name / "journal.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def searched(place: Path) -> str:
    """What a search of three trials printed."""
    words = ("--trials", "3", "--name", "first", "--config", "small.json", "--data", "data")
    return finish(start(place, *words))


def test_all_trials_end_and_the_next_command_is_told(place: Path, searched: str) -> None:
    table = read_table(place / "results" / "first" / "journal.jsonl")
    assert [trial.origin for trial in table.searched][0] == "default"
    assert len(table.searched) == 3
    assert [trial.repeats for trial in table.trials.values() if trial.origin == "repeat"] == [
        trial.number for trial in table.leaders() if trial.repeats is None
    ][:2]
    assert {trial.state for trial in table.trials.values()} <= {"completed", "stopped"}
    assert table.trials[1].epochs == 2
    assert "vqc-export-best first" in searched  # that folder has no tune/export_best.py
    assert "ray get-auth-token" in searched


def test_workers_are_reused(place: Path, searched: str) -> None:
    lines = [json.loads(line) for line in journal_lines(place, "first")]
    assert len({line["worker"] for line in lines if line["event"] == "trial_started"}) == 1


def test_mlflow_holds_one_run_a_trial_and_one_point_an_epoch(place: Path, searched: str) -> None:
    table = read_table(place / "results" / "first" / "journal.jsonl")
    tracker = Tracker(default_uri(place / "results"))
    runs = tracker.runs({"vqc.search_id": table.header.search_id})
    assert len(runs) == 1 + len(table.trials)


def test_the_folder_holds_report_table_and_best_weights_and_nothing_of_rays(place: Path, searched: str) -> None:
    folder = place / "results" / "first"
    best = best_trial(read_table(folder / "journal.jsonl"))
    assert best is not None
    assert {path.name for path in folder.iterdir()} == {
        "journal.jsonl", "lock", "report.html", "search.log", "trials", "trials.csv",
    }  # fmt: skip
    assert (folder / "trials" / f"{best.number:03d}" / "best.safetensors").is_file()


@pytest.mark.slow
def test_ctrl_c_ends_after_the_epoch_and_resume_goes_on(place: Path) -> None:
    words = ("--trials", "2", "--epochs", "30", "--name", "cut", "--config", "full.json", "--data", "data")
    process = start(place, *words)
    journal = place / "results" / "cut" / "journal.jsonl"
    deadline_s = time.monotonic() + 180
    while '"epoch":2' not in (journal.read_text(encoding="utf-8") if journal.exists() else ""):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    assert "--name cut --resume" in finish(process, status=130)
    table = read_table(journal)
    assert table.trials[1].state == "interrupted"
    reached = table.trials[1].epochs
    assert 2 <= reached < 30
    finish(start(place, "--resume", "--name", "cut"))
    assert [trial.state for trial in read_table(journal).trials.values()].count("interrupted") == 0
    epochs = [json.loads(line) for line in journal_lines(place, "cut") if '"event":"epoch"' in line]
    assert [line["report"]["epoch"] for line in epochs if line["trial"] == 1] == list(range(1, 31))


MISTAKES = {
    "no data": (["--data", "nowhere"], "nowhere: no such folder"),
    "no trials": (["--data", "data", "--trials", "0"], "--trials: got 0"),
    "unknown model": (["--data", "data", "--model", "fcos_lite"], "did you mean 'fcos_lite0'?"),
    "unknown key": (["--data", "data", "--config", "wrong.json"], "confrim: unknown key; did you mean 'confirm'?"),
    "no JSON": (["--data", "broken"], "not JSON: line 1"),
    "nothing to resume": (["--resume"], "no search was run here"),
    "bad name": (["--data", "data", "--name", "a/b"], "--name: got 'a/b'"),
    "share above one": (["--data", "data", "--gpus-per-trial", "2"], "--gpus-per-trial: got 2.0"),
}


@pytest.mark.parametrize(("words", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    words: list[str], sentence: str,
) -> None:  # fmt: skip
    write_data(tmp_path / "data")
    write_data(tmp_path / "broken")
    (tmp_path / "broken" / "train" / "annotations.json").write_text("nope{", encoding="utf-8")
    (tmp_path / "wrong.json").write_text(json.dumps({**SMALL, "confrim": 3}), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capfd.readouterr().err
    assert sentence in said
    assert "Traceback" not in said
    assert not (tmp_path / "results").exists()


# The report fails (its template is broken): what comes after it happens all the same

BROKEN_REPORT = """
import sys
from pathlib import Path
from tune.reporting import html_report
from tune.search import main
html_report.TEMPLATE = Path("broken.html.j2")
sys.exit(main())
"""


@pytest.mark.slow
def test_a_report_that_fails_leaves_everything_else_in_order(place: Path) -> None:
    (place / "broken.html.j2").write_text("{{ nothing }}", encoding="utf-8")
    script = place / "broken.py"
    script.write_text(BROKEN_REPORT, encoding="utf-8")
    words = ("--trials", "2", "--name", "broken", "--config", "small.json", "--data", "data", "--confirm", "0")
    said = finish(start(place, *words, script=script), status=1)
    assert "No report: 'nothing' is undefined" in said
    assert "Best: AP50" in said
    assert "UndefinedError: 'nothing' is undefined" in said.rpartition("Traceback")[2]
    folder = place / "results" / "broken"
    table = read_table(folder / "journal.jsonl")
    assert table.ended is not None
    runs = Tracker(default_uri(place / "results")).runs({"vqc.search_id": table.header.search_id})
    assert {run.status for run in runs} == {"FINISHED"}
    assert not (folder / "ray").exists()


def test_each_step_is_called_and_no_error_is_lost() -> None:
    called: list[str] = []

    def fails(name: str) -> None:
        called.append(name)
        raise RuntimeError(name)

    with pytest.raises(RuntimeError, match="second") as caught:
        search._each(lambda: called.append("first"), lambda: fails("second"), lambda: called.append("third"))
    assert called == ["first", "second", "third"]
    assert "fails" in [entry.name for entry in caught.traceback]
    with pytest.raises(RuntimeError, match="two") as caught:
        search._each(lambda: fails("one"), lambda: fails("two"))
    assert str(caught.value.__context__) == "one"


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(28, "No space left on device"), False),
        (SearchError("line 3: not an event"), False),
        (KeyError("x"), True),
    ],
)
def test_a_report_that_cannot_be_written_is_said_with_the_command(
    error: Exception, raised: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(html_report, "write_report", fails)
    terminal = io.StringIO()
    with pytest.raises(KeyError) if raised else nullcontext():
        assert search._reported(tmp_path / "journal.jsonl", tmp_path / "night", terminal) == []
    assert f"No report: {error}" in terminal.getvalue()
    assert "python -m tune.reporting.html_report night" in terminal.getvalue()
