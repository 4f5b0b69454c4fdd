"""The mirror, on real MLflow: a SQLite file, and a server that is late or dies."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import START_MS, at, epoch_report, events, write_journal
from tune.history.events import (
    EpochMeasured,
    Event,
    SearchEnded,
    SearchResumed,
    SearchStarted,
    TrialEnded,
    TrialStarted,
)
from tune.reporting import mlflow_sync as mirror
from tune.reporting.mlflow_sync import Mirror, MirrorState
from tune.settings import Budget
from vqc.tracking.mlflow_client import Tracker, default_uri

Runs = dict[str, Any]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results with a database; making one takes seconds, so the searches of this file share it."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A search's name of the test's own."""
    return str(request.node.name)


def journal_path(results: Path, name: str) -> Path:
    return results / name / "journal.jsonl"


def runs_of(uri: str, name: str) -> Runs:
    """Run name -> run, of one search."""
    tracker = Tracker(uri)
    return {run.name: tracker._client.get_run(run.run_id) for run in tracker.runs({"vqc.search_id": f"id-of-{name}"})}


def history(tracker: Tracker, run_id: str, metric: str) -> list[tuple[int, int, float]]:
    """Step, time and value of each point."""
    return [(point.step, point.timestamp, point.value) for point in tracker._client.get_metric_history(run_id, metric)]


def everything(uri: str, name: str) -> dict[str, Any]:
    """All that MLflow holds on a search, times and points included."""
    tracker = Tracker(uri)
    return {
        run.info.run_id: (
            run.info.status,
            run.info.start_time,
            run.info.end_time,
            run.data.params,
            run.data.tags,
            {metric: history(tracker, run.info.run_id, metric) for metric in run.data.metrics},
        )
        for run in runs_of(uri, name).values()
    }


def catch_up(results: Path, name: str, *flags: str) -> None:
    assert mirror.main([name, "--results", str(results), *flags]) == 0


def wait_for(condition: Callable[[], bool], timeout_s: float = 40.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.05)


def test_a_finished_search(database: Path, name: str) -> None:
    write_journal(journal_path(database, name), events(name=name))
    catch_up(database, name)
    runs = runs_of(default_uri(database), name)
    parent = runs.pop(name)
    assert sorted(runs) == [f"{name}/00{number}" for number in range(1, 7)]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert [runs[f"{name}/00{number}"].info.status for number in (1, 2, 3)] == ["FINISHED", "FAILED", "FAILED"]
    assert parent.info.status == "FINISHED"


def test_as_many_points_as_epochs(database: Path, name: str) -> None:
    some = events(name=name)
    write_journal(journal_path(database, name), some)
    catch_up(database, name)
    epochs = [event for event in some if isinstance(event, EpochMeasured)]
    held = everything(default_uri(database), name)
    found = [point for *_, points in held.values() for point in points.get("val/ap50", [])]
    assert sorted(found) == sorted((e.report.epoch, e.at_ms, e.report.scores.ap50) for e in epochs)


