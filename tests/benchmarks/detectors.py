"""Does the search policy find the best detector? It and its rivals on recorded trainings, in seconds of one core.

    python tests/benchmarks/detectors.py record --data results/sample-4 --out sample.jsonl [--share 0/2]
    python tests/benchmarks/detectors.py search [--curves sample.jsonl] [--seeds 60] [--rungs 0.3 0.6] [--only ours]

``record`` trains the CPU's detector over a grid of its search space without tiles, in random order: eight learning
rates, all batch and image sizes. Each training is a line in ``--out``; the same command goes on where it was stopped.
With ``--share`` several processes train, each into a file of its own.

``search`` simulates searches of thirty trials, one at a time, on what was recorded. AP50 after each epoch is that of a
Gaussian process through the recorded values, whose noise is fitted, and the residuals of a recorded training that ends
about as high: so trainings scatter as they do. The table has how much the configuration that leads by what was measured
so far would, after all epochs, fall short in truth of the best there is: after so many seconds, at the end, and if the
best one of all completed or of all proposed trials were known. A search that ended sooner stays as it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.policy import BEST_STOCK, OPENED, OURS, RIVALS, STATES, Rival
from tests.benchmarks.recipe import with_error
from tests.tables import measure, propose_trial
from tune.history.table import Table
from tune.policy.gaussian_process import Process, fit
from tune.policy.warm_start import distinct_points
from tune.settings import SearchSettings, with_params
from tune.space import Array, Params, Space
from vqc.config import read_json, shipped_settings
from vqc.files import LineFile, whole_lines

CURVES = Path(__file__).parent / "recorded" / "sample.jsonl"
RATES = 8  # of the grid, evenly over the logarithm of the searched range
MARKS_S = (60, 120, 200, 300, 400, 500)
ALIKE = 24  # recorded trainings that end about as high, whose residuals a simulated one may have
NOISE_VARIANCE = (-3.0, 1.0)  # prior for values of variance 1: of AP50, 0.04 where the values differ by 0.18
SHOWN = ("random, full length", BEST_STOCK, OURS, OPENED)


def search_settings() -> SearchSettings:
    """The CPU's, without tiles."""
    settings = SearchSettings.model_validate(read_json(shipped_settings("search_cpu.json")))
    space = {name: dimension for name, dimension in settings.space.items() if name != "tile_px"}
    return settings.model_copy(update={"space": space})


