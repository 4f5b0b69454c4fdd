"""Drawings for a page: matplotlib -> an ``<svg>`` element inside the page.

To draw: ``canvas()``, then matplotlib with colours from ``COLOUR``, then ``svg()``. A colour is a CSS variable of
``page.css``, so that one drawing serves the light and the dark scheme; text stays text, in the page's own font. Sizes
are CSS pixels. matplotlib's global state is left alone.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib takes no CSS variables as colours: it draws a role in a colour that nothing else has.
_ROLES = ("ink", "muted", "line", "faint", "surface", "best", "default", "good", "stopped", "bad", "odd", "train",
          "eval", "wait")  # fmt: skip
COLOUR: Mapping[str, str] = {role: f"#{number:02x}fe{number:02x}" for number, role in enumerate(_ROLES, start=1)}
_SVG, _HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_DPI = 72  # matplotlib's SVG is in points: at 72 dots per inch a point is a CSS pixel


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


def shares(
    width_px: int, height_px: int, *, x: str, y: str = "", right: float = 1.0, percent: bool = False
) -> tuple[Figure, Axes]:
    """A drawing of a share, 0..1, against something from 0 to ``right``; ``x`` and ``y`` name the axes."""
    figure, axes = canvas(width_px, height_px)
    axes.set(xlim=(0, right), ylim=(0, 1.02), xlabel=x, ylabel=y)
    if percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    return figure, axes


def svg(figure: Figure, *, name: str, label: str, tips: Mapping[str, str] | None = None) -> str:
    """The drawing as an ``<svg>`` element with ids of its own and the page's colours.

    Args:
        name: of the drawing, unique on its page.
        label: what it shows, for screen readers.
        tips: ``gid`` of an artist -> its tooltip.
    """
    from xml.etree import ElementTree

    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(buffer.getvalue())
    view = root.get("viewBox", "")
    for element in list(root.iter()):
        element.tag = element.tag.removeprefix(_SVG)
        for child in [one for one in element if one.tag.removeprefix(_SVG) in ("metadata", "style")]:
            element.remove(child)
        if element.tag == "g":  # matplotlib names its groups, with the same names in each drawing
            tip = (tips or {}).get(element.attrib.pop("id", ""))
            if tip is not None:
                title = ElementTree.Element("title")
                title.text = tip
                element.insert(0, title)
        if "style" in element.attrib:
            element.set("style", _page_style(element.attrib["style"]))
        if _HREF in element.attrib:
            element.set("href", element.attrib.pop(_HREF))
    root.attrib = {"class": "plot", "viewBox": view, "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _page_style(style: str) -> str:
    """matplotlib's inline style with the page's colours, and without its font."""
    for role, placeholder in COLOUR.items():
        style = style.replace(placeholder, f"var(--{role})")
    return "; ".join(rule for rule in style.split("; ") if not rule.startswith("font-family:"))
