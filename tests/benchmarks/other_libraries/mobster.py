# /// script
# requires-python = "==3.11.*"
# dependencies = ["syne-tune[gpsearchers]==0.13.0"]
# ///
"""Syne Tune's MOBSTER: asynchronous successive halving, whose configurations a Gaussian process proposes.

Trials pause at the rungs and are promoted: with a single worker, stopping would train the first ones in full.
"""

from datetime import datetime

from client import Search


def main() -> None:
    search = Search.received("syne-tune")
    # Imported only now, because it prints when it is.
    from syne_tune.backend.trial_status import Trial
    from syne_tune.config_space import lograndint, loguniform, randint, uniform
    from syne_tune.optimizer.baselines import MOBSTER
    from syne_tune.optimizer.scheduler import SchedulerDecision

    space = {"epochs": search.epochs}
    for name, one in search.space.items():
        if one.integer:
            space[name] = (lograndint if one.log else randint)(int(one.low), int(one.high))
        else:
            space[name] = (loguniform if one.log else uniform)(one.low, one.high)
    scheduler = MOBSTER(
        space, metric="accuracy", mode="max", resource_attr="epoch", max_resource_attr="epochs", type="promotion",
        grace_period=2, reduction_factor=3, points_to_evaluate=[search.default], random_seed=search.seed,
        search_options={"debug_log": False},
    )  # fmt: skip
    trials, reached = {}, {}
    while True:
        suggestion = scheduler.suggest(len(trials))
        number = len(trials) if suggestion.spawn_new_trial_id else suggestion.checkpoint_trial_id
        if suggestion.spawn_new_trial_id:
            trials[number] = Trial(number, suggestion.config, datetime.now())
            scheduler.on_trial_add(trials[number])
        trial, decision = trials[number], SchedulerDecision.CONTINUE
        while decision == SchedulerDecision.CONTINUE and reached.get(number, 0) < search.epochs:
            reached[number] = epoch = reached.get(number, 0) + 1
            result = {"accuracy": search.values(trial.config, epoch)[-1], "epoch": epoch}
            decision = scheduler.on_trial_result(trial, result)
        if reached[number] == search.epochs:
            scheduler.on_trial_complete(trial, result)
        else:
            scheduler.on_trial_remove(trial)


if __name__ == "__main__":
    main()
