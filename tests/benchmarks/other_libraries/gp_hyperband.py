# /// script
# requires-python = "==3.11.*"
# dependencies = ["optuna==5.0.0", "scipy", "torch"]
# ///
"""Optuna's GPSampler with its HyperbandPruner; the process learns from completed trials only, once there are ten."""

import optuna
from client import Search


def main() -> None:
    search = Search.received("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.GPSampler(seed=search.seed, deterministic_objective=False)
    pruner = optuna.pruners.HyperbandPruner(min_resource=2, max_resource=search.epochs, reduction_factor=3)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    study.enqueue_trial(search.default)
    study.optimize(lambda trial: trained(trial, search))


def trained(trial: optuna.Trial, search: Search) -> float:
    params = {
        name: trial.suggest_int(name, int(one.low), int(one.high), log=one.log)
        if one.integer
        else trial.suggest_float(name, one.low, one.high, log=one.log)
        for name, one in search.space.items()
    }
    for epoch in range(1, search.epochs + 1):
        accuracy = search.values(params, epoch)[-1]
        trial.report(accuracy, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return accuracy


if __name__ == "__main__":
    main()
