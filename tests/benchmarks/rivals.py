"""Other search policies, to compare ours with (``policy.py``): random, i-Epoch, Ray's ASHA, Optuna's samplers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tune.history.table import Table, Trial
from tune.policy.early_stopping import RungDecision
from tune.policy.promotion import all_tried
from tune.policy.propose import Proposal, propose, sample
from tune.settings import Dimension, SearchSettings
from tune.space import Params
from vqc.seeding import stream_seed

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["asha", "i_epoch_decision", "i_epoch_promotion", "never_stop", "propose_by_gp", "propose_by_tpe",
           "propose_random"]  # fmt: skip

CONTINUE = RungDecision(action="continue")


def propose_random(table: Table, settings: SearchSettings) -> Proposal:
    """The default first, then points spread evenly over the space, without end."""
    return propose(table, settings.model_copy(update={"startup_trials": 10**9}))


def propose_by_tpe(table: Table, settings: SearchSettings, *, multivariate: bool) -> Proposal:
    """What Ray's ``OptunaSearch`` would propose: Optuna's TPE over the ranges, with last values; the default first.

    Stopped trials count as complete.
    """
    import optuna

    if not table.trials:
        return propose(table, settings)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges = _ranges(settings)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=_seed(table, settings), multivariate=multivariate),
    )
    for trial in table.searched:
        if trial.epochs and trial.state not in ("failed", "infeasible"):
            value = trial.values(settings.metric)[-1]
            study.add_trial(optuna.trial.create_trial(params=trial.params, distributions=ranges, value=value))
    params: Params = dict(study.ask(ranges).params)
    return Proposal(params=params, origin="sampler")


def propose_by_gp(table: Table, settings: SearchSettings) -> Proposal:
    """Our proposals with Optuna's ``GPSampler`` in the place of our sampler."""
    from optuna.samplers import GPSampler

    if len(table.searched) < max(1 + len(settings.initial_points), settings.startup_trials // 2):
        return propose(table, settings)
    sampler = GPSampler(seed=_seed(table, settings), n_startup_trials=0, deterministic_objective=False)
    return Proposal(params=sample(table, settings, sampler), origin="sampler")


def never_stop(table: Table, trial: Trial, settings: SearchSettings) -> RungDecision:
    return CONTINUE


def i_epoch_decision(table: Table, trial: Trial, settings: SearchSettings) -> RungDecision:
    """All pause once, at the lowest of the rungs given in the settings."""
    pauses = trial.epochs == math.ceil(settings.rungs[0] * settings.train.num_epochs)
    return RungDecision(action="pause") if pauses else CONTINUE


def i_epoch_promotion(table: Table, settings: SearchSettings) -> Trial | None:
    """Once all trials were tried briefly, the best that are paused, until ``keep_leaders`` were trained in full."""
    paused = [trial for trial in table.searched if trial.state == "paused"]
    promoted = sum(trial.state in ("completed", "running") for trial in table.searched)
    if not all_tried(table, settings) or promoted >= settings.keep_leaders:
        return None
    return min(paused, key=lambda trial: (-trial.values(settings.metric)[-1], trial.number), default=None)


def asha(table: Table, trial: Trial, settings: SearchSettings, *, grace: int, factor: int) -> RungDecision:
    """Ray's ``AsyncHyperBandScheduler`` with one bracket: a trial below the cutoff of those before it stops.

    The rungs are ``grace * factor**k`` epochs; the cutoff is the upper ``1 / factor`` quantile.
    """
    epoch, most = trial.epochs, settings.train.num_epochs
    rungs = [grace * factor**k for k in range(int(math.log(most / grace) / math.log(factor) + 1))]
    others = [other for other in table.searched if other is not trial and other.epochs >= epoch]
    if epoch not in rungs or not others:
        return CONTINUE
    cutoff = float(
        np.percentile([other.values(settings.metric)[epoch - 1] for other in others], (1 - 1 / factor) * 100)
    )
    return CONTINUE if trial.values(settings.metric)[-1] >= cutoff else RungDecision(action="stop")


def _seed(table: Table, settings: SearchSettings) -> int:
    return stream_seed(settings.seed, "propose", len(table.searched) + 1)


def _ranges(settings: SearchSettings) -> dict[str, BaseDistribution]:
    return {name: _range(dimension) for name, dimension in settings.space.items()}


def _range(dimension: Dimension) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices is not None:
        return CategoricalDistribution(dimension.choices)
    low, high = dimension.low or 0.0, dimension.high or 0.0
    if dimension.integer:
        return IntDistribution(int(low), int(high), log=dimension.log)
    return FloatDistribution(low, high, log=dimension.log)
