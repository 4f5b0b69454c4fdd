"""Does the search policy earn its GPU time? It and its rivals on recorded learning curves, side by side.

    python tests/benchmarks/policy.py --data ../shared/lcbench --tasks 3945 126025 --seeds 5
    ... [--noise 1] [--earlier 1] [--only ours stock] [--libraries]

Drives ``tune.policy.propose`` and ``tune.policy.early_stopping`` exactly as the engine does, over the LCBench
surrogate: 52 epochs, 7 searched values, no GPU. Normalised regret: 0 is the best configuration there is, 1 the median
of random ones; it is that of the configuration that would be exported now. Budgets are counted in full trainings of 52
epochs. Exit status 0 only if all checks hold. Without ``--tasks``: those for tuning; the others are for judging a
finished version. ``--libraries``: SMAC3, MOBSTER, PriorBand and Optuna's GPSampler with Hyperband too, each in an
environment of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np

from tests.benchmarks.library_rivals import search_with
from tests.benchmarks.rivals import (
    asha,
    i_epoch_decision,
    i_epoch_promotion,
    never_stop,
    propose_by_gp,
    propose_by_tpe,
    propose_random,
)
from tests.tables import measure, propose_trial
from tune.history.events import SearchStarted, State
from tune.history.table import Table, Trial
from tune.policy.early_stopping import RungDecision, decide, trials_to_prune
from tune.policy.portfolio import build
from tune.policy.promotion import next_promotion
from tune.policy.propose import Proposal, propose
from tune.policy.warm_start import distinct_points
from tune.settings import Budget, Dimension, SearchSettings
from tune.space import Params
from vqc.config import Record, TrainConfig

TUNING = ("7593", "126026", "167104", "167161", "167184", "167200", "168330", "168868", "189354", "189866", "189906")
EPOCHS = 52
SHOWN = (1, 2, 4, 8, 16, 30)  # full trainings
MOST = SHOWN[-1]
MARKS = 4  # the regret is noted so often per full training
LAUNCHED = 30
EARLIER_SEED = 1000  # and more: of the searches that the portfolio is learnt from; each seed has its own
AIM = dict(zip(SHOWN, (0.45, 0.35, 0.27, 0.23, 0.19, 0.08), strict=True))  # on the judging tasks
AIM_OPENED = dict(zip(SHOWN, (0.20, 0.18, 0.13, 0.10, 0.06, 0.04), strict=True))
OURS, OPENED, ORACLE = "ours", "ours, portfolio first", "limit: ours, an oracle's portfolio first"
GP = "Optuna GPSampler, our early stopping"
TPE, STOCK, BEST_STOCK = "Optuna TPE, full length", "stock, defaults", "stock at its best: grace 3, factor 3"
Key = tuple[object, ...]  # the values of a configuration
STATES: dict[str, State] = {"continue": "running", "stop": "stopped", "pause": "paused"}


class CurveConfig(Record):
    """LCBench's defaults, where a ``TrainConfig`` would be."""

    num_epochs: int = EPOCHS
    batch_size: int = 91
    learning_rate: float = 3.1622777e-3
    max_dropout: float = 0.5
    max_units: int = 256
    momentum: float = 0.545
    num_layers: int = 3
    weight_decay: float = 5.0005e-2


