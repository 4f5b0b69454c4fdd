"""What a result was made with: versions of the packages that matter, the platform, the commit."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Name -> version of Python, the platform, these packages and this project; ``commit`` in a git checkout."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    found |= {package: importlib.metadata.version(package) for package in (*packages, "vqc-tune")}
    commit = _commit()
    return found | ({"commit": commit} if commit else {})


def _commit() -> str | None:
    """The commit of this checkout; None where it is none, or git is not there."""
    if not (ROOT / ".git").exists():  # git would answer for a repository around it: an environment often lies in one
        return None
    try:
        return subprocess.check_output(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, stderr=subprocess.DEVNULL, text=True, timeout=5
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return None
