"""The program fails in a real search: trials that raise, hang, crash, or run out of memory, and the others go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import Row
from tests.faults.night import SETTINGS, Night, repeated_epochs
from tune.history.events import State
from tune.history.journal import Follower
from tune.history.table import Table, Trial
from tune.policy.propose import propose
from tune.settings import SearchSettings
from vqc.config import TrainConfig
from vqc.data.dataset import Data, load_data
from vqc.epoch import EpochReport
from vqc.training.loop import fit

INJECTED = Path(__file__).parent / "injected" / "sitecustomize.py"
EPOCHS = 2
MARGIN_S = 5.0  # instead of ten minutes, for the trial that hangs
GB = 2**30
SPARE_GB, HOG_GB = 6, 9  # that the search may take until Ray's monitor ends a worker; what the hog would take
ALWAYS = 99
LONGEST_S = 600.0  # it takes three minutes where nothing else runs


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What breaks, in which trial, where in it and how often; and what is to become of the trial."""

    name: str
    trial: int
    kind: str
    place: str = "after epoch 1"
    times: int = 1
    state: State = "completed"
    reason: str = ""  # part of it


FAULTS = (
    Fault(name="a trial raises what cannot be pickled", trial=2, kind="raise"),
    Fault(
        name="a trial crashes its worker whenever it is tried", trial=3, kind="abort", place="start", times=ALWAYS,
        state="failed", reason="worker process has died",
    ),
    Fault(name="a worker raises while it starts", trial=4, kind="raise", place="setup"),
    Fault(name="a loss is NaN", trial=5, kind="nan", state="infeasible", reason="the loss is not finite"),
    Fault(
        name="memory is refused whenever it is asked for", trial=6, kind="MemoryError", place="start", times=ALWAYS,
        state="infeasible", reason="MemoryError",
    ),
    Fault(name="a worker raises while it is reused", trial=7, kind="raise", place="reset"),
    Fault(name="memory runs out and Ray ends the worker", trial=7, kind="hog"),
    Fault(name="a trial hangs, its worker stopped for good", trial=8, kind="stop"),
)  # fmt: skip


RACE = SearchSettings.model_validate({**SETTINGS, "startup_trials": 1})


def write_faults(folder: Path, faults: Sequence[Fault]) -> Path:
    """A folder for ``PYTHONPATH`` that breaks trials so."""
    folder.mkdir()
    shutil.copy(INJECTED, folder)
    plan = {
        "faults": [asdict(fault) for fault in faults],
        "hurried": next((fault.trial for fault in faults if fault.kind == "stop"), 0),
        "margin_s": MARGIN_S,
        "hog_bytes": HOG_GB * GB,
    }
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_whatever_a_trial_does_the_others_go_on(
    night: Callable[..., Night], record: Callable[[Row], None], tmp_path: Path
) -> None:
    memory = psutil.virtual_memory()
    if memory.available < (SPARE_GB + 4) * GB:
        pytest.skip(f"{memory.available / GB:.0f} GB of memory are free, {SPARE_GB + 4} are needed")
    injected = write_faults(tmp_path / "injected", FAULTS)
    search = night(
        settings={
            "train": {**SETTINGS["train"], "num_epochs": EPOCHS},
            "budget": {"trials": FAULTS[-1].trial + 1},
            "rungs": [],
            "confirm": 0,
        },
        environment={
            "PYTHONPATH": str(injected),
            "RAY_memory_usage_threshold": f"{(memory.total - memory.available + SPARE_GB * GB) / memory.total:.4f}",
        },
    )
    search.begin()
    assert search.ended(timeout_s=LONGEST_S) == 0, search.said
    table = search.table
    assert repeated_epochs(search.journal) == 0
    faults = {fault.trial: fault for fault in FAULTS}
    for trial in table.trials.values():
        fault = faults.get(trial.number)
        assert (trial.number, trial.state) == (trial.number, fault.state if fault else "completed")
        assert (fault.reason if fault else "") in trial.reason
    data = load_data(tmp_path / "data")
    lost = {trial.number: differing(trial, alone(trial.config, data)[: due(trial)]) for trial in table.trials.values()}
    assert sum(lost.values()) == 0
    proposed = propose(table, RACE)
    assert proposed == propose(without(table, "failed"), RACE)
    assert proposed != propose(without(table, "infeasible"), RACE)
    for k, fault in enumerate(FAULTS):
        strikes = list(injected.glob(f"struck-{k}-*"))
        seconds = max(again_s(search.journal, fault, strike) for strike in strikes)
        record(Row(fault=f"program: {fault.name}", injected=len(strikes), lost=lost[fault.trial], again_s=seconds))


