"""The policies that ours is compared with are what they claim to be."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.benchmarks.rivals import asha, i_epoch_decision, i_epoch_promotion, propose_by_gp, propose_by_tpe
from tests.builders import epoch_report
from tests.tables import add_trial, search_settings
from tune.history.table import Table
from tune.policy.rungs import rung_epochs

SETTINGS = search_settings(epochs=12)
RANGES = search_settings(space={"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}})


class FakeTrial:
    """All of a Ray trial that its bracket looks at."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


@pytest.mark.parametrize("values", [[0.5, 0.4, 0.45, 0.6, 0.1, 0.59], [0.1] * 5, [0.3, 0.2, 0.1, 0.4, 0.35, 0.5]])
def test_asha_is_rays(values: Sequence[float]) -> None:
    from ray.tune.schedulers.async_hyperband import _Bracket

    bracket = _Bracket(3, 12, 3, 0)
    table, found, expected = Table(), [], []
    for number, value in enumerate(values):
        trial = add_trial(table, SETTINGS, values=[value] * 3, state="running")
        found.append(asha(table, trial, SETTINGS, grace=3, factor=3).action)
        trial.state = "stopped"
        expected.append(str(bracket.on_result(FakeTrial(f"{number}"), 3, value)).lower())
    assert found == expected


def test_i_epoch_trains_its_best_once_all_were_tried() -> None:
    settings = search_settings(epochs=12, trials=4, keep_leaders=2)
    rung = rung_epochs(settings)[0]
    table = Table()
    for value in (0.1, 0.4, 0.3):
        add_trial(table, settings, values=[value] * rung, state="paused")
    assert i_epoch_promotion(table, settings) is None
    add_trial(table, settings, values=[0.2] * rung, state="paused")
    order = []
    while (trial := i_epoch_promotion(table, settings)) is not None:
        order.append(trial.number)
        trial.state = "completed"
    assert order == [2, 3]


def test_i_epoch_pauses_once() -> None:
    settings = search_settings(epochs=52)
    trial = add_trial(Table(), settings, values=[], state="running")
    table, pauses = Table(trials={1: trial}), []
    for epoch in range(1, 52):
        trial.reports.append(epoch_report(epoch, ap50=0.5))
        pauses += [epoch] if i_epoch_decision(table, trial, settings).action == "pause" else []
    assert pauses == [9]


@pytest.mark.parametrize("multivariate", [True, False])
def test_tpe_starts_with_the_default_and_then_proposes_inside_the_space(*, multivariate: bool) -> None:
    table, origins, rates = Table(), [], []
    for number in range(12):
        proposal = propose_by_tpe(table, RANGES, multivariate=multivariate)
        origins.append(proposal.origin)
        rates.append(float(proposal.params["learning_rate"]))
        add_trial(table, RANGES, values=[number / 12], params={**proposal.params})
    assert origins == ["default", *["sampler"] * 11]
    assert 1e-4 <= min(rates) < max(rates) <= 1e-2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_optunas_gp_sampler_proposes_after_the_start_up() -> None:
    table, origins = Table(), []
    for number in range(5):
        proposal = propose_by_gp(table, SETTINGS)
        origins.append(proposal.origin)
        add_trial(table, SETTINGS, values=[0.1 * number], params=proposal.params)
    assert origins == ["default", "start-up", "start-up", "start-up", "sampler"]
