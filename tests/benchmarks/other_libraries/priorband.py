# /// script
# requires-python = "==3.11.*"
# dependencies = ["neural-pipeline-search==0.17.0"]
# ///
"""NePS' PriorBand: Hyperband with configurations drawn at random, around the default, and around the best so far."""

import neps
import numpy
import torch
from client import Search
from neps.optimizers.algorithms import priorband
from neps.space import HPOFloat, HPOInteger, SearchSpace


def main() -> None:
    search = Search.received("neural-pipeline-search")
    numpy.random.seed(search.seed)  # noqa: NPY002 - what it draws from
    torch.manual_seed(search.seed)
    # From 2 on it would have no rung below 5 (52 / 27 is less), and compare the default's 2 epochs with others' 5.
    space = {"epochs": HPOInteger(1, search.epochs, is_fidelity=True)}
    for name, one in search.space.items():
        kind, to = (HPOInteger, int) if one.integer else (HPOFloat, float)
        prior = to(search.default[name])
        space[name] = kind(to(one.low), to(one.high), log=one.log, prior=prior, prior_confidence="medium")
    optimizer = neps.AskAndTell(priorband(SearchSpace(space), sample_prior_first=True))
    while True:
        trial = optimizer.ask()
        accuracy = search.values(trial.config, trial.config["epochs"])[-1]
        optimizer.tell(trial, 100 - accuracy)


if __name__ == "__main__":
    main()
