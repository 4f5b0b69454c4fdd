"""What Ray says of a lost worker, in the journal's words, and whose doing it was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tune.execution.lost_workers import Loss, Watch

MONITOR = """Failure # 1 (occurred at 2026-11-24_05-40-41)
1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: a9a7f70f) was \
2.89GB used / 23.54GB limit (0.122968)
OOM kill reason: Memory usage 3108212736B exceeded threshold of 3040763136B (12.0% of 25276502016B limit)
Refer to the documentation on how to address the out of memory issue.
"""
SPENT = """Failure # 1 (occurred at 2026-11-24_05-40-41)
ray::ResourceTrainable.reset() (pid=1, ip=192.0.2.2)
tune.execution.ray_backend.WorkerSpentError: 12 MB of GPU memory stayed behind
"""
RAN_OUT = "the machine's memory ran out: 2.89GB of 23.54GB were in use"
DIED = "The actor is dead because its worker process has died."
CRASHED = f"Failure # 1 (occurred at 2026-11-24_05-40-41)\n{DIED}\n"


def lost(message: str, folder: Path, *, started: bool) -> Loss:
    """What a watch makes of Ray's text on a trial whose worker was taken over or not."""
    (folder / "error.txt").write_text(message, encoding="utf-8")
    state = SimpleNamespace(ray_actor="an actor")
    trial = SimpleNamespace(trial_id="a", error_file=str(folder / "error.txt"), temporary_state=state)
    watch = Watch(lambda trial: 600.0, lambda actor: None, spent="WorkerSpentError")
    if started:
        watch.started(trial)
    return watch.lost(trial)


@pytest.mark.parametrize(
    ("message", "started", "expected"),
    [
        (MONITOR, True, Loss(reason=RAN_OUT, out_of_memory=True, innocent=False)),
        (SPENT, False, Loss(reason="12 MB of GPU memory stayed behind", out_of_memory=False, innocent=True)),
        (CRASHED, True, Loss(reason=DIED, out_of_memory=False, innocent=False)),
        (CRASHED, False, Loss(reason=DIED, out_of_memory=False, innocent=True)),
        ("", True, Loss(reason="the worker was lost", out_of_memory=False, innocent=False)),
    ],
)
def test_a_loss_has_a_reason_and_is_counted_against_whoever_had_a_part_in_it(
    message: str, started: bool, expected: Loss, tmp_path: Path
) -> None:
    assert lost(message, tmp_path, started=started) == expected
