"""Commands are printed as they would be typed."""

from __future__ import annotations

import pytest

from vqc.shell import as_typed


@pytest.mark.parametrize(
    ("environment", "typed"), [({}, "vqc check"), ({"UV_RUN_RECURSION_DEPTH": "1"}, "uv run vqc check")]
)
def test_behind_uv_run_only_where_that_is_how_it_began(environment: dict[str, str], typed: str) -> None:
    assert as_typed("vqc check", environment) == typed
