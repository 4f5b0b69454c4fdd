# /// script
# requires-python = "==3.11.*"
# dependencies = ["smac==2.4.1"]
# ///
"""SMAC3's multi-fidelity facade: Hyperband, whose configurations a random forest proposes.

It begins with the default and 15 random configurations: its own 70 would be most of the budget.
"""

from tempfile import TemporaryDirectory

from client import Search
from ConfigSpace import Configuration, ConfigurationSpace, Float, Integer
from smac import MultiFidelityFacade, Scenario
from smac.runhistory.dataclasses import TrialValue


def main() -> None:
    search = Search.received("smac")
    space = ConfigurationSpace(seed=search.seed)
    for name, one in search.space.items():
        kind = Integer if one.integer else Float
        low, high = (int(one.low), int(one.high)) if one.integer else (one.low, one.high)
        space.add(kind(name, (low, high), log=one.log, default=search.default[name]))
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        scenario = Scenario(
            space, deterministic=True, n_trials=100_000, min_budget=search.epochs / 27, max_budget=search.epochs,
            seed=search.seed, output_directory=folder,
        )  # fmt: skip
        first = [space.get_default_configuration(), *space.sample_configuration(15)]
        design = MultiFidelityFacade.get_initial_design(scenario, n_configs=0, additional_configs=first)
        facade = MultiFidelityFacade(scenario, _never_called, initial_design=design, logging_level=False)
        while True:
            trial = facade.ask()
            accuracy = search.values(trial.config, round(trial.budget))[-1]
            facade.tell(trial, TrialValue(cost=100 - accuracy))


def _never_called(config: Configuration, seed: int, budget: float) -> float:
    raise NotImplementedError  # SMAC3 wants one, and checks its arguments; here it is asked and told


if __name__ == "__main__":
    main()
