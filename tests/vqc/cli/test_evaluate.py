"""``vqc evaluate`` as a person meets it: figures that agree with each other, a page, MLflow, and no false zeros."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.images import edit_json, write_data
from tests.vqc.evaluation.test_calibration_fit import calibration
from vqc.cli.main import main
from vqc.config import TrainConfig
from vqc.data.dataset import load_data
from vqc.inference.calibration import save_calibration
from vqc.inference.model_file import open_predictor
from vqc.models.checkpoint import save_model
from vqc.tracking.mlflow_client import Tracker
from vqc.training.loop import fit

NOWHERE = ("--mlflow", "http://127.0.0.1:9")  # refused at once, where a new database takes seconds
EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose classes bear a hostile name; 12 defective and 6 good ones in test."""
    root = write_data(tmp_path_factory.mktemp("data") / "parts", train=9, val=4, test=18)
    for split in ("train", "val", "test"):
        edit_json(root / split / "annotations.json", lambda d: d["categories"][0].update(name=EVIL))
    return root


@pytest.fixture(scope="module")
def trained(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector after one epoch: it has opinions, if poor ones."""
    config = TrainConfig.model_validate(
        {"model": "fcos_tiny", "weights": "none", "image_size": 64, "batch_size": 4, "num_epochs": 1,
         "learning_rate": 2e-3, "gpu_optimization": {"mixed_precision": "float32"}}
    )  # fmt: skip
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    for epoch in fit(config, load_data(parts)):
        save_model(path, epoch.state.model, epoch.state.info)
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run's folder, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(trained.read_bytes())
    return path


def evaluate(model: Path, data: Path, *flags: str) -> dict[str, Any]:
    assert main(["evaluate", "--model", str(model), "--data", str(data), *flags]) == 0
    text = (model.parent / "metrics" / "evaluation_results.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


class Tags(HTMLParser):
    """Tags of a page with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_figures_page_and_tracking_agree(run: Path, parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = evaluate(run, parts, "--threshold", "0.01")
    verdicts = figures["per_part"]
    assert (verdicts["escape"]["total"], verdicts["overkill"]["total"]) == (12, 6)
    assert verdicts["overkill"]["value"] is None
    assert "only 6 good parts" in verdicts["overkill"]["reason"]
    rows = [sum(row) for row in figures["confusion"][:-1]]
    assert rows == [row["found"]["total"] for row in figures["recall_by_class"]] == [12, 12]
    assert sum(row["found"]["total"] for row in figures["recall_by_size"]) == 24
    assert figures["latency"]["p50_ms"] <= figures["latency"]["p95_ms"]
    interval = figures["coco_intervals"]["ap50"]
    assert figures["coco_intervals"]["parts"] == figures["parts"] == 18
    assert 0 <= interval["low"] <= interval["high"] <= 1
    assert set(figures["thresholds"].values()) == {0.01}
    shown = capsys.readouterr().out
    assert "only 6 good parts" in shown
    (tracked,) = Tracker("sqlite:///results/mlflow.db").runs({"vqc.kind": "evaluation"})
    assert tracked.status == "FINISHED"


def test_the_page_is_self_contained_and_safe(run: Path, parts: Path) -> None:
    figures = evaluate(run, parts, "--threshold", "0.01", *NOWHERE)
    html = (run.parent / "evaluation.html").read_text(encoding="utf-8")
    tags = Tags(html).found
    pictures = [attributes["src"] or "" for tag, attributes in tags if tag == "img"]
    assert len(pictures) == len(figures["worst_misses"]) + len(figures["worst_false_alarms"]) > 0
    assert all(source.startswith("data:image/jpeg;base64,") for source in pictures)
    outside = [a["href"] for _, a in tags if a.get("href") and not str(a["href"]).startswith("#")]
    assert outside == []
    assert all(tag != "script" for tag, _ in tags)
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    light, dark = html.split("prefers-color-scheme: dark", 1)
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    assert used <= set(re.findall(r"(--[\w-]+):", light)) & set(re.findall(r"(--[\w-]+):", dark[: dark.index("}\n}")]))


def test_a_password_is_stored_nowhere(run: Path, parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = evaluate(run, parts, "--mlflow", "http://inspector:hunter2@127.0.0.1:9")
    assert figures["command"].endswith("--mlflow 'http://***@127.0.0.1:9'")
    written = [path.read_bytes() for path in run.parent.rglob("*.*") if path.suffix in (".json", ".html")]
    assert len(written) == 2
    assert not any(b"hunter2" in content for content in written)
    assert "hunter2" not in "".join(capsys.readouterr())


def test_views_of_one_part_are_one_verdict(run: Path, parts: Path, tmp_path: Path) -> None:
    root = tmp_path / "views"
    shutil.copytree(parts, root)
    edit_json(root / "test" / "annotations.json", lambda d: [i.update(group=str(i["id"] % 2)) for i in d["images"]])
    figures = evaluate(run, root, *NOWHERE)
    assert (figures["images"], figures["parts"]) == (18, 2)
    assert figures["per_part"]["escape"]["total"] == 2
    assert figures["coco_intervals"]["ap"] is None
    assert any("rejected if any of its views is" in note for note in figures["notes"])


def test_without_a_calibration_it_says_that_no_threshold_was_chosen(run: Path, parts: Path) -> None:
    figures = evaluate(run, parts, *NOWHERE)
    assert "No threshold was chosen" in figures["threshold_source"]
    assert set(figures["thresholds"].values()) == {0.5}
    assert not figures["calibrated"]


def test_the_calibrations_thresholds_are_used(run: Path, parts: Path) -> None:
    found = calibration(run)
    point = found.operating_point.model_copy(update={"thresholds": (0.3, 0.4)})
    data = load_data(parts)
    mine = found.model_copy(
        update={
            "categories": tuple((c.id, c.name) for c in data.categories),
            "curves": found.curves[:2],
            "operating_point": point,
            "data_fingerprint": data.fingerprint,
            "weights_sha256": open_predictor(run).weights_sha256,
        }
    )
    save_calibration(run, mine)
    figures = evaluate(run, parts, "--split", "val", *NOWHERE)
    assert list(figures["thresholds"].values()) == [0.3, 0.4]
    assert figures["calibrated"]
    assert figures["score_errors"] != figures["score_errors_raw"]
    assert "on the expected IoU" in figures["threshold_source"]
    assert any("val split also chose the calibration" in note for note in figures["notes"])
    rate = figures["per_part"]["escape"]
    assert (rate["total"], rate["low"], rate["high"]) == (3, None, None)  # val chose the threshold
    assert {row["found"]["low"] for row in figures["recall_by_class"] + figures["recall_by_size"]} == {None}
    assert evaluate(run, parts, *NOWHERE)["per_part"]["escape"]["low"] is not None


def test_without_good_or_defective_images_nothing_is_zero(run: Path, parts: Path, tmp_path: Path) -> None:
    root = tmp_path / "bare"
    write_data(root, train=9, val=4, test=6)
    for split in ("train", "val", "test"):
        edit_json(root / split / "annotations.json", lambda d: d["categories"][0].update(name=EVIL))
    edit_json(root / "test" / "annotations.json", lambda d: d.update(annotations=[]))
    figures = evaluate(run, root, *NOWHERE)
    assert figures["per_part"]["escape"]["value"] is None
    assert figures["coco"]["ap"] is None
    assert figures["froc"]["reason"] == "there are no defects to find"
    assert any("other data" in note for note in figures["notes"])
    html = (run.parent / "evaluation.html").read_text(encoding="utf-8")
    assert "No escape rate and no overkill rate" in html


def test_an_outage_of_mlflow_is_one_sentence(run: Path, parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(run, parts, *NOWHERE)
    told = capsys.readouterr().err
    assert told.startswith("not in MLflow: cannot reach MLflow at http://127.0.0.1:9")
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--threshold", "1.5"], "--threshold: got 1.5, expected a score from 0 to 1"),
        (["--model", "nowhere.safetensors"], "no such file, expected a checkpoint"),
        (["--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    run: Path, parts: Path, flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.parent.rglob("*"))
    assert main(["evaluate", "--model", str(run), "--data", str(parts), *flags]) == 2
    assert told in capsys.readouterr().err
    assert sorted(run.parent.rglob("*")) == before


def test_other_categories_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_data(tmp_path / "others")
    assert main(["evaluate", "--model", str(run), "--data", str(root)]) == 2
    assert "expected the same" in capsys.readouterr().err
