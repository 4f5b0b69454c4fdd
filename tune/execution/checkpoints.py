"""Checkpoints of a search's trials: which are kept, and the deletion of the others."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from tune.history.table import Table
from tune.paths import trial_folders
from tune.policy.replication import repeated


def delete_unneeded(folder: Path, table: Table, *, keep_leaders: int) -> None:
    """Of trials that have ended, keep the best checkpoint of the default, the leaders and the repeated ones.

    Both checkpoints of trials that may go on are kept.
    """
    kept = {trial.number for trial in table.leaders()[:keep_leaders]}
    kept |= {trial.number for one in repeated(table) for trial in one.trials}
    for number, trial_folder in trial_folders(folder):  # those that are left, however many trials there were
        trial = table.trials.get(number)  # None: of a trial whose line in the journal was lost
        if trial is None or trial.is_live or trial.state == "paused" or trial in table.failed_in_a_row:
            continue
        if number not in kept and trial.origin != "default":
            shutil.rmtree(trial_folder, ignore_errors=True)
        else:
            with suppress(OSError):
                (trial_folder / "last.safetensors").unlink(missing_ok=True)
