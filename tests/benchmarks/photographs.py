"""How soon a search finds on photographs what the plain way finds: ours and the peer, one after the other.

    python tests/benchmarks/photographs.py --data ../shared/data/deeppcb-mini --peer ../shared/peers/stock_search.py
    ... [--trials 16] [--peer-trials 16] [--epochs 10] [--seed 0] [--portfolio] [--search results/NAME]

Both are run as a user runs them, on the same detector, image sizes, batch sizes and epochs; learning rates, sampler,
scheduler, precision and tiles are each side's own. All seconds count from the start of the command. The peer's results
carry whole seconds, rounded down, so its times are up to a second too short. ``--search``: ours is a search that was
run before; its seconds count from its journal's first line, so they lack those of the start.

Ours runs cold: the shipped portfolio may have been learnt on these photographs too. ``--portfolio`` lets it be used.

The peer's file stays as it is. Its workers are taught ``fcos_lite0``, which torchvision does not know: the plain
torchvision side of ``step.py``, which begins with the weights that ours begins with, and at our score threshold, since
AP depends on it (torchvision's own, 0.2, costs the peer AP).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from tune.history.events import EpochMeasured, TrialEnded, TrialProposed
from tune.history.journal import Follower
from tune.paths import journal_of
from vqc.config import TrainConfig
from vqc.models.registry import ARCHITECTURES

MODEL = "fcos_lite0"
BASE = Path(__file__).resolve().parents[2] / "configs" / "search_cpu.json"
LAST_CHARACTERS = 2000  # of what a command wrote, where it fails


@dataclass(frozen=True, kw_only=True)
class Side:
    """One search; ``epochs``: seconds since the command was started and AP or AP50 after each epoch."""

    name: str
    trials: int
    failed: int
    wall_s: float
    epochs: tuple[tuple[float, float], ...]

    @property
    def best(self) -> float:
        return max((ap for _, ap in self.epochs), default=0.0)

    def best_at(self, seconds: float) -> float:
        """The best of the epochs that were finished by then."""
        return max((value for at_s, value in self.epochs if at_s <= seconds), default=0.0)

    def reached_s(self, ap: float) -> float | None:
        """Seconds until an epoch had at least this AP; None if none had."""
        return min((at_s for at_s, value in self.epochs if value >= ap), default=None)


def search_settings(*, portfolio: bool) -> dict[str, Any]:
    """The CPU's settings.

    Without a portfolio one more field is searched, over the single value that it has anyway: a portfolio whose members
    lack a searched field is not used. Initial points would not do: with them, a search promotes by other rules.
    """
    settings = dict(json.loads(BASE.read_text(encoding="utf-8")))
    if not portfolio:
        settings["space"]["weight_decay"] = {"choices": [TrainConfig(**settings["train"]).weight_decay]}
    return settings


def run(words: Sequence[str], log: Path, environment: dict[str, str]) -> tuple[float, float]:
    """When the command was started, Unix seconds, and the seconds it took; what it writes goes to ``log``."""
    started_s = time.time()
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, env=environment)
    wall_s = time.time() - started_s
    if done.returncode:
        said = log.read_text(encoding="utf-8", errors="replace")[-LAST_CHARACTERS:]
        raise RuntimeError(f"status {done.returncode} of {' '.join(words)}\n{said}")
    return started_s, wall_s


def ours(asked: argparse.Namespace, settings: dict[str, Any], folder: Path) -> Side:
    """``tune.search`` with a settings file and flags, and what its journal says."""
    config = folder / "search.json"
    config.write_text(json.dumps(settings), encoding="utf-8")
    words = [sys.executable, "-m", "tune.search", "--data", str(asked.data), "--config", str(config)]
    words += ["--trials", str(asked.trials), "--epochs", str(asked.epochs), "--seed", str(asked.seed)]
    words += ["--confirm", "0", "--name", "ours", "--results", str(folder / "results")]
    started_s, wall_s = run(words, folder / "ours.log", dict(os.environ))
    name = "vqc-tune, portfolio first" if asked.portfolio else "vqc-tune, cold"
    return told_by(folder / "results" / "ours", name, started_s, wall_s)


def told_by(
    search: Path, name: str, started_s: float | None = None, wall_s: float | None = None, *, metric: str = "ap"
) -> Side:
    """What a search's journal says; without the seconds of its command, from its first line to its last."""
    events = list(Follower(journal_of(search)).poll())
    started_s = events[0].at_ms / 1000 if started_s is None else started_s
    wall_s = events[-1].at_ms / 1000 - started_s if wall_s is None else wall_s
    measured = [event for event in events if isinstance(event, EpochMeasured)]
    return Side(
        name=name,
        trials=sum(isinstance(event, TrialProposed) for event in events),
        failed=sum(isinstance(event, TrialEnded) and event.state in ("failed", "infeasible") for event in events),
        wall_s=wall_s,
        epochs=tuple(
            (event.at_ms / 1000 - started_s, getattr(event.report.scores, metric) or 0.0) for event in measured
        ),
    )


