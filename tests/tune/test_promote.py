"""The promotion, on a search that was really run: bundle, champion, and every way of refusing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
import torch

from tests.builders import START_MS, at, events, write_journal
from tests.images import edit_json, write_data
from tests.searches import write_search
from tune import export_best, promote
from tune import model_card as bundle
from tune.champion import MODEL_NAME
from tune.history.events import TrialShortened
from tune.history.journal import read_table
from tune.history.queries import default_trial
from tune.paths import journal_of, trial_folder
from tune.promote import Promotion
from vqc.config import TrainConfig, load_record
from vqc.data.dataset import load_data, read_to_fit
from vqc.errors import DataError, ModelError
from vqc.inference import latency
from vqc.inference.bundle import champion_of, check_bundle
from vqc.inference.model_file import open_predictor
from vqc.inference.thresholds import resolve_thresholds
from vqc.models.checkpoint import load_model, save_model
from vqc.tracking.mlflow_client import Tracker, default_uri

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "TIMED_RUNS", 5)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results with the search 'demo', which no test may change."""
    results = tmp_path_factory.mktemp("trained")
    data = load_data(write_data(results / "parts", train=8, val=6, test=6))
    write_search(results / "demo", data)
    return results


@pytest.fixture(scope="module")
def first(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Promotion:
    """The first promotion of all, with MLflow in a database of its own."""
    results = tmp_path_factory.mktemp("results")
    return promote.promote(
        trained / "demo", results=results, tracking_uri=default_uri(results), command="python tune/export_best.py demo"
    )


@pytest.fixture
def results(trained: Path, tmp_path: Path) -> Path:
    """A copy to spoil; its data lies in it."""
    copy = tmp_path / "results"
    shutil.copytree(trained, copy)
    return copy


def results_of(promotion: Promotion) -> Path:
    return promotion.bundle.parent.parent


def test_the_first_becomes_champion(first: Promotion) -> None:
    assert (first.verdict.decision, first.verdict.version) == ("first", "1")
    assert champion_of(first.bundle.parent) == first.bundle
    champion = Tracker(default_uri(results_of(first))).champion(MODEL_NAME)
    assert champion is not None
    assert champion.metrics == first.evidence.figures()
    assert champion.tags["vqc.data_fingerprint"] == first.evidence.data.fingerprint


def _beside(bundle: Path) -> set[str]:
    return {path.name for path in bundle.parent.iterdir()}


def test_the_bundle_is_whole(first: Promotion) -> None:
    names = {
        *("model.onnx", "model.safetensors", "model.calibration.json", "manifest.json", "golden"),
        *("reference_stats.json", "trade_off.json"),
        *("signoff.html", "detections.json", "metrics.json", "model_card.md"),
        *("train_config.json", "train_config.schema.json"),
        *("MLmodel", "code", "conda.yaml", "python_env.yaml", "requirements.txt"),
        *("input_example.json", "serving_input_example.json"),
    }
    assert {path.name for path in first.bundle.iterdir()} == names
    check_bundle(first.bundle, open_predictor(first.bundle / "model.onnx"))
    assert _beside(first.bundle) == {first.bundle.name, "champion.json"}  # and no draft
    _, info = load_model(first.bundle / "model.safetensors")
    assert info == first.evidence.info
    assert load_record(TrainConfig, first.bundle / "train_config.json") == first.evidence.trial.config
    schema = json.loads((first.bundle / "train_config.json").read_text(encoding="utf-8"))["$schema"]
    assert (first.bundle / schema).is_file()


def test_the_figures_are_those_of_the_journal(first: Promotion) -> None:
    metrics = json.loads((first.bundle / "metrics.json").read_text(encoding="utf-8"))
    table = read_table(journal_of(Path(first.evidence.data.root.parent) / "demo"))
    assert metrics["trial"] == table.leaders()[0].number
    assert metrics["val"]["ap50"] == pytest.approx(table.leaders()[0].best("ap50")[0], abs=1e-6)
    assert metrics["data"]["images"] == {"train": 8, "val": 6, "test": 6}
    assert metrics["default"]["test"] is not None  # its checkpoint is still there
    assert metrics["parity"]["passed"]
    default = default_trial(table)
    assert default is not None
    assert metrics["default"]["val"]["ap50"] == default.best("ap50")[0]


def test_the_figures_to_sign_can_be_computed_again(first: Promotion) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "recompute_sign_off.py"
    found = subprocess.run([sys.executable, str(script), str(first.bundle / "detections.json")], capture_output=True,
                           text=True, check=True, timeout=120)  # fmt: skip
    again = json.loads(found.stdout)
    metrics = json.loads((first.bundle / "metrics.json").read_text(encoding="utf-8"))
    rates = metrics["test_per_part"]
    assert again["escape"] == [rates["escape"]["count"], rates["escape"]["total"]]
    assert again["overkill"] == [rates["overkill"]["count"], rates["overkill"]["total"]]
    assert again["ap"] == pytest.approx(metrics["test"]["ap"], abs=1e-9)
    assert again["ap50"] == pytest.approx(metrics["test"]["ap50"], abs=1e-9)
    page = (first.bundle / "signoff.html").read_text(encoding="utf-8")
    assert f"{again['escape'][0]} of {again['escape'][1]}" in page
    assert "may replace the champion: there was no champion yet." in " ".join(page.split())


def test_without_a_goal_val_promises_what_it_can(first: Promotion) -> None:
    point = first.evidence.calibration.operating_point
    assert (point.escape.total, point.max_escape, point.confidence) == (4, 0.2, None)  # 1 / (4 + 1)


def test_a_goal_beyond_val_is_refused_with_the_number_of_parts(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(results, capsys, "demo", "--max-escape", "0.01")
    assert "val: 4 defective parts, expected at least 99 to promise at most 1.0 % escapes" in said
    assert "export_best.py demo --max-escape 0.2" in said or "vqc-export-best demo --max-escape 0.2" in said
    assert "--confidence: got 2, expected" in refused(results, capsys, "demo", "--confidence", "2")


def test_mlflow_answers_as_the_bundle_does(first: Promotion) -> None:
    """By name, as a server would load it; the answer is that of the exported file."""
    code = (
        "import json, sys, pandas, mlflow\n"
        "uri, photograph = sys.argv[1:]\n"
        "mlflow.set_tracking_uri(uri)\n"
        "model = mlflow.pyfunc.load_model('models:/vqc-detector@champion')\n"
        "data = open(photograph, 'rb').read()\n"
        "graph = mlflow.onnx.load_model('models:/vqc-detector@champion').graph\n"
        "answer = model.predict(pandas.DataFrame({'image': [data]}))\n"
        "print(json.dumps([answer, graph.input[0].name, 'torch' in sys.modules]))\n"
    )
    record = first.evidence.data.val.images[0]
    out = subprocess.run([sys.executable, "-c", code, default_uri(results_of(first)), str(record.path)],
                         capture_output=True, text=True, check=True, timeout=300)  # fmt: skip
    (answer,), name, loaded_torch = json.loads(out.stdout.splitlines()[-1])
    predictor = open_predictor(first.bundle / "model.onnx")
    found = predictor.detect(read_to_fit(record, predictor.decoded_for))
    assert (name, loaded_torch) == ("images", False)
    assert [row["score"] for row in answer["detections"]] == pytest.approx(found.scores.tolist(), abs=1e-6)
    thresholds, _ = resolve_thresholds(predictor, given=None)
    assert answer["verdict"] == ("fail" if len(found.reaching(thresholds)) else "pass")


def test_the_default_is_measured_on_test_from_its_own_checkpoint(first: Promotion) -> None:
    assert first.evidence.default_test is not None
    assert first.evidence.default_test != first.evidence.test
    card = (first.bundle / "model_card.md").read_text(encoding="utf-8")
    (row,) = [line for line in card.splitlines() if line.startswith("| test, default configuration |")]
    assert row.split("|")[2].strip() == f"{first.evidence.default_test.value('ap'):.3f}"


@pytest.mark.parametrize("spoil", ["missing", "of another epoch"])
def test_a_default_that_cannot_be_measured_is_said_and_left_out(results: Path, spoil: str) -> None:
    path = trial_folder(results / "demo", 1) / "best.safetensors"
    if spoil == "missing":
        path.unlink()
    else:
        model, info = load_model(path)
        save_model(path, model, info.model_copy(update={"epoch": 3}))
    steps: list[str] = []
    done = promote.promote(results / "demo", results=results, tracking_uri=NOWHERE, on_step=steps.append)
    assert done.evidence.default_test is None
    assert done.evidence.default_val is not None
    assert [step for step in steps if "not measured: " in step and "best.safetensors" in step]


def test_the_exported_file_runs_alone(first: Promotion) -> None:
    detector = open_predictor(first.bundle / "model.onnx")
    found = detector.detect(read_to_fit(first.evidence.data.val.images[0], detector.decoded_for))
    assert detector.categories == ((3, "scratch"), (7, "dent"))
    assert found.boxes.shape == (len(found.scores), 4)


@pytest.mark.parametrize(
    "says",
    ["scratch", "dent", "sha256", "python tune/search.py --trials 2", "python tune/export_best.py demo", "6 images",
     "seed: 0", "onnxruntime", "Use and limits"],
)  # fmt: skip
def test_the_card_tells(first: Promotion, says: str) -> None:
    assert says in (first.bundle / "model_card.md").read_text(encoding="utf-8")


def test_a_name_cannot_break_the_card(first: Promotion) -> None:
    info = first.evidence.info.model_copy(update={"categories": ((3, "scratch"), (7, "dent"), (9, "<b>|\n# x"))})
    counts = {"scratch": 1, "dent": 1, "<b>|\n# x": 0}
    data = deepcopy(first.evidence.data)
    assert data.test is not None
    for split in (data.val, data.test):
        split.boxes_per_category.update(counts)
    card = bundle.markdown_card(replace(first.evidence, info=info, data=data), datetime.now(timezone.utc))
    assert "<b>" not in card
    assert "\n# x" not in card


def test_again_changes_nothing(first: Promotion, trained: Path) -> None:
    results = results_of(first)
    again = promote.promote(trained / "demo", results=results, tracking_uri=default_uri(results))
    assert (again.verdict.decision, again.verdict.version, again.verdict.champion) == ("already", "1", True)
    assert _beside(again.bundle) == {again.bundle.name, "champion.json"}


def test_a_newcomer_that_is_not_better_keeps_the_champion(first: Promotion, trained: Path, tmp_path: Path) -> None:
    """An equal search under another name is a tie: registered, and not the champion."""
    results = results_of(first)
    twin = tmp_path / "twin"
    shutil.copytree(trained / "demo", twin)
    path = journal_of(twin)
    path.write_text(path.read_text(encoding="utf-8").replace("id-of-demo", "id-of-twin"), encoding="utf-8")
    kept = promote.promote(twin, results=results, tracking_uri=default_uri(results))
    assert (kept.verdict.decision, kept.verdict.version) == ("kept", "2")
    assert kept.bundle.is_dir()
    present = Tracker(default_uri(results)).champion(MODEL_NAME)
    assert present is not None
    assert present.version == "1"
    forced = promote.promote(twin, results=results, tracking_uri=default_uri(results), force=True)
    present = Tracker(default_uri(results)).champion(MODEL_NAME)
    assert present is not None
    assert (forced.verdict.decision, present.version) == ("forced", forced.verdict.version)


def refused(results: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The one sentence that the command line says, after checking that nothing was written."""
    assert export_best.main(["--results", str(results), "--mlflow", NOWHERE, *flags]) == 2
    assert not list(results.glob("promoted/*"))
    return capsys.readouterr().err


def test_a_changed_image_is_refused(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_json(results / "parts/val/annotations.json", lambda content: content["annotations"].pop())
    said = refused(results, capsys, "demo", "--data", str(results / "parts"))
    assert "changed since the search 'demo' started" in said
    assert said.count("fingerprint") == 1


def test_data_that_was_moved_is_asked_for(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = journal_of(results / "demo")
    root = json.dumps(str(Path(read_table(path).header.data["root"])))
    path.write_text(path.read_text(encoding="utf-8").replace(root, '"/gone"'), encoding="utf-8")
    assert "--data DIR" in refused(results, capsys, "demo")


def test_a_damaged_checkpoint_is_refused(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = read_table(journal_of(results / "demo")).leaders()[0].number
    path = trial_folder(results / "demo", number) / "best.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))
    assert "damaged" in refused(results, capsys, "demo")


def test_other_weights_than_the_journals_are_refused(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = read_table(journal_of(results / "demo")).leaders()[0].number
    path = trial_folder(results / "demo", number) / "best.safetensors"
    model, info = load_model(path)
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
    save_model(path, model, info)
    said = refused(results, capsys, "demo")
    assert "as in the journal, got 0.000000" in said


def test_a_checkpoint_the_journal_never_heard_of_is_refused(results: Path) -> None:
    """A search that was killed between the checkpoint and its line in the journal."""
    leader = read_table(journal_of(results / "demo")).leaders()[0]
    path = trial_folder(results / "demo", leader.number) / "best.safetensors"
    model, info = load_model(path)
    save_model(path, model, info.model_copy(update={"epoch": 3}))
    best = leader.best("ap50")[1]
    said = rf"holds epoch 3, expected the best one in the journal, {best}[\s\S]*--resume"
    with pytest.raises(ModelError, match=said):
        promote.promote(results / "demo", results=results, tracking_uri=NOWHERE)


@pytest.mark.parametrize("shortened", [True, False])
def test_the_best_epoch_of_a_shortened_trial_may_be_one_before_it_was_shortened(results: Path, shortened: bool) -> None:
    """Then its checkpoint is of the longer run; of no other trial may it be."""
    journal = journal_of(results / "demo")
    leader = read_table(journal).leaders()[0]
    path = trial_folder(results / "demo", leader.number) / "best.safetensors"
    model, info = load_model(path)
    save_model(path, model, info.model_copy(update={"config": info.config.model_copy(update={"num_epochs": 9})}))
    if shortened:
        event = TrialShortened(**at(START_MS), trial=leader.number, num_epochs=leader.config.num_epochs)
        *before, end = journal.read_text(encoding="utf-8").splitlines()
        journal.write_text("\n".join([*before, event.model_dump_json(), end, ""]), encoding="utf-8")
    table, data = read_table(journal), load_data(results / "parts")
    bench = promote._Bench(folder=results / "demo", table=table, data=data, cache=results / "cache")
    if shortened:
        assert bench.load(table.trials[leader.number])[1].epoch == leader.best("ap50")[1]
    else:
        with pytest.raises(ModelError, match="another configuration"):
            bench.load(table.trials[leader.number])


def test_a_search_without_a_finished_trial_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_journal(tmp_path / "cut" / "journal.jsonl", events(name="cut")[:4])
    for flags in ((), ("cut",)):
        said = refused(tmp_path, capsys, *flags)
        assert "expected a finished trial" in said
        assert "--resume" in said


def test_an_unknown_search_is_refused(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'demo'?" in refused(results, capsys, "dmeo")


def test_no_data_folder_is_refused(results: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        promote.promote(results / "demo", results=results, tracking_uri=NOWHERE, data_root=results / "none")


def test_without_a_tracker_the_bundle_is_whole(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest search is taken, and the status says that something is left to do."""
    monkeypatch.chdir(results.parent)
    write_journal(results / "later" / "journal.jsonl", events(name="later")[:4])  # newer, but nothing in it is finished
    assert export_best.main(["--results", str(results), "--mlflow", "http://me:hush@127.0.0.1:9"]) == 1
    said = capsys.readouterr()
    (folder,) = (results / "promoted").iterdir()
    assert (folder / "manifest.json").is_file()
    assert "newest search with a finished trial: demo" in said.err
    assert "cannot reach MLflow at http://***@127.0.0.1:9" in " ".join(said.out.split())
    assert "next: vqc-export-best" in said.out
    assert "hush" not in said.out + said.err + "".join(
        path.read_text(encoding="utf-8") for path in folder.glob("*.*") if path.suffix in (".md", ".json")
    )
    assert "\x1b" not in said.out


@pytest.mark.parametrize(
    "step",
    [
        "write_manifest",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("save_model", "save_calibration", "evaluate", "export_onnx", "write_golden",
                         "write_mlflow_model", "write_json", "sign_off_page", "write_texts")
        ),
    ],
)  # fmt: skip
def test_a_failure_keeps_the_old_bundle(
    first: Promotion, trained: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = (first.bundle / "metrics.json").read_bytes()

    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(promote, step, fails)
    with pytest.raises(OSError, match="No space left"):
        promote.promote(trained / "demo", results=results_of(first), tracking_uri=NOWHERE)
    assert (first.bundle / "metrics.json").read_bytes() == before
    assert not list(first.bundle.parent.glob(".*"))


def test_without_a_test_split_it_says_so(trained: Path, tmp_path: Path) -> None:
    root = tmp_path / "parts"
    shutil.copytree(trained / "parts", root)
    shutil.rmtree(root / "test")
    folder = write_search(tmp_path / "results" / "untested", load_data(root), epochs=1)
    done = promote.promote(folder, results=tmp_path / "results", tracking_uri=NOWHERE)
    assert done.evidence.test is None
    assert "There was no test split" in (done.bundle / "model_card.md").read_text(encoding="utf-8")
    assert not [name for name in done.evidence.figures() if name.startswith("test")]


def test_help_is_light() -> None:
    code = (
        "import sys, tune.export_best as e\n"
        "try: e.main(['--help'])\nexcept SystemExit: pass\n"
        "print({'torch', 'mlflow', 'ray', 'optuna', 'rich', 'numpy'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("way", [["tune/export_best.py"], ["-m", "tune.export_best"]])
def test_both_ways_of_calling_it(way: list[str]) -> None:
    root = Path(__file__).parents[2]
    out = subprocess.run(
        [sys.executable, *way, "--help"], capture_output=True, text=True, check=True, timeout=60, cwd=root
    )
    assert "--force" in out.stdout
