"""Journal -> the next configuration. Pure but for its seed: equal tables and seeds give equal proposals.

Trial 1 is the default, so a search can never end worse than it. Then a few points are spread evenly over the
space (a scrambled Halton sequence), and from there a Gaussian process proposes (Optuna's ``GPSampler``): at thirty
trials it needs a third of the trainings that a tree-structured Parzen estimator does.

What the process is told: a trial's last value, whether it was completed or stopped; an infeasible trial as a
broken constraint, at the worst value known; a failed one nothing, because its failure says nothing of the point.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tune.journal import Table, Trial
from tune.settings import SearchSettings
from tune.space import Params, default_params, distributions, from_optuna, from_unit, to_optuna
from vqc.randomness import stream_seed

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["Proposal", "propose", "warm_up"]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Searched values, and who thought of them: default, start-up or sampler."""

    params: Params
    origin: str


def propose(table: Table, settings: SearchSettings) -> Proposal:
    """The configuration to try next, given all that is known."""
    number = len(table.trials) + 1
    if number == 1:
        return Proposal(params=default_params(settings.space, settings.train), origin="default")
    if number <= settings.startup_trials:
        return Proposal(params=_spread(settings, number - 2), origin="start-up")
    return Proposal(params=_modelled(table, settings, number), origin="sampler")


def warm_up() -> None:
    """Import what proposals need, seconds that can pass while something else is waited for.

    Afterwards torch has one thread in this process: a Gaussian process of thirty points is too small to share.
    """
    for module in ("scipy.stats.qmc", "optuna._gp.gp"):
        importlib.import_module(module)
    import torch

    torch.set_num_threads(1)


def _spread(settings: SearchSettings, index: int) -> Params:
    from scipy.stats.qmc import Halton

    sequence = Halton(len(settings.space), rng=stream_seed(settings.seed, "start-up"))
    return from_unit(settings.space, sequence.random(index + 1)[index].tolist())


def _modelled(table: Table, settings: SearchSettings, number: int) -> Params:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.GPSampler(seed=stream_seed(settings.seed, "propose", number), n_startup_trials=2)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(_told(list(table.trials.values()), settings))
    return from_optuna(settings.space, study.ask(distributions(settings.space)).params)


def _told(trials: Sequence[Trial], settings: SearchSettings) -> list[FrozenTrial]:
    from optuna.trial import TrialState, create_trial

    values = {trial.number: trial.values(settings.metric)[-1] for trial in trials if trial.epochs}
    worst = min(values.values(), default=0.0)
    any_infeasible = any(trial.state == "infeasible" for trial in trials)
    told = []
    for trial in trials:
        params = to_optuna(settings.space, trial.params)
        infeasible = trial.state == "infeasible"
        if params is None or trial.state == "failed" or not (infeasible or trial.epochs):
            continue
        one = create_trial(
            state=TrialState.COMPLETE,
            params=params,
            distributions=distributions(settings.space),
            value=worst if infeasible else values[trial.number],
        )
        if any_infeasible:  # a constraint that nothing breaks would only be one more process to fit
            one.set_constraint("fits", 1.0 if infeasible else -1.0)
        told.append(one)
    return told