def peers(asked: argparse.Namespace, settings: dict[str, Any], folder: Path) -> Side:
    """The peer's command over our image sizes and batch sizes, and what its results say."""
    out, space = folder / "peer", settings["space"]
    words = [sys.executable, str(Path(__file__).resolve()), "--data", str(asked.data), "--peer", str(asked.peer)]
    words += ["--as-peer", "--data", str(asked.data), "--trials", str(asked.peer_trials or asked.trials)]
    words += ["--epochs", str(asked.epochs)]
    words += ["--model", MODEL, "--out", str(out)]
    for flag, name in (("--sizes", "image_size"), ("--batches", "batch_size")):
        words += [flag, *map(str, space[name]["choices"])]
    # Started through `uv run`, Ray would copy the working folder and start each of the peer's workers through it too.
    environment = {**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    started_s, wall_s = run(words, folder / "peer.log", environment)
    lines = (folder / "peer.log").read_text(encoding="utf-8", errors="replace").splitlines()
    said = json.loads(next(line for line in reversed(lines) if line.startswith('{"trials"')))  # Ray may write after it
    files = out.rglob("result.json")
    results = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return Side(
        name="peer",
        trials=said["trials"],
        failed=said["errors"],
        wall_s=wall_s,
        epochs=tuple(sorted((result["timestamp"] - started_s, result["map"]) for result in results)),
    )


def as_peer(script: Path, words: Sequence[str]) -> None:
    """The peer's own ``main``, whose workers know our detector."""
    module = peers_module(script)
    module.train = partial(train_as_peer, script)  # type: ignore[attr-defined]
    sys.argv = [str(script), *words]
    module.main()


def train_as_peer(script: Path, config: dict[str, Any]) -> None:
    """In a worker: the peer's own ``train``, once torchvision knows our detector."""
    from torchvision.models import list_models
    from torchvision.models._api import register_model

    if MODEL not in list_models():
        register_model(MODEL)(plain_detector)
    peers_module(script).train(config)


def plain_detector(*, num_classes: int, min_size: int, max_size: int, **_no_weights: None) -> Any:
    """What ``torchvision.models.get_model`` builds of our detector's name; the background counts as a class."""
    from tests.benchmarks.step import plain_model

    values = {"model": MODEL, "weights": "backbone", "image_size": [min_size, max_size]}
    model = plain_model(TrainConfig.model_validate(values), num_classes - 1)
    model.score_thresh = ARCHITECTURES[MODEL].score_threshold
    return model


def peers_module(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("stock_search", script)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def show(own: Side, peer: Side) -> None:
    """The table, and how many times as soon ours had what the peer had in the end."""
    rows = [["", "trials", "failed", "epochs", "wall s", "best AP", "s to own best", "s to the peer's best"]]
    for side in (own, peer):
        seconds = [_seconds(side.reached_s(best)) for best in (side.best, peer.best)]
        counts = [str(side.trials), str(side.failed), str(len(side.epochs))]
        rows.append([side.name, *counts, f"{side.wall_s:.1f}", f"{side.best:.4f}", *seconds])
    for name, *cells in rows:
        print(f"{name:26}", *(f"{cell:>{max(8, len(head))}}" for cell, head in zip(cells, rows[0][1:], strict=True)))
    own_s, peer_s = own.reached_s(peer.best), peer.reached_s(peer.best)
    if own_s is None or peer_s is None:
        print("\nThe peer's best AP was not reached by both.")
    else:
        print(f"\nThe peer's best AP {peer_s / own_s:.2f} times as soon; the command {peer.wall_s / own.wall_s:.2f}.")


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--peer-trials", type=int, help="default: as many as ours")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of our search; the peer takes none")
    parser.add_argument("--portfolio", action="store_true", help="ours opens with the shipped portfolio")
    parser.add_argument("--search", type=Path, metavar="DIR", help="ours: the folder of a finished search")
    parser.add_argument("--as-peer", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.as_peer is not None:
        as_peer(asked.peer.resolve(), asked.as_peer)
        return
    settings = {**search_settings(portfolio=asked.portfolio), "metric": "ap"}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        own = told_by(asked.search, asked.search.name) if asked.search else ours(asked, settings, Path(folder))
        peer = peers(asked, settings, Path(folder))
    show(own, peer)


if __name__ == "__main__":
    main()
