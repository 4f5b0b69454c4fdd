"""Trials share the GPU where whole batches fit side by side, and only while that is faster."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import START_MS, epoch_report, events
from tune.execution.gpu_sharing import GAIN, Packer, speedups, trials_together
from tune.history.events import EpochMeasured
from tune.history.table import Table, Trial
from vqc.config import GpuOptimization, TrainConfig
from vqc.hardware.gpu import CONTEXT_GB

EPOCH_S = 10.0
BUDGET_GB = 6.0 + 2 * CONTEXT_GB  # for two, 3 GiB each


def config_of(side: int = 320, batch_size: int = 4) -> TrainConfig:
    return TrainConfig(model="fcos_tiny", weights="none", image_size=(side, side), batch_size=batch_size)


def table_of(*rows: tuple[float, float], side: int = 320, epochs: int = 3, peak_gb: float | None = 0.5) -> Table:
    """Trials of one image size; a row is when its first epoch began, in seconds, and its images per second."""
    table = Table()
    for number, (from_s, images_per_s) in enumerate(rows, start=1):
        trial = Trial(number=number, params={}, config=config_of(side), origin="sampler", proposed_s=0.0)
        for epoch in range(1, epochs + 1):
            report = epoch_report(epoch, ap50=0.1).model_copy(
                update={
                    "measured_ms": START_MS + int(1000 * (from_s + epoch * EPOCH_S)),
                    "train_s": EPOCH_S * 0.8,
                    "eval_s": EPOCH_S * 0.2,
                    "images_per_s": images_per_s,
                    "peak_vram_gb": peak_gb,
                    "micro_batch": 4,
                }
            )
            trial.apply(EpochMeasured(at_ms=START_MS, awake_s=from_s + epoch * EPOCH_S, trial=number, report=report))
        table.trials[number] = trial
    return table


ALONE = (0.0, 100.0)


def test_a_size_that_never_ran_runs_alone_first() -> None:
    assert trials_together(config_of(), Table(), budget_gb=BUDGET_GB) == 1


def test_what_was_not_measured_is_not_packed() -> None:
    assert trials_together(config_of(), table_of(ALONE, peak_gb=None), budget_gb=BUDGET_GB) == 1
    other = config_of().model_copy(update={"gpu_optimization": GpuOptimization(mixed_precision="float32")})
    assert trials_together(other, table_of(ALONE), budget_gb=BUDGET_GB) == 1


@pytest.mark.parametrize(
    ("peak_gb", "batch_size", "together"),
    [(0.5, 4, 2), (3.0, 4, 2), (3.1, 4, 1), (3.0, 2, 2), (1.5, 8, 2), (1.6, 8, 1)],
    ids=["small", "just", "just not", "a smaller batch", "twice the batch, just", "twice the batch, just not"],
)
def test_two_are_tried_where_two_whole_batches_fit(peak_gb: float, batch_size: int, together: int) -> None:
    """Measured on four images at once, within 3 GiB for each of two; in proportion for a larger batch."""
    table = table_of(ALONE, peak_gb=peak_gb)
    assert trials_together(config_of(batch_size=batch_size), table, budget_gb=BUDGET_GB) == together


def test_the_trial_that_needed_least_for_the_same_decides() -> None:
    """A trial alone on the GPU may keep more than it needs."""
    one_after_the_other = ALONE, (100.0, 100.0)
    table = table_of(*one_after_the_other, peak_gb=5.0)
    assert trials_together(config_of(), table, budget_gb=BUDGET_GB) == 1
    table.trials[2] = table_of(*one_after_the_other, peak_gb=2.0).trials[2]
    assert trials_together(config_of(), table, budget_gb=BUDGET_GB) == 2


@pytest.mark.parametrize(
    ("each", "together"), [(54, 1), (55.1, 3), (90, 3)], ids=["too little", "just enough", "nearly free"]
)
def test_two_are_kept_only_if_they_are_faster_by_the_margin(each: float, together: int) -> None:
    assert (2 * each >= 100 * (1 + GAIN)) is (together > 1)
    table = table_of(ALONE, (100, each), (100, each))
    assert trials_together(config_of(), table, budget_gb=BUDGET_GB) == together


@pytest.mark.parametrize(("each", "together"), [(44, 2), (60, 3)])
def test_three_are_kept_only_if_they_are_faster_than_two(each: float, together: int) -> None:
    table = table_of(ALONE, *[(100, 61)] * 2, *[(200, each)] * 3)
    assert trials_together(config_of(), table, budget_gb=BUDGET_GB) == together


def test_three_that_do_not_fit_stay_two() -> None:
    table = table_of(ALONE, *[(100, 90)] * 2, peak_gb=2.5)
    assert trials_together(config_of(), table, budget_gb=BUDGET_GB) == 2


def test_sizes_are_judged_by_themselves() -> None:
    table = table_of(ALONE, *[(100, 50)] * 2)
    assert trials_together(config_of(), table, budget_gb=BUDGET_GB) == 1
    other = config_of(side=640)
    assert trials_together(other, table, budget_gb=BUDGET_GB) == 1
    assert speedups(table, (640, 640)) == {}


def test_the_sum_of_two_is_compared_with_one_alone() -> None:
    table = table_of(ALONE, (100, 80), (100, 70))
    assert speedups(table, (320, 320)) == {1: 1.0, 2: pytest.approx(1.5)}


def test_epochs_in_which_company_came_or_went_count_for_nothing() -> None:
    assert speedups(table_of((0, 100), (EPOCH_S * 2.5, 10)), (320, 320)) == {1: 1.0}


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(1, 1000)), min_size=1, max_size=12))
def test_whatever_was_measured_the_answer_is_one_to_three(rows: list[tuple[float, float]]) -> None:
    assert trials_together(config_of(), table_of(*rows), budget_gb=BUDGET_GB) in (1, 2, 3)


def test_a_trial_is_proposed_only_when_one_more_could_start() -> None:
    packer = Packer(table_of(ALONE), budget_gb=BUDGET_GB)
    assert packer.has_room
    assert packer.take("first", config_of()) == 0.5
    assert packer.has_room
    assert packer.take("second", config_of()) == 0.5
    assert not packer.has_room
    packer.give_back("first")
    assert packer.has_room
    packer.give_back("second")
    assert packer.take("large", config_of(side=640)) == 1
    assert not packer.has_room


def test_three_shares_of_a_third_fill_a_gpu() -> None:
    packer = Packer(table_of(ALONE, *[(100, 90)] * 2), budget_gb=BUDGET_GB)
    assert [packer.take(key, config_of()) for key in "abc"] == pytest.approx([1 / 3] * 3)
    assert not packer.has_room
    packer.give_back("b")
    assert packer.has_room


def test_a_journal_without_times_packs_nothing() -> None:
    table = Table()
    for event in events():
        table.apply(event)
    assert speedups(table, (128, 128)) == {}