def record(data_folder: Path, out: Path, *, seed: int, part: int, parts: int) -> None:
    """Train the ``part``-th of ``parts`` shares of the grid on one thread."""
    import torch

    from vqc.data.dataset import load_data
    from vqc.models.pretrained import resolve_weights
    from vqc.training.loop import fit as train

    torch.set_num_threads(1)
    settings, data = search_settings(), load_data(data_folder)
    rates = settings.space["learning_rate"]
    low, high = math.log(rates.low or 1.0), math.log(rates.high or 1.0)
    even = [float(f"{math.exp(low + (high - low) * step / (RATES - 1)):.6g}") for step in range(RATES)]
    choices = [settings.space[name].choices or () for name in ("batch_size", "image_size")]
    grid = [dict(zip(settings.space, values, strict=True)) for values in itertools.product(even, *choices)]
    random.Random(seed).shuffle(grid)
    lines = [json.loads(line) for line in whole_lines(out)] if out.exists() else []
    done = [line["params"] for line in lines if line["seed"] == seed]
    with LineFile(out) as file:
        for params in grid[part::parts]:
            if params in done:
                continue
            started_s = time.process_time()  # the machine may be shared
            config = resolve_weights(with_params(settings.train, params).model_copy(update={"seed": seed}))[0]
            scores = [epoch.report.scores for epoch in train(config, data, cache=out.with_suffix(".cache"))]
            line = {"params": params, "seed": seed, "cpu_s": round(time.process_time() - started_s, 1),
                    "ap50": [round(one.value("ap50"), 4) for one in scores]}  # fmt: skip
            file.append(json.dumps(line))


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a training of any configuration of the space would have shown.

    Attributes:
        expected: of AP50, a process for each epoch.
        duration: of the logarithm of a whole training's seconds.
        ends, residuals: [n] what is expected of the recorded trainings at the end, and [n, epochs] what they differ by.
        best: the highest AP50 expected at the end anywhere.
    """

    space: Space
    expected: tuple[Process, ...]
    duration: Process
    ends: Array
    residuals: Array
    best: float

    def curve(self, params: Params) -> Array:
        """Expected AP50, [epochs]."""
        point = np.array([self.space.to_unit(params)])
        return np.array([process.predict(point)[0][0] for process in self.expected]).clip(0.0, 1.0)

    def scattered(self, curve: Array, rng: np.random.Generator) -> Array:
        """AP50 of one training, [epochs], of which ``curve`` is expected; residuals of a fit are rather small."""
        alike = np.argsort(np.abs(self.ends - curve[-1]), kind="stable")[:ALIKE]
        return np.asarray((curve + self.residuals[rng.choice(alike)]).clip(0.0, 1.0))

    def epoch_s(self, params: Params) -> float:
        """CPU seconds of an epoch."""
        seconds = math.exp(self.duration.predict(np.array([self.space.to_unit(params)]))[0][0])
        return seconds / len(self.expected)


@cache
def recorded(path: Path) -> Recorded:
    space = Space(search_settings().space)
    lines = [json.loads(line) for line in whole_lines(path)]
    points = np.array([space.to_unit(line["params"]) for line in lines])
    values = np.array([line["ap50"] for line in lines])
    seconds = np.log([line["cpu_s"] for line in lines])
    # The default prior of the noise is that of curves without any.
    process = partial(fit, unordered=space.unordered, noise_variance=NOISE_VARIANCE)
    expected, duration = tuple(process(points, column) for column in values.T), process(points, seconds)
    fitted = np.stack([one.predict(points)[0] for one in expected], axis=1)
    rng = np.random.default_rng(0)
    anywhere = np.array(
        [space.to_unit(space.from_unit(point)) for point in rng.random((4000, points.shape[1])).tolist()]
    )
    return Recorded(
        space=space,
        expected=expected,
        duration=duration,
        ends=fitted[:, -1],
        residuals=values - fitted,
        best=float(expected[-1].predict(anywhere)[0].max()),
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one search: by how much AP50 it falls short at the marks and at the end, and what it took."""

    short: tuple[float, ...]
    end: float
    completed: float
    proposed: float
    epochs: int
    seconds: float


def simulate(rival: Rival, seed: int, *, curves: Path, rungs: Sequence[float] | None = None) -> Outcome:
    """One search, until all trials were tried and nothing is left to promote."""
    settings, truth = search_settings().model_copy(update={"seed": seed}), recorded(curves)
    if rungs is not None:
        settings = settings.model_copy(update={"rungs": tuple(rungs)})
    if rival.opening:
        members = read_json(shipped_settings("portfolio.json"))["detectors"][settings.train.model]["members"]
        points = [{name: member[name] for name in settings.space} for member in members]
        opened = {"initial_points": distinct_points(points, settings), "initial_points_origin": "portfolio"}
        settings = settings.model_copy(update=opened)
    table, rng = Table(), np.random.default_rng([seed, 0])
    expected, measured = dict[int, Array](), dict[int, Array]()
    spent_s, leader, history = 0.0, (-1.0, 0), list[tuple[float, float]]()  # seconds, AP50 of the best so far in truth
    while True:
        trial = rival.promote(table, settings)
        if trial is None:
            if len(table.trials) >= (settings.budget.trials or 0):
                break
            trial = propose_trial(table, settings, rival.propose(table, settings))
            expected[trial.number] = truth.curve(trial.params)
            measured[trial.number] = truth.scattered(expected[trial.number], rng)
        trial.state, epoch_s = "running", truth.epoch_s(trial.params)
        while trial.state == "running":
            value = float(measured[trial.number][trial.epochs])
            measure(trial, value)
            leader = max(leader, (value, trial.number), key=lambda pair: pair[0])
            spent_s += epoch_s
            history.append((spent_s, expected[leader[1]][-1]))
            ended = trial.epochs == settings.train.num_epochs
            trial.state = "completed" if ended else STATES[rival.decide(table, trial, settings).action]
        for given_up in rival.prune(table, settings):
            given_up.state = "stopped"
    ends = {number: curve[-1] for number, curve in expected.items()}
    return Outcome(
        short=tuple(
            truth.best - next((ap50 for at_s, ap50 in reversed(history) if at_s <= mark), 0.0) for mark in MARKS_S
        ),
        end=truth.best - history[-1][1],
        completed=truth.best - max(ends[trial.number] for trial in table.completed),
        proposed=truth.best - max(ends.values()),
        epochs=len(history),
        seconds=spent_s,
    )


