"""Small factories for tests of the search policy: settings, and tables filled trial by trial."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from tests.builders import START_MS, epoch_report
from tune.history.events import SearchEnded, SearchStarted, State, TrialShortened
from tune.history.table import Table, Trial
from tune.policy.early_stopping import decide
from tune.policy.promotion import RANKED
from tune.policy.propose import Proposal
from tune.policy.rungs import rung_epochs
from tune.settings import Budget, SearchSettings, with_params
from tune.space import Params
from vqc.epoch import EpochReport, Scores

EPOCH_S = 2.3  # of ``epoch_report``
VALUES = st.floats(0.01, 1)  # what a detector that has found something may have
SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "batch_size": {"choices": [2, 4, 8, 16]},
    "image_size": {"choices": [96, 128, 160]},
}


def search_settings(
    *, epochs: int = 12, trials: int | None = 30, hours: float | None = None, **changes: object
) -> SearchSettings:
    """A search of ``fcos_tiny`` over rate, batch and image size."""
    train = {"model": "fcos_tiny", "weights": "none", "image_size": 128, "num_epochs": epochs}
    budget = {"trials": trials, "hours": hours}
    return SearchSettings.model_validate({"train": train, "space": SPACE, "budget": budget, "confirm": 0, **changes})


def search_started(settings: SearchSettings, *, at_ms: int = START_MS) -> SearchStarted:
    """The first event of a search with these settings, on no data."""
    return SearchStarted(
        at_ms=at_ms,
        awake_s=0.0,
        name="t",
        search_id="t",
        settings=settings.model_dump(mode="json", exclude={"budget"}),
        budget=settings.budget,
        data={},
        versions={},
        command="",
    )


def add_trial(
    table: Table,
    settings: SearchSettings,
    *,
    values: Sequence[float],
    state: State = "completed",
    params: Params | None = None,
) -> Trial:
    """Put a trial with these values, one an epoch, into the table; by default of the default configuration."""
    number = len(table.trials) + 1
    params = params or {"learning_rate": 1e-4, "batch_size": 8, "image_size": 128}
    trial = Trial(
        number=number,
        params=params,
        config=with_params(settings.train, params),
        origin="test",
        proposed_s=number,
        state=state,
        reports=[epoch_report(epoch, ap50=value) for epoch, value in enumerate(values, start=1)],
    )
    table.trials[number] = trial
    return trial


def ended_search(reason: str, *, state: State, hours: float = 0.5) -> Table:
    """A search whose best trial has run two of four epochs, of eleven minutes each."""
    settings = search_settings(epochs=4)
    table = Table()
    table.apply(search_started(settings).model_copy(update={"budget": Budget(trials=30, hours=hours)}))
    add_trial(table, settings, values=[0.1, 0.2, 0.3, 0.4])
    best = add_trial(table, settings, values=[0.5, 0.6], state=state)
    best.reports = [report.model_copy(update={"train_s": 600.0, "eval_s": 60.0}) for report in best.reports]
    table.ended = SearchEnded(at_ms=0, awake_s=1800.0, reason=reason)
    return table


def propose_trial(table: Table, settings: SearchSettings, proposal: Proposal) -> Trial:
    """Put a proposed trial without an epoch into the table, of the search's own training configuration.

    For recorded curves, whose searched values are no fields of a ``TrainConfig``.
    """
    number = len(table.trials) + 1
    trial = Trial(
        number=number, params=proposal.params, config=settings.train, origin=proposal.origin, proposed_s=number
    )
    table.trials[number] = trial
    return trial


def measure(trial: Trial, value: float) -> None:
    """One more epoch of the trial, with this AP50 and nothing else; not validated, because curves are long."""
    scores = Scores.model_construct(ap50=value)
    trial.reports.append(EpochReport.model_construct(epoch=trial.epochs + 1, scores=scores))


TWELVE = search_settings(epochs=12)
RUNG, HIGHER = rung_epochs(TWELVE)


def paused(*values: float, epochs: int = RUNG) -> Table:
    """Trials that are paused at a rung, with these values there."""
    table = Table()
    for value in values:
        add_trial(table, TWELVE, values=[value] * epochs, state="paused")
    return table


def decided(table: Table, value: float) -> str:
    """The decision on one more trial that has just reached the first rung."""
    trial = add_trial(table, TWELVE, values=[value] * RUNG, state="running")
    action = decide(table, trial, TWELVE).action
    del table.trials[trial.number]
    return action


def late(*gains: float) -> Table:
    """As many completed trials as gains, all 0.5 at the first rung, and enough others to end the ranking."""
    table = Table()
    for gain in gains:
        add_trial(table, TWELVE, values=[0.5] * RUNG + [0.5 + gain] * (12 - RUNG))
    for _ in range(RANKED * TWELVE.startup_trials):
        add_trial(table, TWELVE, values=[0.0] * RUNG, state="stopped")
    return table


def opened(count: int) -> SearchSettings:
    """With so many initial points."""
    points = [{"learning_rate": 1e-3, "batch_size": 4, "image_size": 96} for _ in range(count)]
    return search_settings(epochs=12, initial_points=points)


def with_a_shortened_trial() -> Table:
    """The search above, whose best trial was left its two epochs and is completed."""
    table = ended_search("hours", state="completed")
    table.apply(TrialShortened(at_ms=0, awake_s=0.0, trial=2, num_epochs=2))
    return table
