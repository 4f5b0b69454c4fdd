"""Commands as the user would type them here."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["as_typed"]


def as_typed(command: str, environment: Mapping[str, str] = os.environ) -> str:
    """The command behind ``uv run`` where that is how this process was started: without it nothing would be found."""
    return f"uv run {command}" if "UV_RUN_RECURSION_DEPTH" in environment else command
