"""Small factories for tests: journals with made-up curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tune.history.events import (
    Ended,
    EpochMeasured,
    Event,
    SearchEnded,
    SearchStarted,
    TrialEnded,
    TrialProposed,
    TrialStarted,
)
from tune.history.journal import Journal
from tune.settings import Budget
from vqc.config import TrainConfig
from vqc.epoch import EpochReport, Scores

START_MS = 1_790_000_000_000


def at(at_ms: int) -> Any:
    """The two clocks of an event, of a search that began at ``START_MS`` and never slept."""
    return {"at_ms": at_ms, "awake_s": (at_ms - START_MS) / 1000}


def epoch_report(epoch: int, *, ap50: float, image_size: int = 128, batch_size: int = 8) -> EpochReport:
    """A plausible report of one epoch that reached ``ap50``."""
    train_s = 2.0 * (image_size / 128) ** 2
    return EpochReport(
        epoch=epoch,
        step=epoch * (128 // batch_size),
        learning_rate=1e-3,
        losses={"classification": 1.5 / epoch, "bbox_regression": 0.8 / epoch, "total": 2.3 / epoch},
        grad_norm=3.0 / epoch,
        scores=Scores(
            ap=ap50 * 0.5, ap50=ap50, ap75=ap50 * 0.4, ar=ap50 * 0.7, class_ap={"scratch": ap50 * 0.5, "dent": None}
        ),
        data_s=0.05,
        train_s=train_s,
        eval_s=0.3,
        images_per_s=128 / train_s,
        peak_vram_gb=None,
        peak_ram_gb=0.9,
    )


def events(*, trials: int = 6, epochs: int = 6, name: str = "demo") -> list[Event]:
    """A finished search: the first trial is the default and completes, the second fails, the third cannot fit,
    later ones are stopped after two epochs unless they beat all before them."""
    clock = START_MS
    settings = {
        "metric": "ap50",
        "train": TrainConfig(num_epochs=epochs).model_dump(mode="json"),
        "rungs": [1 / 3],
        "space": {
            "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
            "batch_size": {"choices": [4, 8]},
            "image_size": {"choices": [96, 128, 160], "unit": "px"},
        },
    }
    out: list[Event] = [
        SearchStarted(
            **at(clock),
            name=name,
            search_id=f"id-of-{name}",
            settings=settings,
            budget=Budget(trials=trials),
            versions={"torch": "2.15"},
            data={"root": "sample", "fingerprint": "abc123", "images": {"train": 128, "val": 48, "test": 48}},
            command="python tune/search.py",
        )  # fmt: skip
    ]
    best = 0.0
    for number in range(1, trials + 1):
        rate = 1e-4 * 10 ** (2 * ((number * 0.618) % 1))
        params: dict[str, float | int | str] = {
            "learning_rate": rate,
            "batch_size": (4, 8)[number % 2],
            "image_size": (96, 128, 160)[number % 3],
        }
        config = TrainConfig(
            num_epochs=epochs, learning_rate=rate, batch_size=int(params["batch_size"]), image_size=params["image_size"]
        )
        clock += 300
        out.append(
            TrialProposed(
                **at(clock), trial=number, params=params, config=config, origin="default" if number == 1 else "sampler"
            )
        )
        clock += 200
        out.append(TrialStarted(**at(clock), trial=number, worker="4711@host"))
        if number == 3:
            out.append(
                TrialEnded(
                    **at(clock + 10), trial=number, state="infeasible", reason="one image of 160x160 does not fit"
                )
            )
            continue
        top = 0.8 * math.exp(-((math.log10(rate) + 2.6) ** 2))
        state: Ended = "completed"
        for epoch in range(1, epochs + 1):
            clock += 2300
            value = top * (1 - math.exp(-epoch / 2))
            out.append(EpochMeasured(**at(clock), trial=number, report=epoch_report(epoch, ap50=value)))
            if number == 2 or (epoch == 2 and value < best):
                state = "failed" if number == 2 else "stopped"
                break
        best = max(best, value)
        reason = {"completed": "all epochs", "failed": "RuntimeError: boom", "stopped": "below the best at epoch 2"}[
            state
        ]
        out.append(TrialEnded(**at(clock + 5), trial=number, state=state, reason=reason))
    out.append(SearchEnded(**at(clock + 50), reason="trials"))
    return out


def write_journal(path: Path, some: list[Event]) -> Path:
    """Write events to a journal file and return its path."""
    book = Journal(path)
    for event in some:
        book.append(event)
    book.close()
    return path


def with_repeats(some: list[Event], repeats: dict[int, list[float]]) -> list[Event]:
    """A finished search whose best trials were run again before its end: trial -> the value of each repeat."""
    *before, end = some
    proposals = {event.trial: event for event in before if isinstance(event, TrialProposed)}
    clock, number = end.at_ms, len(proposals)
    again: list[Event] = []
    for trial, value in ((trial, value) for trial, values in repeats.items() for value in values):
        number, first = number + 1, proposals[trial]
        config = first.config.model_copy(update={"seed": number})
        same = {"trial": number, "params": first.params, "config": config, "origin": "repeat", "repeats": trial}
        again.append(TrialProposed(**at(clock + 10), **same))
        again.append(TrialStarted(**at(clock + 20), trial=number, worker="4711@host"))
        for epoch in range(1, config.num_epochs + 1):
            clock += 2300
            again.append(
                EpochMeasured(
                    **at(clock), trial=number, report=epoch_report(epoch, ap50=value * epoch / config.num_epochs)
                )
            )
        again.append(TrialEnded(**at(clock + 5), trial=number, state="completed", reason="all epochs"))
    return [*before, *again, end.model_copy(update=at(clock + 50))]


def where_repeats_disagree(*, leading_last: bool = False) -> list[Event]:
    """A search whose highest value and whose highest mean over repeats are of different configurations.

    ``leading_last``: the configuration with the highest value is repeated after the other one.
    """
    some = events(trials=12)
    values: dict[int, float] = {}
    for event in some:
        if isinstance(event, EpochMeasured):
            values[event.trial] = max(values.get(event.trial, 0.0), event.report.scores.ap50 or 0.0)
    first, second, *_ = sorted(values, key=lambda trial: -values[trial])
    repeats = {first: [0.1, 0.1], second: [values[second]]}
    return with_repeats(some, dict(reversed(repeats.items())) if leading_last else repeats)