@pytest.mark.slow
def test_what_breaks_every_trial_ends_the_search_and_loses_none(
    night: Callable[..., Night], record: Callable[[Row], None], tmp_path: Path
) -> None:
    every = [
        Fault(name="", trial=number, kind="raise", place=place, times=ALWAYS)
        for number in range(2, SETTINGS["budget"]["trials"] + 1)
        for place in ("start", "after epoch 1")
    ]
    injected = write_faults(tmp_path / "injected", every)
    search = night(
        settings={"train": {**SETTINGS["train"], "num_epochs": EPOCHS}, "rungs": [], "confirm": 0},
        environment={"PYTHONPATH": str(injected)},
    )
    search.begin()
    assert search.ended() == 2
    assert "3 trials failed one after the other, the last with: UnpicklableError: broken on purpose" in search.said
    assert "Traceback" not in search.said
    assert "UnpicklableError" in (search.results / search.name / "search.log").read_text(encoding="utf-8")
    states = [trial.state for trial in search.table.trials.values()]
    assert states == ["completed", *["interrupted"] * 3]
    (injected / "sitecustomize.py").unlink()
    search.resume()
    again_s = search.wait_for(lambda table: table.trials[2].epochs > 0)
    assert search.ended() == 0, search.said
    data = load_data(tmp_path / "data")
    lost = sum(differing(trial, alone(trial.config, data)) for trial in search.table.trials.values())
    lost += SETTINGS["budget"]["trials"] - sum(trial.state == "completed" for trial in search.table.trials.values())
    assert lost == 0
    record(Row(fault="program: every trial fails, as after a driver's reset", injected=3, lost=lost, again_s=again_s))


def due(trial: Trial) -> int:
    """How many epochs there must be of a trial."""
    before = [fault for fault in FAULTS if fault.trial == trial.number and fault.place == "start"]
    return EPOCHS if trial.state == "completed" else 0 if before else 1


def alone(config: TrainConfig, data: Data) -> list[EpochReport]:
    """The epochs of a training that nobody disturbs."""
    return [epoch.report for epoch in fit(config, data)]


def differing(trial: Trial, undisturbed: Sequence[EpochReport]) -> int:
    """How many of the undisturbed epochs the trial lacks, or has with other figures."""
    found = [(report.scores, report.losses) for report in trial.reports]
    return sum(found[k : k + 1] != [(report.scores, report.losses)] for k, report in enumerate(undisturbed))


def again_s(journal: Path, fault: Fault, strike: Path) -> float:
    """Seconds from a fault to the next epoch of any trial; the one that it struck after may be recorded late."""
    struck_ms = strike.stat().st_mtime * 1000
    epochs = [event for event in Follower(journal).poll() if event.event == "epoch" and event.at_ms > struck_ms]
    late = (fault.trial, f"after epoch {epochs[0].report.epoch}") == (epochs[0].trial, fault.place)
    return (epochs[1 if late else 0].at_ms - struck_ms) / 1000


def without(table: Table, state: State) -> Table:
    """The table as if the trials that ended so had been other ones."""
    changed = deepcopy(table)
    for trial in changed.trials.values():
        if trial.state == state:
            trial.params = {**trial.params, "learning_rate": 1e-4}
    return changed
