"""A finished search on real pictures, small enough to be trained in a test."""

from __future__ import annotations

from pathlib import Path

from tests.builders import START_MS, at, write_journal
from tune.history.events import (
    EpochMeasured,
    Event,
    Param,
    SearchEnded,
    SearchStarted,
    TrialEnded,
    TrialProposed,
    TrialStarted,
)
from tune.paths import journal_of, trial_folder
from tune.settings import Budget
from vqc.config import TrainConfig
from vqc.data.dataset import Data
from vqc.models.checkpoint import save_model
from vqc.training.loop import fit

RATES = (1e-4, 4e-3)  # the default learns next to nothing, the other one a little


def train_config(*, learning_rate: float, epochs: int = 2) -> TrainConfig:
    """The smallest detector on the smallest pictures; float32, because its scores must come back to the last digit."""
    return TrainConfig.model_validate(
        {
            "model": "fcos_tiny",
            "weights": "none",
            "image_size": [96, 96],
            "batch_size": 4,
            "num_epochs": epochs,
            "learning_rate": learning_rate,
            "gpu_optimization": {"mixed_precision": "float32"},
        }
    )


def write_search(folder: Path, data: Data, *, epochs: int = 2) -> Path:
    """Train two trials, as the engine would leave them: a journal and the best checkpoint of each."""
    header = {
        "metric": "ap50",
        "train": train_config(learning_rate=RATES[0], epochs=epochs).model_dump(mode="json"),
        "space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
        "rungs": [],
    }
    clock = START_MS
    events: list[Event] = [
        SearchStarted(
            **at(clock),
            name=folder.name,
            search_id=f"id-of-{folder.name}",
            settings=header,
            budget=Budget(trials=len(RATES)),
            data={**data.summary(), "root": str(data.root.resolve())},
            versions={"torch": "2"},
            command="python tune/search.py --trials 2",
        )
    ]
    for number, rate in enumerate(RATES, start=1):
        config = train_config(learning_rate=rate, epochs=epochs)
        origin = "default" if number == 1 else "sampler"
        params: dict[str, Param] = {"learning_rate": rate}
        events.append(TrialProposed(**at(clock), trial=number, params=params, config=config, origin=origin))
        events.append(TrialStarted(**at(clock), trial=number, worker="1@host"))
        best = float("-inf")
        for epoch in fit(config, data):
            clock += 1000
            value = epoch.report.scores.ap50 or 0.0
            if value > best:
                best = value
                save_model(trial_folder(folder, number) / "best.safetensors", epoch.state.model, epoch.state.info)
            events.append(EpochMeasured(**at(clock), trial=number, report=epoch.report))
        events.append(TrialEnded(**at(clock), trial=number, state="completed", reason="all epochs"))
    events.append(SearchEnded(**at(clock), reason="trials"))
    write_journal(journal_of(folder), events)
    return folder
