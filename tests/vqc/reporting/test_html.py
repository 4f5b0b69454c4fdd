"""The layout all pages share: escaped, self-contained, with pictures that can be read again."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from jinja2 import UndefinedError

from vqc.reporting import html as page
from vqc.reporting.html import both_widths, picture_uri, render
from vqc.reporting.plots import COLOUR, canvas, svg

EVIL = "<script>alert('x')</script>"
HEAD = '{% extends "page.html.j2" %}{% block title %}{{ name }}{% endblock %}{% block main %}'


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "own.html.j2"
    path.write_text(HEAD + "<p>{{ name }}, {{ share|percent }}</p>{% endblock %}", encoding="utf-8")
    return path


def test_a_page_is_whole_and_escapes_what_it_is_given(template: Path) -> None:
    html = render(template, name=EVIL, share=0.5)
    assert html.startswith("<!doctype html>")
    assert html.rstrip().endswith("</html>")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "<p>" in html
    assert "50.0\N{NO-BREAK SPACE}%</p>" in html
    assert "--best:" in html


def test_a_page_refers_to_nothing_outside(template: Path) -> None:
    assert re.findall(r'(?:src|href)="|@import|url\(', render(template, name="x", share=0)) == []


def test_a_forgotten_value_is_an_error(template: Path) -> None:
    with pytest.raises(UndefinedError, match="share"):
        render(template, name="x")


def test_every_role_has_a_colour_in_both_schemes() -> None:
    light, dark = (page.LAYOUT / "page.css").read_text(encoding="utf-8").split("prefers-color-scheme: dark", 1)
    names = {f"--{role}" for role in COLOUR}
    assert names <= set(re.findall(r"(--[\w-]+):", light))
    assert names <= set(re.findall(r"(--[\w-]+):", dark[: dark.index("}\n}")]))


@pytest.mark.parametrize(("kind", "tolerance"), [("png", 0), ("jpeg", 12)])
def test_a_picture_can_be_read_again_in_its_colours(kind: str, tolerance: int) -> None:
    pixels = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    head, data = picture_uri(pixels, kind=kind).split(",")  # type: ignore[arg-type]
    assert head == f"data:image/{kind};base64"
    again = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert again is not None
    np.testing.assert_allclose(again[:, :, ::-1], pixels, atol=tolerance)


def test_a_drawing_has_the_pages_colours_and_its_own_tips() -> None:
    def draw(width_px: int) -> str:
        figure, axes = canvas(width_px, 200)
        axes.plot([0, 1], [0, 1], color=COLOUR["best"], gid="line")
        axes.set_xlabel("x")
        return svg(figure, name=f"test{width_px}", label='a "line"', tips={"line": EVIL})

    wide, narrow = both_widths(draw)
    assert wide.startswith('<svg class="plot" viewBox="0 0 1000 200"')
    assert 'viewBox="0 0 400 200"' in narrow
    assert "var(--best)" in wide
    assert not re.search(r"#[0-9a-f]{2}fe[0-9a-f]{2}", wide)
    assert "<script" not in wide
    assert "&lt;script&gt;" in wide
    assert set(re.findall(r'id="([^"]+)"', wide)).isdisjoint(re.findall(r'id="([^"]+)"', narrow))
    assert draw(400) == str(narrow)