def test_a_second_time_changes_nothing(database: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_journal(journal_path(database, name), events(name=name))
    (database / name / "report.html").write_text("<p>fine</p>", encoding="utf-8")
    catch_up(database, name)
    once = everything(default_uri(database), name)
    assert "7 runs written" in capsys.readouterr().out
    catch_up(database, name)
    assert everything(default_uri(database), name) == once
    assert "nothing was missing" in capsys.readouterr().out


@pytest.mark.parametrize("cut", [1, 3, 20])
def test_a_journal_in_two_parts_is_as_in_one(database: Path, tmp_path: Path, name: str, cut: int) -> None:
    some = events(name=name)
    whole, parts = f"{name}-whole", f"{name}-parts"
    for search, pieces in ((whole, [some]), (parts, [some[:cut], some[cut:]])):
        renamed = {"name": search, "search_id": f"id-of-{search}"}
        for piece in pieces:
            own = [e.model_copy(update=renamed) if isinstance(e, SearchStarted) else e for e in piece]
            write_journal(journal_path(database, search), own)
            catch_up(database, search)
    held = {search: [run[:4] + run[5:] for run in everything(default_uri(database), search).values()]
            for search in (whole, parts)}  # fmt: skip
    assert held[whole] == held[parts]


def test_a_lost_mark_costs_no_second_point(database: Path, name: str) -> None:
    """Killed between the points and the tag that notes them, the mirror writes the points again."""
    write_journal(journal_path(database, name), events(name=name))
    catch_up(database, name)
    once = everything(default_uri(database), name)
    tracker = Tracker(default_uri(database))
    for run_id in once:
        tracker._client.set_tag(run_id, "vqc.mirrored_line", "0")
    catch_up(database, name)
    assert everything(default_uri(database), name) == once


def test_a_deleted_run_comes_back_whole(database: Path, name: str) -> None:
    write_journal(journal_path(database, name), events(name=name))
    catch_up(database, name)
    before = runs_of(default_uri(database), name)[f"{name}/001"]
    Tracker(default_uri(database))._client.delete_run(before.info.run_id)
    catch_up(database, name)
    after = runs_of(default_uri(database), name)[f"{name}/001"]
    assert after.info.run_id != before.info.run_id
    assert (after.data.metrics, after.data.params) == (before.data.metrics, before.data.params)


def test_an_interrupted_trial_is_killed_and_runs_again(database: Path, name: str) -> None:
    path, uri = journal_path(database, name), default_uri(database)
    first = [
        *events(name=name)[:4],
        TrialEnded(**at(START_MS + 5_000), trial=1, state="interrupted", reason="Ctrl-C"),
        SearchEnded(**at(START_MS + 5_001), reason="interrupted"),
    ]
    write_journal(path, first)
    catch_up(database, name)
    assert {run.info.status for run in runs_of(uri, name).values()} == {"KILLED"}
    again = [
        SearchResumed(**at(START_MS + 9_000), command="again", budget=Budget(trials=6)),
        TrialStarted(**at(START_MS + 9_001), trial=1, after_epoch=1, worker="1@host"),
    ]
    write_journal(path, again)
    catch_up(database, name)
    assert {run.info.status for run in runs_of(uri, name).values()} == {"RUNNING"}
    end: list[Event] = [
        EpochMeasured(**at(START_MS + 9_500), trial=1, report=epoch_report(2, ap50=0.4)),
        TrialEnded(**at(START_MS + 9_900), trial=1, state="completed", reason="all epochs"),
        SearchEnded(**at(START_MS + 9_901), reason="trials"),
    ]
    write_journal(path, end)
    catch_up(database, name)
    runs = runs_of(uri, name)
    assert len(runs) == 2
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs[f"{name}/001"].info.end_time == START_MS + 9_900


def test_a_second_interruption_moves_the_end(database: Path, name: str) -> None:
    """Also where MLflow was away between the two."""
    path = journal_path(database, name)
    interrupted = SearchEnded(**at(START_MS + 5_000), reason="interrupted")
    write_journal(path, [*events(name=name)[:4], interrupted])
    catch_up(database, name)
    again = [
        SearchResumed(**at(START_MS + 9_000), command="again", budget=Budget(trials=6)),
        TrialStarted(**at(START_MS + 9_001), trial=1, after_epoch=1, worker="1@host"),
        interrupted.model_copy(update={"at_ms": START_MS + 9_900}),
    ]
    write_journal(path, again)
    catch_up(database, name)
    runs = runs_of(default_uri(database), name).values()
    assert {(run.info.status, run.info.end_time) for run in runs} == {("KILLED", START_MS + 9_900)}


def test_a_killed_search_can_be_closed(database: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_journal(journal_path(database, name), events(name=name)[:5])
    catch_up(database, name)
    assert "--cut-short" in capsys.readouterr().out
    catch_up(database, name, "--cut-short")
    assert {run.info.status for run in runs_of(default_uri(database), name).values()} == {"KILLED"}


def test_the_thread_follows_and_ends_what_is_open(database: Path, name: str) -> None:
    some, path, uri = events(name=name), journal_path(database, name), default_uri(database)
    follower = Mirror(path, uri)
    follower.start()
    write_journal(path, some[:4])
    wait_for(lambda: f"{name}/001" in runs_of(uri, name))
    write_journal(path, some[4:8])
    report = path.parent / "report.html"
    report.write_text("<p>fine</p>", encoding="utf-8")
    follower.finish([report, path.parent / "not-written.csv"])
    assert follower.stop(timeout_s=30) == MirrorState()
    assert str(follower.state) == "up to date"
    runs = runs_of(uri, name)
    assert {run.info.status for run in runs.values()} == {"KILLED"}
    assert "val/ap50" in runs[f"{name}/001"].data.metrics
    assert [file.path for file in Tracker(uri)._client.list_artifacts(runs[name].info.run_id)] == ["report.html"]


def test_the_search_hears_of_trouble_only_when_it_asks(tmp_path: Path) -> None:
    path = write_journal(tmp_path / "journal.jsonl", events())
    follower = Mirror(path, "http://anna:s3cret@127.0.0.1:9")
    follower.start()
    state = follower.stop(timeout_s=30)
    assert state.behind == len(events())
    assert str(state).startswith(f"{len(events())} events behind: cannot reach MLflow at http://***@127.0.0.1:9: ")


def test_a_stop_without_a_journal(tmp_path: Path) -> None:
    follower = Mirror(tmp_path / "journal.jsonl", default_uri(tmp_path))
    follower.start()
    assert follower.stop(timeout_s=5) == MirrorState()
    assert list(tmp_path.iterdir()) == []


def test_a_broken_journal_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text("not an event\nnor this\n", encoding="utf-8")
    follower = Mirror(path, default_uri(tmp_path))
    follower.start()
    assert "line 1: not an event" in str(follower.stop(timeout_s=5).error)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (MirrorState(), "up to date"),
        (MirrorState(behind=1), "1 event behind"),
        (MirrorState(behind=2, error="no way"), "2 events behind: no way"),
    ],
)
def test_state_in_words(state: MirrorState, words: str) -> None:
    assert str(state) == words


