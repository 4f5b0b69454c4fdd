"""Proposals: the default first, then spread, then modelled; a function of table and seed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest

from tests.tables import add_trial, search_settings
from tune.journal import State, Table
from tune.propose import propose
from tune.settings import SearchSettings
from tune.space import Params

SETTINGS = search_settings(startup_trials=4)
FAST: Params = {"learning_rate": 5e-3, "batch_size": 4, "image_size": 128}


def quality(params: Params) -> float:
    """A made-up score with its top at a learning rate of 3e-3."""
    return math.exp(-((math.log10(float(params["learning_rate"])) + 2.5) ** 2))


def searched(settings: SearchSettings, trials: int, *, limit: float = math.inf) -> list[Params]:
    """Proposals of a whole search in which batches of ``limit`` images and more do not fit."""
    table, proposed = Table(), []
    for _ in range(trials):
        params = propose(table, settings).params
        proposed.append(params)
        if float(params["batch_size"]) >= limit:
            add_trial(table, settings, values=[], state="infeasible", params=params)
        else:
            add_trial(table, settings, values=[quality(params)], params=params)
    return proposed


def test_the_default_comes_first_then_a_spread_then_the_sampler() -> None:
    table, origins = Table(), []
    for _ in range(6):
        proposal = propose(table, SETTINGS)
        origins.append(proposal.origin)
        add_trial(table, SETTINGS, values=[quality(proposal.params)], params=proposal.params)
    assert origins == ["default", "start-up", "start-up", "start-up", "sampler", "sampler"]
    assert table.trials[1].params == {"learning_rate": 1e-4, "batch_size": 8, "image_size": 128}


def test_equal_seeds_propose_alike_in_a_fresh_process_with_another_hash_seed() -> None:
    script = "import json; from tests.test_propose import SETTINGS, searched;print(json.dumps(searched(SETTINGS, 7)))"
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONWARNINGS": "ignore"}
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(said.stdout.splitlines()[-1]) == searched(SETTINGS, 7)


def test_another_seed_proposes_otherwise() -> None:
    assert searched(SETTINGS, 3) != searched(search_settings(startup_trials=4, seed=1), 3)


def test_the_sampler_finds_the_top() -> None:
    rates = [float(params["learning_rate"]) for params in searched(SETTINGS, 14)]
    assert max(quality({"learning_rate": rate}) for rate in rates[4:]) > 0.98


def test_what_cannot_fit_is_hardly_proposed_again() -> None:
    later = searched(search_settings(startup_trials=6), 20, limit=16)[6:]
    assert sum(params["batch_size"] == 16 for params in later) <= 0.15 * len(later)


def five_trials() -> Table:
    table = Table()
    for number in range(5):
        params: Params = {"learning_rate": 2e-4 * (number + 1), "batch_size": 4, "image_size": 128}
        add_trial(table, SETTINGS, values=[quality(params)], params=params)
    return table


def test_a_failed_trial_says_nothing() -> None:
    table, same = five_trials(), five_trials()
    add_trial(table, SETTINGS, values=[], state="failed", params={**FAST, "batch_size": 4})
    add_trial(same, SETTINGS, values=[0.5], state="failed", params={**FAST, "batch_size": 2})
    assert propose(table, SETTINGS) == propose(same, SETTINGS)


@pytest.mark.parametrize("state", ["proposed", "running"])
def test_where_a_trial_is_under_way_no_other_is_sent(state: State) -> None:
    table = five_trials()
    first = propose(table, SETTINGS).params
    add_trial(table, SETTINGS, values=[], state=state, params=first)
    second = propose(table, SETTINGS).params
    assert abs(math.log(float(second["learning_rate"]) / float(first["learning_rate"]))) > 0.05
