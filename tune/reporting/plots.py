"""The report's plots: the journal's table -> SVG elements of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tune.history.events import State
from tune.history.queries import default_trial, figure, metric_name, score, scored
from tune.history.table import Table, Trial
from tune.policy.replication import best_trial
from tune.policy.rungs import rung_epochs
from vqc.reporting.plots import COLOUR, canvas, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES_MAX = 60  # beyond so many, curves are drawn faintly, without marks

_STATE_ROLE: Mapping[State, str] = {"completed": "good", "stopped": "stopped", "infeasible": "odd", "failed": "bad",
                                    "interrupted": "odd", "paused": "stopped"}  # fmt: skip
_STATE_MARKER: Mapping[State, str] = {"completed": "o", "stopped": "v", "failed": "X", "infeasible": "X"}


def curves(table: Table, *, width_px: int) -> str:
    """Learning curves of all trials: the best and the default in colour, a mark where one was stopped."""
    figure_, axes = canvas(width_px, 380 if width_px > 600 else 300)
    best, default = best_trial(table), default_trial(table)
    rest = [trial for trial in scored(table) if trial not in (best, default)]
    shown = rest[:CURVES_MAX]
    _faint_lines(axes, [_points(trial, table.metric) for trial in rest[CURVES_MAX:]])
    for trial in reversed(shown):
        _curve(axes, trial, table.metric, role="muted", width=1.1)
    if default is not None and default is not best:
        _curve(axes, default, table.metric, role="default", width=2.0)
    if best is not None:
        _curve(axes, best, table.metric, role="best", width=2.6)
    longest = max((trial.config.num_epochs for trial in table.trials.values()), default=1)
    for epoch in rung_epochs(table.settings):
        axes.axvline(epoch, color=COLOUR["muted"], linewidth=0.9, alpha=0.6, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate("rung", (epoch, 1), xycoords=("data", "axes fraction"), xytext=(4, -9),
                      textcoords="offset points", fontsize=10, color=COLOUR["muted"])  # fmt: skip
    axes.set_xlim(min(1, longest - 1), longest * 1.02)
    axes.set_ylim(0, max(axes.get_ylim()[1] * 1.04, 1e-3))
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{metric_name(table.metric)} on val")
    tips = {f"trial-{trial.number}": _tip(trial, table.metric) for trial in scored(table)}
    return svg(figure_, name=f"curves{width_px}", label="Learning curves of all trials", tips=tips)


def influence(table: Table, name: str) -> str:
    """Best value of each trial against one searched value; the marker is the state."""
    from matplotlib.ticker import LogLocator

    figure_, axes = canvas(380, 250)
    dimension = table.header.settings.get("space", {}).get(name, {})
    ladder = _ladder(table, name, dimension)
    best, default = best_trial(table), default_trial(table)
    for state in sorted({trial.state for trial in scored(table)}):
        group = [
            trial for trial in scored(table) if trial.state == state and trial is not best and name in trial.params
        ]
        axes.scatter(
            [_place(trial.params[name], ladder) for trial in group],
            [trial.best(table.metric)[0] for trial in group],
            marker=_STATE_MARKER.get(state, "D"), s=46 if state == "completed" else 80, linewidths=0.8,
            color=COLOUR[_STATE_ROLE.get(state, "muted")], edgecolors=COLOUR["surface"], alpha=0.85,
        )  # fmt: skip
    for trial, role in ((default, "default"), (best, "best")):
        if trial is not None and name in trial.params and score(trial, table.metric) is not None:
            axes.scatter([_place(trial.params[name], ladder)], [trial.best(table.metric)[0]], marker="o", s=88,
                         facecolors=COLOUR["best"] if role == "best" else "none", edgecolors=COLOUR[role],
                         linewidths=2, zorder=5)  # fmt: skip
    if ladder:
        axes.set_xticks(range(len(ladder)), [figure(value) for value in ladder], parse_math=False)
        axes.set_xlim(-0.5, len(ladder) - 0.5)
    elif dimension.get("log"):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter(lambda value, _: figure(float(value)))
        axes.minorticks_off()
    axes.set_ylim(0, max(axes.get_ylim()[1], 1e-3))
    unit = dimension.get("unit")
    axes.set_xlabel(f"{name} ({unit})" if unit else name, parse_math=False)
    axes.set_ylabel(metric_name(table.metric))
    return svg(figure_, name=f"influence-{name}", label=f"{metric_name(table.metric)} against {name}")


def timeline(table: Table, *, width_px: int) -> str:
    """One bar per trial over the search's own clock: training, evaluation, and the rest of its time."""
    from matplotlib.collections import PolyCollection

    trials = [trial for trial in table.trials.values() if trial.started_s is not None]
    figure_, axes = canvas(width_px, min(640, 70 + 15 * len(trials)))
    bars: dict[str, list[tuple[int, float, float]]] = {"wait": [], "train": [], "eval": []}  # trial, left, width
    for trial in trials:
        for since_s, until_s in trial.spans_s:
            bars["wait"].append((trial.number, since_s / 60, (until_s - since_s) / 60))
        for report, end_s in zip(trial.reports, trial.epoch_ends_s, strict=True):
            begin_s = end_s - report.epoch_s
            bars["train"].append((trial.number, begin_s / 60, report.train_s / 60))
            bars["eval"].append((trial.number, (end_s - report.eval_s) / 60, report.eval_s / 60))
    rows = [trial.number for trial in trials]
    for role, some in bars.items():
        boxes = [_box(left, row, width) for row, left, width in some]
        axes.add_collection(PolyCollection(boxes, facecolors=COLOUR[role], linewidths=0))
    axes.set_ylim(max(rows, default=1) + 0.6, min(rows, default=1) - 0.6)
    axes.set_xlim(0, max(table.awake_s / 60, 1e-3))
    axes.locator_params(axis="y", integer=True, nbins=12, min_n_ticks=1)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("minutes of the search")
    axes.set_ylabel("trial")
    return svg(figure_, name=f"timeline{width_px}", label="When each trial ran")


