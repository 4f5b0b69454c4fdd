"""The folder that training reads: one in this project's layout, an export that becomes one, or the sample."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from vqc.data.importers.importing import import_data
from vqc.data.importers.tree import Tree
from vqc.data.splitting.folder import split_data
from vqc.data.splitting.placement import SplitName
from vqc.data.synthetic import SAMPLE_VERSION, write_sample
from vqc.errors import DataError
from vqc.files import file_sha256
from vqc.shell import quoted

SHARES: Mapping[SplitName, float] = {"train": 0.7, "val": 0.15, "test": 0.15}
SEED = 0  # one for all searches: what they find on the same photographs can be compared


def choose_data(folder: Path | None, results: Path) -> tuple[Path, str]:
    """The folder of data to use: the given one, else ``data/``, else the sample below ``results``, written if needed.

    Where it is not in this project's layout it is imported, and split where it has no train and val, into
    ``results/data/``, once for each content.

    Returns:
        The folder, and what the user should know about it: sentences, one a line, or nothing.

    Raises:
        DataError: the sample or the imported data cannot be written, or the folder cannot be imported.
    """
    if folder is None and not Path("data").is_dir():
        sample = write_sample(results / f"sample-{SAMPLE_VERSION}")  # an older one stays as it is
        return sample, f"No --data given and no folder 'data': the generated sample is used ({sample})."
    source = folder or Path("data")
    if not source.exists() or all((source / name / "annotations.json").is_file() for name in ("train", "val")):
        return source, ""
    return _imported(source, results / "data")


def _imported(source: Path, place: Path) -> tuple[Path, str]:
    name = re.sub(r"[^A-Za-z0-9_]+", "-", source.resolve().stem).strip("-")
    target = place / f"{name}-{_sha256(source)[:8]}"
    if target.is_dir():
        return target, f"{source} was imported before: {target} is used."
    try:
        place.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=place, prefix=".import-") as draft:
            whole = Path(draft) / "all"
            imported = import_data(source, whole, command=f"vqc import {quoted(source)} --out data")
            said = [f"{source} is {imported.format}; imported into {target}."]
            if "" in imported.splits:
                split_data(whole, target, shares=SHARES, seed=SEED)
                shares = ", ".join(f"{share:.0%} {split}" for split, share in SHARES.items())
                said.append(f"Its images were split by whole groups ({shares}); why each is where: splits.json there.")
            else:
                whole.rename(target)
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror or error}") from None
    return target, "\n".join([*said, *imported.tally.lines()])


def _sha256(source: Path) -> str:
    """Of the names and bytes of all its files, in hex."""
    tree, digest = Tree(source), hashlib.sha256()
    for file in tree.files if tree.only is None else [tree.only, *tree.pictures]:
        digest.update(f"{file}\0{file_sha256(tree.root / file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
