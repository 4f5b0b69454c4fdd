"""Journal -> the next configuration. Pure but for its seed: equal tables and seeds give equal proposals.

Trial 1 is the default. Then comes the opening, what did well elsewhere or in an earlier search, or a few points spread
evenly over the space (a scrambled Halton sequence, half of the start-up); from there a Gaussian process proposes
(``tune.policy.sampler``): at thirty trials it needs a third of the trainings that a tree-structured Parzen estimator
does.

What the sampler is told: a completed trial its last value; one that was stopped or waits, what it may be expected to
reach (``tune.policy.learning_curves``); a running one only where it is; an infeasible one as a broken constraint; a
failed one nothing, because its failure says nothing of the point.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tune.history.table import Table, Trial
from tune.policy.early_stopping import rung_epochs
from tune.policy.learning_curves import outlooks
from tune.settings import SearchSettings
from tune.space import Params, default_params, distributions, from_optuna, from_unit, to_optuna
from vqc.seeding import stream_seed

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

__all__ = ["Proposal", "expected_values", "propose", "propose_by_tpe", "warm_up"]

UNDER_WAY = ("proposed", "running", "interrupted")
MOST_BEST = 120  # trials that the sampler is told: the best ones,
MOST_RECENT = 60  # and the latest ones, so that a proposal costs the same after 3,000 trials


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Searched values, and who thought of them: default, portfolio, start-up or sampler."""

    params: Params
    origin: str


def propose(table: Table, settings: SearchSettings) -> Proposal:
    """The configuration to try next, given all that is known."""
    number = len(table.searched) + 1
    if number == 1:
        return Proposal(params=default_params(settings.space, settings.train), origin="default")
    if number <= 1 + len(settings.opening):
        return Proposal(params=dict(settings.opening[number - 2]), origin="portfolio")
    spread_only = settings.policy in ("random", "i-epoch")
    if spread_only or number <= settings.startup_trials // 2:
        return Proposal(params=_spread(settings, number - 2), origin="start-up")
    if settings.policy == "stock":
        return propose_by_tpe(table, settings, multivariate=False)
    from tune.policy.sampler import GaussianSampler

    trials = [trial for trial in table.searched if trial.state != "failed"]
    sampler = GaussianSampler(settings.space, seed=stream_seed(settings.seed, "propose", number))
    return _asked(trials, expected_values(trials, settings), settings, sampler)


def propose_by_tpe(table: Table, settings: SearchSettings, *, multivariate: bool) -> Proposal:
    """What Ray's ``OptunaSearch`` would propose: Optuna's TPE, told last values; the default first."""
    if not table.trials:
        return Proposal(params=default_params(settings.space, settings.train), origin="default")
    from optuna.samplers import TPESampler

    trials = [trial for trial in table.searched if trial.state not in ("failed", "infeasible")]
    values = {trial.number: trial.values(settings.metric)[-1] for trial in trials if trial.epochs}
    seed = stream_seed(settings.seed, "propose", len(table.searched) + 1)
    return _asked(trials, values, settings, TPESampler(seed=seed, multivariate=multivariate))


def warm_up() -> None:
    """Import what proposals need, half a second that can pass while something else is waited for."""
    for module in ("scipy.stats.qmc", "scipy.optimize", "tune.policy.sampler"):
        importlib.import_module(module)


def expected_values(trials: Sequence[Trial], settings: SearchSettings) -> dict[int, float]:
    """Trial number -> the value expected after all epochs, for every trial with at least one.

    One that did not get there is credited with what it may be expected to gain, see ``tune.policy.learning_curves``. A
    running one has no value before the first rung: what it reached in an epoch or two says little.
    """
    first = min(rung_epochs(settings), default=settings.train.num_epochs)
    valued = [trial for trial in trials if trial.epochs and not (trial.state in UNDER_WAY and trial.epochs < first)]
    finished = [trial for trial in valued if trial.state == "completed"]
    return {number: outlook.mean for number, outlook in outlooks(valued, finished, settings).items()}


def _spread(settings: SearchSettings, index: int) -> Params:
    from scipy.stats.qmc import Halton

    sequence = Halton(len(settings.space), rng=stream_seed(settings.seed, "start-up"))
    sequence.fast_forward(index)
    return from_unit(settings.space, sequence.random(1)[0].tolist())


def _asked(
    trials: Sequence[Trial], values: Mapping[int, float], settings: SearchSettings, sampler: BaseSampler
) -> Proposal:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(_told(trials, values, settings))
    params = from_optuna(settings.space, study.ask(distributions(settings.space)).params)
    return Proposal(params=params, origin="sampler")


def _told(trials: Sequence[Trial], values: Mapping[int, float], settings: SearchSettings) -> list[FrozenTrial]:
    from optuna.trial import TrialState, create_trial

    worst = min(values.values(), default=0.0)
    space = distributions(settings.space)
    told = []
    for trial in _most_telling(trials, values):
        params = to_optuna(settings.space, trial.params)
        if params is None:
            continue
        infeasible = trial.state == "infeasible"
        value = worst if infeasible else values.get(trial.number)
        state = TrialState.RUNNING if value is None else TrialState.COMPLETE
        one = create_trial(state=state, params=params, distributions=space, value=value)
        if infeasible:
            one.set_constraint("fits", 1.0)
        told.append(one)
    return told


def _most_telling(trials: Sequence[Trial], values: Mapping[int, float]) -> list[Trial]:
    """The best and the latest, in the order of proposal."""
    best = sorted(trials, key=lambda trial: (-values.get(trial.number, float("-inf")), trial.number))[:MOST_BEST]
    kept = {trial.number for trial in (*best, *trials[-MOST_RECENT:])}
    return [trial for trial in trials if trial.number in kept]