def _box(left: float, row: int, width: float) -> list[tuple[float, float]]:
    right, low, high = left + width, row - 0.36, row + 0.36
    return [(left, low), (right, low), (right, high), (left, high)]


def _points(trial: Trial, metric: str) -> list[tuple[int, float]]:
    """(epoch, value) of each epoch that could be scored."""
    pairs = [(report.epoch, getattr(report.scores, metric)) for report in trial.reports]
    return [(epoch, value) for epoch, value in pairs if value is not None]


def _faint_lines(axes: Axes, lines: Sequence[list[tuple[int, float]]]) -> None:
    from matplotlib.collections import LineCollection

    if lines:
        axes.add_collection(LineCollection(lines, colors=COLOUR["faint"], linewidths=0.6))
        axes.autoscale_view()


def _curve(axes: Axes, trial: Trial, metric: str, *, role: str, width: float) -> None:
    epochs, values = zip(*_points(trial, metric), strict=True) if _points(trial, metric) else ((), ())
    if not epochs:
        return
    front = 4 if role in ("best", "default") else 2
    dimmed = 1.0 if front == 4 else 0.55
    axes.plot(epochs, values, color=COLOUR[role], linewidth=width, alpha=dimmed, zorder=front,
              solid_capstyle="round", gid=f"trial-{trial.number}")  # fmt: skip
    if trial.state != "completed" or len(epochs) == 1:
        state_role = _STATE_ROLE.get(trial.state, "muted")
        axes.plot(
            epochs[-1], values[-1], marker=_STATE_MARKER.get(trial.state, "D"), markersize=8, zorder=front + 1,
            color=COLOUR[state_role], markeredgecolor=COLOUR["surface"], markeredgewidth=0.8, clip_on=False,
        )  # fmt: skip


def _tip(trial: Trial, metric: str) -> str:
    return (
        f"trial {trial.number}: {metric_name(metric)} {score(trial, metric):.3f}, {trial.state}, {trial.epochs} epochs"
    )


def _ladder(table: Table, name: str, dimension: Mapping[str, Any]) -> list[Any] | None:
    """The choices of a dimension in order, with values from outside (the default's); None for a range."""
    seen = [trial.params[name] for trial in table.trials.values() if name in trial.params]
    choices = dimension.get("choices")
    if choices is None and not any(isinstance(value, str) for value in seen):
        return None
    values = list(dict.fromkeys([*(choices or ()), *seen]))
    numeric = all(isinstance(value, int | float) for value in values)
    return sorted(values) if numeric else values


def _place(value: Any, ladder: list[Any] | None) -> float:
    return float(value) if ladder is None else float(ladder.index(value))
