"""One self-contained HTML page per report: the layout, the style sheet and the escaping that all reports share.

A report's own template begins with ``{% extends "page.html.j2" %}``, fills the blocks ``title`` and ``main``, and takes
its pieces from ``page.macros.j2``. Every string is escaped unless it is ``Markup``.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vqc.evaluation.intervals import percent

if TYPE_CHECKING:
    from markupsafe import Markup

LAYOUT = Path(__file__).parent / "templates"
WIDTHS_PX = (1000, 400)  # of a drawing over the whole page, on a screen and on a phone
HALF_WIDTHS_PX = (500, 400)  # of one of a pair
JPEG_QUALITY = 88


def render(template: Path, *, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any) -> str:
    """The page of a template filled with the values; a name in the template without a value is an error.

    Args:
        template: file of the report's own template, UTF-8.
        filters: name in the template -> function; ``percent`` is always there.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, LAYOUT]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: percent(share).replace(" ", "\N{NO-BREAK SPACE}")
    environment.filters.update(filters or {})
    return environment.get_template(template.name).render(**values)


def both_widths(draw: Callable[[int], str], widths_px: tuple[int, int] = WIDTHS_PX) -> list[Markup]:
    """A drawing, width in pixels -> ``<svg>``, in both widths; the macro ``two`` shows the one that fits the screen."""
    from markupsafe import Markup

    return [Markup(draw(width_px)) for width_px in widths_px]


def picture_uri(pixels: NDArray[np.uint8], *, kind: Literal["jpeg", "png"] = "jpeg") -> str:
    """A picture [h, w, 3], RGB, uint8, as a ``data:`` URI for an ``<img>``: a photograph as JPEG, a drawing as PNG."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if kind == "jpeg" else []
    _, encoded = cv2.imencode(f".{kind}", np.ascontiguousarray(pixels[:, :, ::-1]), options)  # OpenCV expects BGR
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode('ascii')}"
