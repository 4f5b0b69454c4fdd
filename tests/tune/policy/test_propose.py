"""Proposals: the default first, then spread, then modelled; a function of table and seed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from tests.builders import events
from tests.tables import add_trial, search_settings
from tune.history.events import State
from tune.history.journal import Journal, read_table
from tune.history.table import Table
from tune.policy.propose import _selected, expected_values, propose
from tune.settings import SearchSettings
from tune.space import Params, Space

SETTINGS = search_settings(startup_trials=8)
SQUARE = {"learning_rate": {"low": 1e-3, "high": 1.0}, "weight_decay": {"low": 0.0, "high": 1.0}}
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
    script = (
        "import json; from tests.tune.policy.test_propose import SETTINGS, searched; "
        "print(json.dumps(searched(SETTINGS, 7)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONWARNINGS": "ignore"}
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(said.stdout.splitlines()[-1]) == searched(SETTINGS, 7)


def test_another_seed_proposes_otherwise() -> None:
    assert searched(SETTINGS, 3) != searched(search_settings(startup_trials=4, seed=1), 3)


def test_the_sampler_finds_the_top() -> None:
    rates = [float(params["learning_rate"]) for params in searched(SETTINGS, 14)]
    assert max(quality({"learning_rate": rate}) for rate in rates[4:]) > 0.98


def test_few_trials_differ_by_more_than_the_scatter_of_a_training() -> None:
    """Beside a best one in a corner the sampler would try the same again, a fiftieth of the range away."""
    space, table, points = Space(SETTINGS.space), Table(), list[list[float]]()
    for number in range(1, 17):
        params = propose(table, SETTINGS).params
        point = space.to_unit(params)
        nearest = min((max(map(abs, np.subtract(point, other))) for other in points), default=1.0)
        assert nearest >= (0.1 if number <= 8 else 0.05) - 1e-9 or number <= SETTINGS.startup_trials // 2
        points.append(point)
        add_trial(table, SETTINGS, values=[1 - sum(point) / 3], params=params)


def share_infeasible(seed: int) -> float:
    """Of the proposals after the start-up, in a square with a corner of a quarter of its area that cannot work.

    The best lies close to the border, so that the sampler is tempted.
    """
    settings = search_settings(space=SQUARE, seed=seed)
    table, infeasible = Table(), 0
    for number in range(1, 31):
        params = propose(table, settings).params
        x, y = float(params["learning_rate"]), float(params["weight_decay"])
        if x + y < 2 - math.sqrt(0.5):
            add_trial(table, settings, values=[1 - (x - 0.6) ** 2 - (y - 0.6) ** 2], params=params)
        else:
            add_trial(table, settings, values=[], state="infeasible", params=params)
            infeasible += number > settings.startup_trials // 2
    return infeasible / (30 - settings.startup_trials // 2)


@pytest.mark.parametrize("searches", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_of_a_space_a_quarter_of_which_cannot_work_little_is_proposed(searches: int) -> None:
    assert fmean(share_infeasible(seed) for seed in range(searches)) <= 0.15


def five_trials() -> Table:
    table = Table()
    for number in range(5):
        params: Params = {"learning_rate": 2e-4 * (number + 1), "batch_size": 4, "image_size": 128}
        add_trial(table, SETTINGS, values=[quality(params)], params=params)
    return table


def test_a_failed_trial_is_left_out() -> None:
    table, same = five_trials(), five_trials()
    add_trial(table, SETTINGS, values=[], state="failed", params={**FAST, "batch_size": 4})
    add_trial(same, SETTINGS, values=[0.5], state="failed", params={**FAST, "batch_size": 2})
    assert propose(table, SETTINGS) == propose(same, SETTINGS)


@pytest.mark.parametrize("state", ["proposed", "running"])
def test_no_proposal_is_near_a_live_trial(state: State) -> None:
    table = five_trials()
    first = propose(table, SETTINGS).params
    add_trial(table, SETTINGS, values=[], state=state, params=first)
    second = propose(table, SETTINGS).params
    assert abs(math.log(float(second["learning_rate"]) / float(first["learning_rate"]))) > 0.05


def test_a_search_that_was_resumed_proposes_as_if_it_had_not_been(tmp_path: Path) -> None:
    live, journal = Table(), Journal(tmp_path / "journal.jsonl")
    for event in events(trials=9):
        live.apply(event)
        journal.append(event)
    journal.close()
    settings = SearchSettings.model_validate({**SETTINGS.model_dump(), "space": live.header.settings["space"]})
    assert propose(read_table(tmp_path / "journal.jsonl"), settings) == propose(live, settings)


@pytest.mark.parametrize("origin", ["settings", "portfolio", "warm start"])
def test_initial_points_come_right_after_the_default_with_their_origin(origin: str) -> None:
    settings = search_settings(initial_points=(FAST,), initial_points_origin=origin)
    table = Table()
    add_trial(table, settings, values=[0.1])
    proposal = propose(table, settings)
    assert (proposal.origin, proposal.params) == (origin, FAST)


def test_a_stopped_trial_is_credited_with_what_the_completed_gained() -> None:
    settings = search_settings(epochs=4)
    table = Table()
    add_trial(table, settings, values=[0.1, 0.2, 0.3, 0.5])
    add_trial(table, settings, values=[0.2, 0.3, 0.4, 0.4])
    add_trial(table, settings, values=[0.1, 0.15], state="stopped")
    add_trial(table, settings, values=[0.9], state="failed")
    found = expected_values([trial for trial in table.searched if trial.state != "failed"], settings)
    assert found == pytest.approx({1: 0.5, 2: 0.4, 3: 0.15 + (0.3 + 0.1) / 3})


def test_a_running_trial_has_no_value_before_the_first_rung() -> None:
    settings = search_settings(epochs=52)
    table = Table()
    running = add_trial(table, settings, values=[0.1], state="running")
    assert expected_values([running], settings) == {}


def test_of_thousands_of_trials_the_sampler_sees_the_best_and_the_latest() -> None:
    table = Table()
    for number in range(400):
        add_trial(table, SETTINGS, values=[((number * 37) % 400) / 400])
    trials = table.searched
    selected = _selected(trials, expected_values(trials, SETTINGS))
    assert len(selected) <= 200
    assert trials[-1] in selected
    assert max(trials, key=lambda trial: trial.values("ap50")) in selected


def test_while_nothing_worked_proposals_go_on() -> None:
    table = Table()
    for _ in range(5):
        add_trial(table, SETTINGS, values=[], state="infeasible", params=FAST)
    assert propose(table, SETTINGS).params.keys() == SETTINGS.space.keys()


def test_nothing_is_tried_twice_while_there_is_something_else() -> None:
    """The top lies in a corner, where a noisy process would go again and again."""
    space = {"batch_size": {"choices": [2, 4, 8]}, "image_size": {"choices": [96, 128, 160]}}
    settings = search_settings(space=space, startup_trials=4)
    table, proposed = Table(), []
    for number in range(9):
        params = propose(table, settings).params
        proposed.append((params["batch_size"], params["image_size"]))
        noise = 0.05 * math.sin(17 * number)
        value = 0.5 + float(params["image_size"]) / 400 - float(params["batch_size"]) / 40 + noise
        add_trial(table, settings, values=[value], params=params)
    assert len(set(proposed)) == 9
    assert propose(table, settings).params  # and then something is tried again