def test_no_such_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mirror.main(["nope", "--results", str(tmp_path)]) == 2
    assert "no search was run here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# An outage, with a real server


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def serve(tmp_path: Path, port: int) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start ``mlflow server`` on the port, again and again on the same database."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        place = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        store = ["--backend-store-uri", default_uri(tmp_path), "--artifacts-destination", (tmp_path / "files").as_uri()]
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *place, *store],
            cwd=tmp_path,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a server with its workers."""
    if process.poll() is None:
        os.killpg(process.pid, 9)
    process.wait(timeout=10)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills a process group")
def test_an_outage_loses_nothing(
    tmp_path: Path, name: str, port: int, serve: Callable[[], subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server starts late, dies in mid-search, comes back."""
    monkeypatch.setattr("vqc.tracking.mirror.LONGEST_PAUSE_S", 2.0)
    some, path, uri = events(name=name), tmp_path / name / "journal.jsonl", f"http://127.0.0.1:{port}"
    follower = Mirror(path, uri)
    follower.start()
    write_journal(path, some[:8])
    wait_for(lambda: str(follower.state).startswith("8 events behind: cannot reach"))

    first = serve()
    wait_for(lambda: str(follower.state) == "up to date", 240)
    stop(first)
    write_journal(path, some[8:])
    wait_for(lambda: follower.state.behind == len(some) - 8 and follower.state.error is not None)

    serve()
    report = path.parent / "report.html"
    report.write_text("<p>fine</p>", encoding="utf-8")
    follower.finish([report])
    wait_for(lambda: str(follower.state) == "up to date", 240)
    assert follower.stop(timeout_s=30) == MirrorState()

    runs = runs_of(uri, name)
    assert len(runs) == 7
    assert "RUNNING" not in {run.info.status for run in runs.values()}
    found = [point for *_, points in everything(uri, name).values() for point in points.get("val/ap50", [])]
    assert len(found) == len(set(found)) == sum(isinstance(event, EpochMeasured) for event in some)
