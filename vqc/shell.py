"""Commands and paths as the user would type them here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# A script of the checkout -> the command that a wheel installs for it.
INSTALLED = {"tune/search.py": "vqc-search", "tune/export_best.py": "vqc-export-best"}


def as_typed(command: str, environment: Mapping[str, str] = os.environ) -> str:
    """The command behind ``uv run`` where that is how this process was started: without it nothing would be found."""
    prefix = "uv run " if "UV_RUN_RECURSION_DEPTH" in environment else ""
    return prefix + runnable(command.removeprefix(prefix))


def runnable(command: str) -> str:
    """The command, with ``vqc-search`` for ``python tune/search.py`` where the working directory has no such script."""
    for script, installed in INSTALLED.items():
        if command.startswith(f"python {script}") and not Path(script).is_file():
            return installed + command.removeprefix(f"python {script}")
    return command


def short_path(path: Path) -> str:
    """Relative to the working directory where the path lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def quoted(path: Path) -> str:
    """A path as one word of a command."""
    return f'"{path}"' if " " in str(path) else str(path)
