"""The data of a search with what operators have reviewed since."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from tempfile import TemporaryDirectory

from vqc.data.importers.tree import Tree
from vqc.data.splitting.corrections import add_corrections
from vqc.errors import DataError
from vqc.files import file_sha256
from vqc.serving.reviews import write_reviews

NAME_LENGTH = 40


def with_reviews(data: Path, reviews: Path, results: Path) -> tuple[Path, str]:
    """The folder of the data with the reviews, below ``results/data/``, written once for each content of both.

    Args:
        reviews: the folder of an inspection server, which may be running, or one that ``vqc import`` fetched from it.

    Returns:
        The folder, and what was added, in one line.

    Raises:
        DataError: either has errors, or the folder cannot be written.
    """
    place = results / "data"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=place, prefix=".reviews-") as draft:
            exported = reviews
            if not (reviews / "annotations.json").is_file():
                exported = Path(draft) / "reviews"
                if not write_reviews(reviews, exported)["images"]:
                    return data, f"{reviews}: no review that training can use; the data is used as it is."
            name = re.sub(r"-with-reviews-[0-9a-f]{8}$", "", data.resolve().name)[:NAME_LENGTH]
            target = place / f"{name}-with-reviews-{_sha256(data, exported)[:8]}"
            if target.is_dir():
                return target, f"{reviews}: the same reviews were added before: {target} is used."
            return target, f"{reviews}: {add_corrections(data, exported, target)}; {target} is used."
    except OSError as error:
        raise DataError(f"{place}: cannot be written: {error.strerror or error}") from None


def _sha256(*folders: Path) -> str:
    """Of the names and bytes of all files in these folders, in hex."""
    digest = hashlib.sha256()
    for folder in folders:
        tree = Tree(folder)
        for file in tree.files:
            digest.update(f"{file}\0{file_sha256(tree.root / file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
