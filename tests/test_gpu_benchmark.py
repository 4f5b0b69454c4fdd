"""The benchmark that waits for a GPU: what of it a CPU can run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import gpu
from tests.benchmarks.gpu_bench import FULL, REHEARSAL, Bench
from tests.benchmarks.gpu_report import TABLES, report

GPU_MD = Path(gpu.__file__).with_name("GPU.md")


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["gpu.py", *words])
    return gpu.main()


def written(folder: Path, *rows: dict[str, object]) -> Bench:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Bench(scale=REHEARSAL, folder=folder, rehearsal=True)


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run(monkeypatch, "--out", str(tmp_path)) == gpu.NO_GPU
    assert capsys.readouterr().err.count("\n") == 1


def test_what_was_measured_to_its_end_is_not_measured_again(tmp_path: Path) -> None:
    measured = {"call": "A", "case": "resume"}
    bench = written(tmp_path, {**measured, "table": "resume"}, {**measured, "table": "failed"})
    assert "resume" in gpu.left(bench, "A")
    bench = written(tmp_path, {**measured, "table": "done"})
    assert "resume" not in gpu.left(bench, "A")
    assert "allocator" in gpu.left(bench, "A")


def test_a_case_that_takes_too_long_is_stopped_and_loses_no_row(tmp_path: Path) -> None:
    before = {"call": "A", "case": "worker", "table": "worker", "trial": 1}
    bench = written(tmp_path, before)
    gpu.run(bench, "A", "worker", seconds=0.1)
    kept, failed = gpu.rows(tmp_path)
    assert kept == before
    assert (failed["table"], failed["why"]) == ("failed", "stopped after 0 s")


def test_the_report_has_a_table_for_every_row_and_the_command_for_every_empty_one() -> None:
    rows = [
        {"table": "speed", "call": "C", "case": "speed x", "detector": "x", "times": 1.2345, "GPU busy": None},
        {"table": "failed", "call": "C", "case": "switches", "why": "exit status 1"},
        {"table": "failed", "call": "C", "case": "speed x", "why": "took too long"},
        {"table": "done", "call": "C", "case": "speed x"},
    ]
    text = report(rows, {"card": "a card", "commit": "abc"})
    assert "Measured: card a card, commit abc." in text
    assert "| x | 1.23 |  |" in text
    assert "| C | switches | exit status 1 |" in text
    assert "took too long" not in text
    assert "--call A" in text


def test_the_tables_in_the_repository_are_empty_as_long_as_nothing_was_measured() -> None:
    text = GPU_MD.read_text(encoding="utf-8")
    assert "Nothing was measured yet" not in text or text == report([]), (
        "python -m tests.benchmarks.gpu_report > tests/benchmarks/GPU.md"
    )


def test_every_case_of_every_call_has_a_name_of_its_own() -> None:
    names = [(call, name) for call, cases in gpu.CALLS.items() for name in cases(FULL)]
    assert len(names) == len(set(names)) > 50
    assert {call for call, _ in TABLES.values()} == {*gpu.CALLS, ""}


@pytest.mark.slow
def test_a_rehearsal_fills_every_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ["--rehearse", "--call", "A", "B", "C", "--out", str(tmp_path), "--deadline-s", "900"]
    assert run(monkeypatch, *words) == 0, gpu.rows(tmp_path)
    found = {row["table"] for row in gpu.rows(tmp_path)}
    assert found == {name for name, (call, _) in TABLES.items() if call in ("A", "B", "C")} | {"done"}
    assert "--call D" in (tmp_path / "GPU.md").read_text(encoding="utf-8")
