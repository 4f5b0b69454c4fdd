"""The benchmark that waits for a GPU: what of it a CPU can run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.benchmarks import gpu
from tests.builders import events
from tune.history.table import Table


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["gpu.py", *words])
    return gpu.main()


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("vqc.hardware.gpu.read_gpu", lambda: None)
    assert run(monkeypatch, "--vram-gb", "6") == gpu.NO_GPU
    assert capsys.readouterr().err.count("\n") == 1


def test_a_part_measured_again_replaces_its_section_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "GPU.md"
    report = gpu.Report(
        title="Within 6 GB of a card", sections={"memory": "| a |\n|---|\n\nOn Monday.", "speed": "slow"}
    )
    path.write_text(report.text(), encoding="utf-8")
    assert gpu.Report.read(path, "Within 6 GB of a card") == report
    assert gpu.Report.read(path, "Within 8 GB of a card").sections == {}
    assert gpu.Report.read(tmp_path / "none", "x").sections == {}


def test_lost_trials_and_skipped_steps_are_counted() -> None:
    """Of the six trials one failed and one cannot fit. The made-up reports count steps in batches of 8: of the three
    trials in batches of 4 with five epochs between them, half of the 160 steps are missing."""
    table = Table()
    for event in events():
        table.apply(event)
    assert gpu.ours(table) == "| vqc-tune | 6 | 1 | 1 | 80 |"


@pytest.mark.slow
def test_a_rehearsal_leaves_the_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "GPU.md"
    assert run(monkeypatch, "--rehearse", "--out", str(path), "--parts", "memory", "speed") == 0
    text = path.read_text(encoding="utf-8")
    assert re.search(r"\| fcos_tiny \| 64 px, 4 \|  \| \d+\.\d\d \| \d+\.\d\d \| 4 \|", text)
    assert re.search(r"\| fcos_tiny \| 64 px, 4 \| [\d.]+ \| [\d.]+ \| [\d.]+ \|", text)
    assert "failed" not in text
