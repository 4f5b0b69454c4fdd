"""Names and places under the folder of results: ``results/<name>/`` for each run or search, caches beside them."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from vqc.errors import ConfigError


def cache_folder(results: Path) -> Path:
    """Where fitted images are kept for all runs and searches."""
    return results / "cache"


def new_name(prefix: str = "") -> str:
    """A name for what was given none; sorts by time and fits every file system."""
    return datetime.now().strftime(f"{prefix}%Y%m%d-%H%M%S")


def check_name(name: str) -> None:
    """Raise ``ConfigError`` unless the name can be a folder's on every system."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", name):
        raise ConfigError("--name", [f"got {name!r}, expected up to 40 letters, digits, '.', '_' or '-'"])
