"""Where searches keep their results: ``results/<name>/`` each, shared caches beside them."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from vqc.errors import SearchError, nearest

__all__ = ["cache_folder", "find_search", "journal_of", "new_name", "search_names"]

JOURNAL = "journal.jsonl"
SEARCH = "python tune/search.py --trials 30"


def journal_of(folder: Path) -> Path:
    """The journal of a search's folder."""
    return folder / JOURNAL


def cache_folder(results: Path) -> Path:
    """Where fitted images are kept for all searches."""
    return results / "cache"


def new_name(now: datetime) -> str:
    """A name for a search that was given none; sorts by time and fits every file system."""
    return now.strftime("%Y%m%d-%H%M%S")


def check_name(name: str) -> None:
    """Raise ``SearchError`` unless the name can be a folder's on every system."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", name):
        raise SearchError(f"--name: got {name!r}, expected up to 40 letters, digits, '.', '_' or '-'")


def search_names(results: Path) -> list[str]:
    """Names of all searches, the one written to last in the end."""
    journals = sorted(results.glob(f"*/{JOURNAL}"), key=lambda path: (path.stat().st_mtime, path.parent.name))
    return [path.parent.name for path in journals]


def find_search(results: Path, name: str | None) -> Path:
    """The folder of the named search, or of the latest one.

    Raises:
        SearchError: there is none of that name, or none at all.
    """
    names = search_names(results)
    if not names:
        raise SearchError(f"{results}: no search was run here", command=SEARCH)
    if name is not None and name not in names:
        raise SearchError(f"{results}: no search is called '{name}'{nearest(name, names)}", command=SEARCH)
    return results / (name or names[-1])
