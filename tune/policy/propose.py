"""Journal -> the next configuration. Pure but for its seed: equal tables and seeds give equal proposals.

Trial 1 is the default. Then come the initial points (of a portfolio, an earlier search or the settings) or, without
them, a few points spread evenly over the space (a scrambled Halton sequence); from there a Gaussian process proposes
(``tune.policy.sampler``): at thirty trials it needs a third of the trainings that Optuna's TPE needs.

The sampler sees a completed trial with its last value; a stopped or paused one with its predicted final value
(``tune.policy.learning_curves``); a running one only as a point; an infeasible one as a violated constraint. A failed
one is left out, because its failure says nothing about the point.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tune.history.table import Table, Trial
from tune.policy.learning_curves import predict_final_values
from tune.policy.rungs import rung_epochs
from tune.settings import SearchSettings
from tune.space import Params, Space
from vqc.seeding import stream_seed

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

MAX_BEST = 120  # trials that the sampler sees: the best ones,
MAX_LATEST = 60  # and the latest ones, so that a proposal costs the same after 3,000 trials


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Searched values, and where they come from: default, portfolio, warm start, settings, start-up or sampler."""

    params: Params
    origin: str


def propose(table: Table, settings: SearchSettings) -> Proposal:
    """The configuration to try next, given all that is known."""
    space = Space(settings.space)
    number = len(table.searched) + 1
    if number == 1:
        return Proposal(params=space.params_of(settings.train), origin="default")
    if number <= 1 + len(settings.initial_points):
        return Proposal(params=dict(settings.initial_points[number - 2]), origin=settings.initial_points_origin)
    if number <= settings.startup_trials // 2:
        return Proposal(params=_spread(space, settings, number - 2), origin="start-up")
    from tune.policy.sampler import GaussianProcessSampler

    sampler = GaussianProcessSampler(space, seed=stream_seed(settings.seed, "propose", number))
    return Proposal(params=sample(table, settings, sampler), origin="sampler")


def sample(table: Table, settings: SearchSettings, sampler: BaseSampler) -> Params:
    """What an Optuna sampler proposes over the unit cube, given the search so far."""
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space = Space(settings.space)
    cube = space.distributions()
    trials = [trial for trial in table.searched if trial.state != "failed"]
    values = expected_values(trials, settings)
    for trial in _selected(trials, values):
        if not space.contains(trial.params):  # a default may lie outside
            continue
        infeasible = trial.state == "infeasible"
        value = min(values.values(), default=0.0) if infeasible else values.get(trial.number)
        observation = create_trial(
            state=TrialState.RUNNING if value is None else TrialState.COMPLETE,
            params=dict(zip(cube, space.to_unit(trial.params), strict=True)),
            distributions=cube,
            value=value,
        )
        if infeasible:
            observation.set_constraint("feasible", 1.0)
        study.add_trial(observation)
    point = study.ask(cube).params
    return space.from_unit([point[name] for name in cube])


def expected_values(trials: Sequence[Trial], settings: SearchSettings) -> dict[int, float]:
    """Trial number -> the value expected after all epochs, for every trial with at least one.

    A live trial has no value before the first rung: what it reached in an epoch or two says little.
    """
    first = min(rung_epochs(settings), default=settings.train.num_epochs)
    known = [trial for trial in trials if trial.epochs and not (trial.is_live and trial.epochs < first)]
    completed = [trial for trial in known if trial.state == "completed"]
    return {number: predicted.mean for number, predicted in predict_final_values(known, completed, settings).items()}


def preload() -> None:
    """Import what proposals need, half a second that can pass while something else is waited for."""
    for module in ("scipy.stats.qmc", "scipy.optimize", "tune.policy.sampler"):
        importlib.import_module(module)


def _spread(space: Space, settings: SearchSettings, index: int) -> Params:
    from scipy.stats.qmc import Halton

    sequence = Halton(len(settings.space), rng=stream_seed(settings.seed, "start-up"))
    sequence.fast_forward(index)
    return space.from_unit(sequence.random(1)[0].tolist())


def _selected(trials: Sequence[Trial], values: dict[int, float]) -> list[Trial]:
    """The best and the latest, in the order of proposal."""
    best = sorted(trials, key=lambda trial: (-values.get(trial.number, float("-inf")), trial.number))[:MAX_BEST]
    numbers = {trial.number for trial in (*best, *trials[-MAX_LATEST:])}
    return [trial for trial in trials if trial.number in numbers]
