"""The epochs at which a trial may pause: rungs of asynchronous successive halving (ASHA). Pure."""

from __future__ import annotations

import math

from tune.history.table import Trial
from tune.settings import SearchSettings

MIN_RUNG_EPOCH = 3  # on recorded curves epoch 1 says nothing about the last; epoch 3 has a rank correlation of 0.7
EARLY = 2  # the first so many times ``startup_trials`` pause at the lowest rung too


def rung_epochs(settings: SearchSettings) -> list[int]:
    """The epochs after which a trial may pause; rising, each below ``num_epochs``.

    The lowest is half of the next one, and for early trials only (``pauses_at``). None comes before the third epoch,
    or the first quarter of a short training: an epoch or two show noise.
    """
    regular = _regular_rungs(settings)
    low = math.ceil(regular[0] / 2) if regular else 0
    return [low, *regular] if low >= MIN_RUNG_EPOCH and low not in regular else regular


def pauses_at(trial: Trial, rung: int, settings: SearchSettings) -> bool:
    """Early trials pause at each rung: they tell good regions from bad. Later ones differ too little.

    So do all initial points: at the rungs they are compared with each other.
    """
    early = max(EARLY * settings.startup_trials, 1 + len(settings.initial_points))
    return rung in _regular_rungs(settings) or trial.number <= early


def _regular_rungs(settings: SearchSettings) -> list[int]:
    epochs = settings.train.num_epochs
    earliest = max(1, min(MIN_RUNG_EPOCH, epochs // 4))
    return sorted({max(earliest, math.ceil(share * epochs)) for share in settings.rungs} - {epochs})