@dataclass(kw_only=True)
class RecordedSearch(Table):
    """The table of a search over recorded curves, whose settings no journal could hold."""

    known: SearchSettings

    @property
    def settings(self) -> SearchSettings:
        return self.known


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One row: how it proposes, when a trial stops or pauses, which paused one goes on and which is given up."""

    label: str
    propose: Callable[[Table, SearchSettings], Proposal] = propose
    decide: Callable[[Table, Trial, SearchSettings], RungDecision] = decide
    promote: Callable[[Table, SearchSettings], Trial | None] = next_promotion
    prune: Callable[[Table, SearchSettings], Sequence[Trial]] = trials_to_prune
    opening: Literal["", "portfolio", "oracle"] = ""
    script: str = ""  # of another library (``library_rivals``), which does all of it by itself


def _no_pruning(table: Table, settings: SearchSettings) -> Sequence[Trial]:
    return ()


RIVALS = (
    Rival(label="random, full length", propose=propose_random, decide=never_stop),
    Rival(label="random + ASHA, grace 3, factor 3", propose=propose_random, decide=partial(asha, grace=3, factor=3)),
    Rival(
        label="i-Epoch", propose=propose_random, decide=i_epoch_decision, promote=i_epoch_promotion, prune=_no_pruning
    ),
    Rival(label=TPE, propose=partial(propose_by_tpe, multivariate=True), decide=never_stop),
    Rival(label=STOCK, propose=partial(propose_by_tpe, multivariate=True), decide=partial(asha, grace=1, factor=4)),
    Rival(
        label=BEST_STOCK, propose=partial(propose_by_tpe, multivariate=False), decide=partial(asha, grace=3, factor=3)
    ),
    Rival(label=OURS),
    Rival(label=OPENED, opening="portfolio"),
    Rival(label=ORACLE, opening="oracle"),
    Rival(label=GP, propose=propose_by_gp),
    Rival(label="SMAC3, multi-fidelity", script="smac3.py"),
    Rival(label="Syne Tune, MOBSTER", script="mobster.py"),
    Rival(label="NePS, PriorBand", script="priorband.py"),
    Rival(label="Optuna, GPSampler and Hyperband", script="gp_hyperband.py"),
)


@dataclass(frozen=True, kw_only=True)
class Search:
    """One search to simulate; ``noise`` is a standard deviation in points of accuracy.

    ``earlier``: of how many searches a portfolio is learnt; None: of one on each tuning task.
    """

    rival: Rival
    task: str
    seed: int
    data: Path
    noise: float
    earlier: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The regret at every mark of the budget; cost in full trainings and regret of a search of thirty trials.

    The last two are not known of other libraries, whose version is.
    """

    regrets: tuple[float, ...]
    launched_cost: float = float("nan")
    launched_regret: float = float("nan")
    version: str = ""