def row(label: str, outcomes: Sequence[Outcome]) -> str:
    """A line in Markdown: means, and with their errors those at the end."""
    means = np.array([one.short for one in outcomes]).mean(0)
    cells = [label, *(f"{mean:.3f}" for mean in means), with_error(one.end for one in outcomes)]
    cells += [f"{np.mean([getattr(one, name) for one in outcomes]):.3f}" for name in ("completed", "proposed")]
    cells += [f"{np.mean([getattr(one, name) for one in outcomes]):.0f}" for name in ("epochs", "seconds")]
    return f"| {' | '.join(cells)} |"


def show(curves: Path, rivals: Sequence[Rival], *, seeds: int, rungs: Sequence[float] | None, processes: int) -> None:
    known = recorded(curves)
    scatter = known.residuals[:, -1].std()
    print(f"{len(known.ends)} trainings; the best there is {known.best:.3f}; one scatters by {scatter:.3f}\n")
    marks = [f"{mark} s" for mark in MARKS_S]
    titles = ["short of the best", *marks, "end", "best completed", "best proposed", "epochs", "s"]
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for rival in rivals:
            outcomes = list(pool.map(partial(simulate, rival, curves=curves, rungs=rungs), range(seeds)))
            print(row(rival.label, outcomes), flush=True)


def _share(text: str) -> tuple[int, int]:
    part, parts = map(int, text.split("/"))
    if not 0 <= part < parts:
        raise argparse.ArgumentTypeError(f"expected 0/{parts} to {parts - 1}/{parts}, got {text}")
    return part, parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record", help="train over the grid")
    one.add_argument("--data", type=Path, required=True)
    one.add_argument("--out", type=Path, required=True, help="JSON lines: read, and appended to")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--share", type=_share, default=(0, 1), metavar="I/N", help="the I-th of N shares of the grid")
    two = commands.add_parser("search", help="simulate searches")
    two.add_argument("--curves", type=Path, default=CURVES)
    two.add_argument("--seeds", type=int, default=60, help="searches of each row")
    two.add_argument("--rungs", type=float, nargs="*", help="shares of the epochs, instead of the settings'")
    two.add_argument("--only", nargs="+", metavar="ROW", default=SHOWN, help="policies whose name begins so")
    two.add_argument("--processes", type=int, default=2)
    asked: Any = parser.parse_args()
    if asked.command == "record":
        record(asked.data, asked.out, seed=asked.seed, part=asked.share[0], parts=asked.share[1])
        return
    rivals = [rival for rival in RIVALS if rival.label.startswith(tuple(asked.only)) and not rival.script]
    rivals = [rival for rival in rivals if rival.opening != "oracle"]  # its other tasks are not recorded
    show(asked.curves, rivals, seeds=asked.seeds, rungs=asked.rungs, processes=asked.processes)


if __name__ == "__main__":
    main()
