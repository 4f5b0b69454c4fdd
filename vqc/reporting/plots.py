"""Drawings for a page: matplotlib -> SVG that is pasted into it.

Called by every report; calls matplotlib, whose global state is left alone. Each colour is a role, written as a CSS
variable of ``page.css``, so that one drawing serves the light and the dark scheme; text stays text, in the page's own
font. Sizes are CSS pixels. To draw: ``canvas()``, then matplotlib with colours from ``COLOUR``, then ``svg()``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOUR", "canvas", "svg"]

# What is drawn in matplotlib with a stand-in colour and shown by the page in the role's colour.
_ROLES = ("ink", "muted", "line", "faint", "surface", "best", "default", "good", "stopped", "bad", "odd", "train",
          "eval", "wait")  # fmt: skip
COLOUR: Mapping[str, str] = {role: f"#{number:02x}fe{number:02x}" for number, role in enumerate(_ROLES, start=1)}
_DPI = 72  # matplotlib's SVG counts in points: at 72 dots per inch one of them is one CSS pixel


def canvas(width_px: int, height_px: int) -> tuple[Figure, Axes]:
    """An empty drawing with one pair of axes in the page's style."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_px / _DPI, height_px / _DPI), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(COLOUR["line"])
    axes.tick_params(colors=COLOUR["muted"], labelsize=11, length=0, pad=6)
    axes.xaxis.label.set(color=COLOUR["muted"], fontsize=11)
    axes.yaxis.label.set(color=COLOUR["muted"], fontsize=11)
    axes.grid(color=COLOUR["line"], linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def svg(figure: Figure, *, name: str, label: str, tips: Mapping[str, str] | None = None) -> str:
    """The drawing as an ``<svg>`` element whose ids are its own and whose colours are the page's.

    Args:
        name: of the drawing, one of a kind on its page.
        label: what it shows, for who cannot see it.
        tips: ``gid`` of an artist -> its tooltip.
    """
    from html import escape

    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<g id=\"[^\"]*\"/>", "", text, flags=re.DOTALL
    )
    text = re.sub(r'<g id="([^"]*)">', lambda found: _group(found.group(1), tips or {}), text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    for role, stand_in in COLOUR.items():
        text = text.replace(stand_in, f"var(--{role})")
    view = re.search(r'viewBox="([^"]*)"', text)
    box = "" if view is None else view.group(1)
    head = f'<svg class="plot" viewBox="{box}" role="img" aria-label="{escape(label, quote=True)}">'
    return re.sub(r"<svg[^>]*>", lambda _: head, text, count=1).replace("xlink:href", "href")


def _group(gid: str, tips: Mapping[str, str]) -> str:
    """matplotlib names every group, the same in each drawing; only the ones with a tooltip mean something."""
    from html import escape

    return f"<g><title>{escape(tips[gid])}</title>" if gid in tips else "<g>"