@cache
def curves_module(data: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("lcbench_curves", data / "curves.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(data / "curves.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def space(data: Path) -> dict[str, Dimension]:
    return {
        name: Dimension(low=float(low), high=float(high), log=bool(log), integer=bool(integer))
        for name, low, high, log, integer in curves_module(data).SPACE
    }


@cache
def scale(data: Path, task: str) -> tuple[float, float]:
    """Best and median accuracy of a task's configurations, per cent."""
    found = json.loads((data / "stats.json").read_text(encoding="utf-8"))[task]
    return found["best"], found["median"]


def accuracies(data: Path, task: str, points: Sequence[Params], *, first_epoch: int = 1) -> Any:
    """[n, epochs] validation accuracy in per cent."""
    module = curves_module(data)
    raw = np.array([[params[name] for name in module.NAMES] for params in points], dtype=float)
    return module.curves(task, raw, first_epoch, EPOCHS)[:, :, 1].astype(float)


@cache
def earlier_searches(data: Path, judged: str, *, seed: int, count: int | None = None) -> tuple[Table, ...]:
    """A user's earlier searches, or the first so many: thirty trials on each tuning task, one after the other.

    Each one opens with what those before it taught, as the product's do. A tuning task that is itself being judged has
    no say. Every seed meets the tasks in another order.
    """
    first = seed % len(TUNING)
    tasks = [task for task in TUNING[first:] + TUNING[:first] if task != judged][:count]
    return _searched(data, tuple(tasks), seed=seed)


@cache
def _searched(data: Path, tasks: tuple[str, ...], *, seed: int) -> tuple[Table, ...]:
    if not tasks:
        return ()
    ours = next(rival for rival in RIVALS if rival.label == OURS)
    earlier = _searched(data, tasks[:-1], seed=seed)
    search = Search(rival=ours, task=tasks[-1], seed=EARLIER_SEED + seed, data=data, noise=0.0)
    return (*earlier, simulate(search, trials=LAUNCHED, initial_points=_members(earlier)).table)


def _members(tables: Sequence[Table]) -> tuple[Params, ...]:
    return tuple(dict(point) for one in build(tables).detectors.values() for point in one.members)


@cache
def portfolio(data: Path, judged: str, seed: int, count: int | None = None) -> tuple[Params, ...]:
    """The product's own, of the earlier searches."""
    return _members(earlier_searches(data, judged, seed=seed, count=count))


@cache
def oracle(data: Path, judged: str, seed: int, count: int | None = None) -> tuple[Params, ...]:
    """The limit of any portfolio of eight: it is told what every configuration tried would reach on every task.

    Eight of the configurations that the earlier searches tried, each the best complement to those before it, by mean
    regret over their tasks.
    """
    tables = earlier_searches(data, judged, seed=seed, count=count)
    tasks = [str(table.header.data["root"]) for table in tables]
    points = [trial.params for table in tables for trial in table.trials.values()]
    regrets = np.stack([regret(data, task, accuracies(data, task, points, first_epoch=EPOCHS)[:, 0]) for task in tasks])
    chosen: list[int] = []
    covered = np.full(len(tasks), np.inf)
    for _ in range(8):
        chosen.append(int(np.argmin(np.minimum(covered[:, None], regrets).mean(0))))
        covered = np.minimum(covered, regrets[:, chosen[-1]])
    return tuple(points[index] for index in chosen)


def regret(data: Path, task: str, accuracy: Any) -> Any:
    best, median = scale(data, task)
    return (best - accuracy) / (best - median)


@dataclass(kw_only=True)
class Meter:
    """What a search has spent, and the regret of the best so far at every mark of the budget."""

    spent: int = 0
    leader: tuple[float, float] = (-np.inf, np.inf)  # the highest value measured, and its configuration's regret
    marks: list[float] = field(default_factory=list)

    def epoch(self, value: float, final_regret: float) -> None:
        self.leader = max(self.leader, (value, final_regret), key=lambda pair: pair[0])
        self.spent += 1
        if self.spent % (EPOCHS // MARKS) == 0 and not self.is_full:
            self.marks.append(self.leader[1])

    @property
    def is_full(self) -> bool:
        return len(self.marks) == MOST * MARKS


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """One search: the regret at every mark, the cost in full trainings, the last regret, and all that was tried."""

    marks: list[float]
    cost: float
    last: float
    table: Table


def simulate(search: Search, *, trials: int, initial_points: Sequence[Params] = ()) -> Simulated:
    """One search, until the budget is spent or so many trials were launched and nothing is left to do."""
    data, task, rival = search.data, search.task, search.rival
    settings = SearchSettings.model_construct(
        train=cast(TrainConfig, CurveConfig()), space=space(data), metric="ap50",
        budget=Budget(trials=trials), seed=search.seed, initial_points_origin="portfolio",
    )  # fmt: skip
    settings = settings.model_copy(update={"initial_points": distinct_points(initial_points, settings)})
    chance = np.random.default_rng([search.seed, int(task)])
    header = SearchStarted.model_construct(
        settings={"train": {"model": "LCBench"}, "metric": settings.metric}, data={"root": task}
    )
    table = RecordedSearch(known=settings, started=header)
    noisy, final = dict[int, Any](), dict[int, float]()
    meter = Meter()
    while not meter.is_full:
        trial = rival.promote(table, settings)
        if trial is None:
            if len(table.trials) >= trials:
                break
            trial = propose_trial(table, settings, rival.propose(table, settings))
            curve = accuracies(data, task, [trial.params])[0]
            final[trial.number] = float(regret(data, task, curve[-1]))
            noisy[trial.number] = curve + search.noise * chance.standard_normal(EPOCHS)
        trial.state = "running"
        while trial.state == "running":
            value = noisy[trial.number][trial.epochs]
            measure(trial, value / 100)
            meter.epoch(value, final[trial.number])
            trial.state = "completed" if trial.epochs == EPOCHS else STATES[rival.decide(table, trial, settings).action]
        for given_up in rival.prune(table, settings):
            given_up.state = "stopped"
    return Simulated(marks=meter.marks, cost=meter.spent / EPOCHS, last=meter.leader[1], table=table)


def search_with_library(search: Search) -> Outcome:
    """The search as another library's; an epoch that a configuration has behind it costs nothing again."""
    data, task = search.data, search.task
    chance = np.random.default_rng([search.seed, int(task)])
    meter, noisy, final, reached = Meter(), dict[Key, Any](), dict[Key, float](), dict[Key, int]()

    def values(params: Params, epochs: int) -> list[float] | None:
        key = tuple(params.values())
        if key not in noisy:
            curve = accuracies(data, task, [params])[0]
            final[key] = float(regret(data, task, curve[-1]))
            noisy[key] = curve + search.noise * chance.standard_normal(EPOCHS)
        for value in noisy[key][reached.get(key, 0) : epochs]:
            meter.epoch(float(value), final[key])
        reached[key] = max(epochs, reached.get(key, 0))
        return None if meter.is_full else [float(value) for value in noisy[key][:epochs]]

    default = {name: getattr(CurveConfig(), name) for name in space(data)}
    version = search_with(search.rival.script, space(data), default, epochs=EPOCHS, seed=search.seed, values=values)
    return Outcome(regrets=tuple(meter.marks), version=version)


def outcome(search: Search) -> Outcome:
    """The search with trials without end, until the budget is spent; and the one of thirty trials."""
    if search.rival.script:
        return search_with_library(search)
    learnt = {"": (), "portfolio": portfolio, "oracle": oracle}[search.rival.opening]
    points = learnt(search.data, search.task, search.seed, search.earlier) if callable(learnt) else learnt
    unbounded = simulate(search, trials=100_000, initial_points=points)
    launched = simulate(search, trials=LAUNCHED, initial_points=points)
    return Outcome(regrets=tuple(unbounded.marks), launched_cost=launched.cost, launched_regret=launched.last)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A rival over all tasks and seeds: regrets [searches, marks], and what thirty launched trials cost and gave."""

    regrets: Any
    cost: Any
    launched: Any
    version: str

    def at(self, budget: int) -> float:
        """Mean regret after so many full trainings."""
        return float(self.regrets[:, budget * MARKS - 1].mean())

    def reaches(self, level: float) -> float | None:
        """Full trainings until the mean regret is at most ``level``; None if it never is."""
        reached = np.flatnonzero(self.regrets.mean(0) <= level)
        return float(reached[0] + 1) / MARKS if len(reached) else None


def measured(searches: Sequence[Search], *, processes: int) -> dict[str, Row]:
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        outcomes = list(pool.map(outcome, searches))
    rows = {}
    for label in dict.fromkeys(search.rival.label for search in searches):
        of_it = [one for one, search in zip(outcomes, searches, strict=True) if search.rival.label == label]
        rows[label] = Row(
            regrets=np.array([one.regrets for one in of_it]),
            cost=np.array([one.launched_cost for one in of_it]),
            launched=np.array([one.launched_regret for one in of_it]),
            version=of_it[0].version,
        )
    return rows


def show(rows: dict[str, Row]) -> None:
    """The table: mean and, behind it, standard error."""
    level = rows.get(BEST_STOCK, next(iter(rows.values()))).at(MOST)  # of the first row where stock was not asked for
    print(f"{'normalised regret after full trainings':42}", *(f"{budget:>12}" for budget in SHOWN), end="")
    print(f"{'30 trials: cost, regret':>32}{'reaches ' + format(level, '.3f') + ' with':>22}")
    for label, row in rows.items():
        means = [_spread(row.regrets[:, budget * MARKS - 1]) for budget in SHOWN]
        reached = row.reaches(level)
        less = "never" if reached is None else f"{reached:g} ({MOST / reached:.1f} x less)"
        print(f"{label:42}", *(f"{mean:>12}" for mean in means), end="")
        launched = row.version or f"{row.cost.mean():.1f}, {_spread(row.launched)}"
        print(f"{launched:>32}{less:>22}")
    for label, aims in ((OURS, AIM), (OPENED, AIM_OPENED)):
        print(f"{'  aim of ' + label:42}", *(f"{aims[budget]:>5.2f}       " for budget in SHOWN))


def checks(rows: dict[str, Row], *, noise: float) -> list[tuple[str, float, float]]:
    """What must hold: a sentence, the figure, and the most that it may be."""
    ours, best, stock, tpe = (rows[label] for label in (OURS, BEST_STOCK, STOCK, TPE))
    if noise:
        return [
            (f"at {budget} no worse than {label}", ours.at(budget), rows[label].at(budget))
            for label in rows
            if label not in (OURS, OPENED, ORACLE, GP)
            for budget in SHOWN
        ]
    return [
        ("at 3 no worse than stock on defaults at 30", ours.at(3), stock.at(30)),
        ("at 15 no worse than stock at its best at 30", ours.at(15), best.at(30)),
        ("at 16 at most 0.75 times TPE at full length at 30", ours.at(16), 0.75 * tpe.at(30)),
        ("at 30 at most 0.4 times TPE at full length at 30", ours.at(30), 0.4 * tpe.at(30)),
        ("30 trials launched cost at most 13 full trainings", float(ours.cost.mean()), 13.0),
        (
            "30 trials launched: at most 0.75 times stock at its best",
            float(ours.launched.mean()),
            0.75 * float(best.launched.mean()),
        ),
    ]


def _spread(values: Any) -> str:
    return (
        f"{values.mean():.3f} ±{values.std(ddof=1) / len(values) ** 0.5:.3f}" if len(values) > 1 else f"{values[0]:.3f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/lcbench"), help="folder of the surrogate")
    parser.add_argument("--tasks", nargs="+", default=TUNING)
    parser.add_argument("--seeds", type=int, default=3, help="searches per task and policy")
    parser.add_argument("--noise", type=float, default=0.0, help="added to each value: standard deviation, points")
    parser.add_argument(
        "--earlier", type=int, choices=range(1, len(TUNING)), help="searches that a portfolio is learnt from (all)"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="policies whose name begins so; no checks")
    parser.add_argument("--libraries", action="store_true", help="other libraries too, which uv installs: hours")
    asked = parser.parse_args()
    if asked.only:
        rivals = [one for one in RIVALS if one.label.startswith(tuple(asked.only))]
    else:
        rivals = [one for one in RIVALS if one.label != GP and (asked.libraries or not one.script)]
    searches = [
        Search(rival=rival, task=task, seed=seed, data=asked.data, noise=asked.noise, earlier=asked.earlier)
        for rival in rivals
        for task in asked.tasks
        for seed in range(asked.seeds)
    ]
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(threads, "1")  # of the processes to come: small ones share the cores better without
    started_s = time.monotonic()
    rows = measured(searches, processes=asked.processes)
    print(f"{len(asked.tasks)} tasks, {asked.seeds} seeds each, noise {asked.noise:g} points, ", end="")
    print(f"portfolios of {asked.earlier or 'all'} earlier searches; ", end="")
    print(f"{time.monotonic() - started_s:.0f} s in {asked.processes} processes\n")
    show(rows)
    if asked.only is not None:
        return 0
    found = checks(rows, noise=asked.noise)
    print()
    for sentence, figure, most in found:
        print(f"{'ok' if figure <= most else 'FAILED':7} {sentence}: {figure:.3f}, at most {most:.3f}")
    return 0 if all(figure <= most for _, figure, most in found) else 1


if __name__ == "__main__":
    sys.exit(main())
