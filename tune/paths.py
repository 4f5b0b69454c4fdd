"""Where searches keep their results: ``results/<name>/`` each."""

from __future__ import annotations

from pathlib import Path

from vqc.errors import SearchError, nearest

JOURNAL = "journal.jsonl"
SEARCH = "python tune/search.py --trials 30"


def journal_of(folder: Path) -> Path:
    """The journal of a search's folder."""
    return folder / JOURNAL


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


def trial_folder(search: Path, number: int) -> Path:
    """Where a trial keeps its checkpoints; short, because of Windows' limit on paths."""
    return search / "trials" / f"{number:03d}"


def trial_folders(search: Path) -> list[tuple[int, Path]]:
    """Numbers and folders of the trials that keep checkpoints."""
    return [(int(folder.name), folder) for folder in search.glob("trials/*") if folder.name.isdecimal()]
