"""Do the rungs rank detectors as the end of training does?

    python tests/benchmarks/rungs.py results/*

Each journal gives a row: Spearman's rank correlation between the best value by each epoch and the best of the whole
training, over the trials that ran to the last epoch. A search that stops none (``"rungs": []``) says most: of another
one only promoted trials run to the end, and these are alike.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from tune.history.journal import read_table
from tune.history.table import Table
from tune.paths import journal_of
from tune.policy.rungs import rung_epochs
from tune.settings import SearchSettings

MIN_TRIALS = 4  # fewer have no rank to speak of


def rank_correlations(table: Table) -> list[float]:
    """By epoch, the last one left out; of no epoch where fewer than ``MIN_TRIALS`` trials ran to the end."""
    epochs = table.settings.train.num_epochs
    curves = [trial.values(table.metric) for trial in table.searched if trial.epochs == epochs]
    if len(curves) < MIN_TRIALS:
        return []
    best = np.maximum.accumulate(np.array(curves), axis=1)
    return [float(spearmanr(best[:, epoch], best[:, -1]).statistic) for epoch in range(epochs - 1)]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each journal; returns the exit status."""
    parser = argparse.ArgumentParser(description="Rank correlation between each epoch and the end of training.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of searches")
    for folder in parser.parse_args(argv).folders:
        table = read_table(journal_of(folder))
        rungs = rung_epochs(table.settings.model_copy(update={"rungs": SearchSettings.model_fields["rungs"].default}))
        shown = (
            f"{epoch}{'*' * (epoch in rungs)} {value:.2f}" for epoch, value in enumerate(rank_correlations(table), 1)
        )
        sys.stdout.write(f"{folder.name}: after epoch (*: a rung by default) {', '.join(shown) or 'too few trials'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
