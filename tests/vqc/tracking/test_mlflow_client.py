"""MLflow through ``vqc.tracking.mlflow_client``, on a real SQLite file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqc.tracking import mlflow_client as tracking
from vqc.tracking.mlflow_client import Point, Tracker, TrackingError

PASSWORD = "hun/ter@2"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results with a database in it; making one takes seconds, so the tests of this file share it."""
    return tmp_path_factory.mktemp("photos of Jürgen, 100%") / "results"


@pytest.fixture(scope="module")
def tracker(results: Path) -> Tracker:
    return Tracker(tracking.default_uri(results), artifacts=results / "mlartifacts")


@pytest.mark.parametrize(
    ("folder", "uri"),
    [
        (Path("results"), "sqlite:///results/mlflow.db"),
        (Path("/data/results"), "sqlite:////data/results/mlflow.db"),
        (PureWindowsPath("D:\\jobs\\results"), "sqlite:///D:/jobs/results/mlflow.db"),
        (PureWindowsPath("results"), "sqlite:///results/mlflow.db"),
    ],
)
def test_default_uri(folder: Path, uri: str) -> None:
    assert tracking.default_uri(folder) == uri


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://anna:s3cret@mlflow.example:5000/x", "https://***@mlflow.example:5000/x"),
        ("https://s3cret@mlflow.example", "https://***@mlflow.example"),
        ("mysql+pymysql://anna:p@ss/s3cret@db/x?charset=utf8", "mysql+pymysql://***@db/x?charset=utf8"),
        ("postgresql://db/x?user=anna&password=s3cret&a=1", "postgresql://db/x?user=anna&password=***&a=1"),
        ("https://a/b?sv=1&sig=s3cret&X-Amz-Credential=x", "https://a/b?sv=1&sig=***&X-Amz-Credential=***"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
    ],
)
def test_redacted(uri: str, shown: str) -> None:
    assert tracking.redacted(uri) == shown


@given(user=st.text(min_size=1), password=st.text(alphabet=st.characters(categories=["L", "N", "P", "S"]), min_size=9))
def test_redacted_hides_any_password(user: str, password: str) -> None:
    assert password not in tracking.redacted(f"http://{user}:{password}@host:5000/path")


@pytest.mark.parametrize(
    "uri",
    [
        f"http://anna:{PASSWORD}@127.0.0.1:9",
        f"http://127.0.0.1:9?token={PASSWORD}",
        f"nonsense://anna:{PASSWORD}@127.0.0.1:9/x",
        f"postgresql://anna:{PASSWORD}@127.0.0.1:9/x",
    ],
)
def test_no_password_in_an_error(uri: str) -> None:
    with pytest.raises(TrackingError) as caught:
        Tracker(uri)
    assert PASSWORD not in str(caught.value)
    assert "anna" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_server_that_is_away_is_one_sentence() -> None:
    with pytest.raises(TrackingError, match=r"^cannot reach MLflow at http://127\.0\.0\.1:9: \w.*"):
        Tracker("http://127.0.0.1:9")


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_metric_name_is_one_that_mlflow_takes(parts: list[str]) -> None:
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(tracking.metric_name(*parts))


def test_a_run_keeps_what_it_was_told(tracker: Tracker) -> None:
    run_id = tracker.create("one", tags={"id": "kept"}, start_ms=1_000)
    points = [Point("ap", 0.1 * step, step, 2_000 + step) for step in range(1, 4)]
    tracker.log(run_id, points=points, params={"rate": "0.1"}, tags={"state": "done"})
    tracker.set_status(run_id, "FAILED", end_ms=9_000)
    run = tracker._client.get_run(run_id)
    assert (run.info.start_time, run.info.end_time, run.info.status) == (1_000, 9_000, "FAILED")
    assert run.data.params == {"rate": "0.1"}
    assert [run.data.tags[name] for name in ("id", "state")] == ["kept", "done"]
    history = tracker._client.get_metric_history(run_id, "ap")
    assert [Point("ap", m.value, m.step, m.timestamp) for m in history] == points


def test_points_are_written_once(tracker: Tracker) -> None:
    run_id = tracker.create("twice", tags={}, start_ms=1)
    points = [Point("ap", 0.5, step, step) for step in range(900)]  # more than one call takes
    tracker.log(run_id, points=points, params={}, tags={})
    tracker.log(run_id, points=[*points, Point("ap", 0.6, 900, 900)], params={}, tags={})
    assert len(tracker._client.get_metric_history(run_id, "ap")) == 901


def test_runs_are_found_by_their_tags(tracker: Tracker) -> None:
    run_id = tracker.create("found", tags={"a": "1", "b": "2"}, start_ms=1)
    tracker.create("other", tags={"a": "1", "b": "3"}, start_ms=1)
    (found,) = tracker.runs({"a": "1", "b": "2"})
    assert (found.run_id, found.name, found.status) == (run_id, "found", "RUNNING")
    assert tracker.runs({"a": "4"}) == []


def test_artifacts_lie_beside_the_database(tracker: Tracker, results: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("<p>fine</p>", encoding="utf-8")
    tracker.log_artifact(tracker.create("files", tags={}, start_ms=1), page)
    (copy,) = (results / "mlartifacts").rglob("report.html")
    assert copy.read_text(encoding="utf-8") == "<p>fine</p>"


def test_a_deleted_experiment_is_restored(tracker: Tracker) -> None:
    first = Tracker(tracker.uri, experiment="deleted")
    tracker._client.delete_experiment(first._experiment)
    again = Tracker(tracker.uri, experiment="deleted")
    assert again._experiment == first._experiment
    assert again.create("goes", tags={}, start_ms=1)


def test_the_latest_registered_is_champion(tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"first")
    run_id = tracker.create("promoted", tags={}, start_ms=1)
    assert tracker.champion("detector") is None
    first = tracker.register(tmp_path, name="detector", run_id=run_id, metrics={"test_ap50": 0.625}, tags={"data": "x"})
    one = tracker.champion("detector")
    assert one is not None
    assert (one.version, one.run_id, one.metrics, one.tags) == (first, run_id, {"test_ap50": 0.625}, {"data": "x"})

    (tmp_path / "model.onnx").write_bytes(b"second")
    second = tracker.register(tmp_path, name="detector", run_id=run_id, metrics={"test_ap50": 0.7}, tags={})
    two = tracker.champion("detector")
    assert two is not None
    assert (two.version, two.metrics) == (second, {"test_ap50": 0.7})
    assert second != first
    assert one.source != two.source  # the old champion's files are still there


def test_import_is_light() -> None:
    code = (
        "import sys, vqc.tracking.mlflow_client, tune.reporting.mlflow_sync; "
        "print({'mlflow', 'torch', 'ray', 'optuna'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "set()"


@pytest.mark.slow
def test_nothing_is_reported_home() -> None:
    """MLflow asks these variables itself; a new version that asks others should be noticed."""
    code = (
        "import vqc.tracking.mlflow_client as t; "
        "\ntry: t.Tracker('http://127.0.0.1:9')\nexcept t.TrackingError: pass\n"
        "import os\nfor name in ('CI', 'PYTEST_CURRENT_TEST', 'GITHUB_ACTIONS'): os.environ.pop(name, None)\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled as off; print(off())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "True"
    assert out.stderr == ""
