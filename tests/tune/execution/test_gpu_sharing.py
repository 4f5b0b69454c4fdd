"""Trials share the GPU where whole batches fit side by side, and only while that is faster."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import START_MS, epoch_report, events
from tune.execution.gpu_sharing import GAIN, Packer, speedups, trials_together
from tune.history.events import EpochMeasured
from tune.history.table import Table, Trial
from vqc.config import TrainConfig
from vqc.hardware.memory_book import CONTEXT_GB, MARGIN, MemoryBook, Setup, StepMemory

GB = 2**30
EPOCH_S = 10.0
BUDGET_GB = 6.0 + 2 * CONTEXT_GB  # for two, 3 GiB each


def config_of(side: int = 320, batch_size: int = 4) -> TrainConfig:
    return TrainConfig(model="fcos_tiny", weights="none", image_size=(side, side), batch_size=batch_size)


def memory_of(image_gb: float, side: int = 320) -> dict[Setup, StepMemory]:
    setup = Setup(
        card="a", torch="2", model="fcos_tiny", weights="none", image_size=(side, side), precision="float16",
        categories=2, boxes=3, accumulates=False,
    )  # fmt: skip
    return {setup: StepMemory(fixed_bytes=GB // 10, image_bytes=int(image_gb * GB))}


def table_of(*rows: tuple[float, float], side: int = 320, epochs: int = 3) -> Table:
    """Trials of one image size; a row is when its first epoch began, in seconds, and its images per second."""
    table = Table()
    for number, (from_s, images_per_s) in enumerate(rows, start=1):
        trial = Trial(number=number, params={}, config=config_of(side), origin="sampler", proposed_ms=START_MS)
        for epoch in range(1, epochs + 1):
            report = epoch_report(epoch, ap50=0.1).model_copy(
                update={
                    "measured_ms": START_MS + int(1000 * (from_s + epoch * EPOCH_S)),
                    "train_s": EPOCH_S * 0.8,
                    "eval_s": EPOCH_S * 0.2,
                    "images_per_s": images_per_s,
                }
            )
            trial.apply(EpochMeasured(at_ms=START_MS, trial=number, report=report))
        table.trials[number] = trial
    return table


ALONE = (0.0, 100.0)


def test_a_size_that_never_ran_runs_alone_first() -> None:
    assert trials_together(config_of(), Table(), memory_of(0.1), budget_gb=BUDGET_GB) == 1


def test_what_was_not_measured_is_not_packed() -> None:
    assert trials_together(config_of(), table_of(ALONE), {}, budget_gb=BUDGET_GB) == 1
    assert trials_together(config_of(), table_of(ALONE), memory_of(0.1, side=640), budget_gb=BUDGET_GB) == 1


@pytest.mark.parametrize(
    ("image_gb", "together"), [(0.1, 2), (0.6, 2), (0.7, 1), (2.0, 1)], ids=["small", "just", "just not", "large"]
)
def test_two_are_tried_where_two_whole_batches_fit(image_gb: float, together: int) -> None:
    """Four images and the tenth of a GiB that is fixed, within 3 GiB less the margin."""
    assert (0.1 + 4 * image_gb <= 3 * (1 - MARGIN)) is (together == 2)
    assert trials_together(config_of(), table_of(ALONE), memory_of(image_gb), budget_gb=BUDGET_GB) == together


@pytest.mark.parametrize(
    ("each", "together"), [(54, 1), (55.1, 3), (90, 3)], ids=["too little", "just enough", "nearly free"]
)
def test_two_are_kept_only_if_they_are_faster_by_the_margin(each: float, together: int) -> None:
    assert (2 * each >= 100 * (1 + GAIN)) is (together > 1)
    table = table_of(ALONE, (100, each), (100, each))
    assert trials_together(config_of(), table, memory_of(0.1), budget_gb=BUDGET_GB) == together


@pytest.mark.parametrize(("each", "together"), [(44, 2), (60, 3)])
def test_three_are_kept_only_if_they_are_faster_than_two(each: float, together: int) -> None:
    table = table_of(ALONE, *[(100, 61)] * 2, *[(200, each)] * 3)
    assert trials_together(config_of(), table, memory_of(0.1), budget_gb=BUDGET_GB) == together


def test_three_that_do_not_fit_stay_two() -> None:
    table = table_of(ALONE, *[(100, 90)] * 2)
    assert trials_together(config_of(), table, memory_of(0.6), budget_gb=BUDGET_GB) == 2


def test_sizes_are_judged_by_themselves() -> None:
    table = table_of(ALONE, *[(100, 50)] * 2)
    assert trials_together(config_of(), table, memory_of(0.1), budget_gb=BUDGET_GB) == 1
    other = config_of(side=640)
    assert trials_together(other, table, memory_of(0.1, side=640), budget_gb=BUDGET_GB) == 1
    assert speedups(table, (640, 640)) == {}


def test_the_sum_of_two_is_compared_with_one_alone() -> None:
    table = table_of(ALONE, (100, 80), (100, 70))
    assert speedups(table, (320, 320)) == {1: 1.0, 2: pytest.approx(1.5)}


def test_epochs_in_which_company_came_or_went_count_for_nothing() -> None:
    assert speedups(table_of((0, 100), (EPOCH_S * 2.5, 10)), (320, 320)) == {1: 1.0}


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(1, 1000)), min_size=1, max_size=12))
def test_whatever_was_measured_the_answer_is_one_to_three(rows: list[tuple[float, float]]) -> None:
    assert trials_together(config_of(), table_of(*rows), memory_of(0.1), budget_gb=BUDGET_GB) in (1, 2, 3)


def test_a_trial_is_proposed_only_when_one_more_could_start(tmp_path: Path) -> None:
    book = MemoryBook(tmp_path)
    for setup, memory in memory_of(0.1).items():
        book.keep(setup, memory)
    packer = Packer(table_of(ALONE), book, budget_gb=BUDGET_GB)
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


def test_three_shares_of_a_third_fill_a_gpu(tmp_path: Path) -> None:
    book = MemoryBook(tmp_path)
    for setup, memory in memory_of(0.1).items():
        book.keep(setup, memory)
    packer = Packer(table_of(ALONE, *[(100, 90)] * 2), book, budget_gb=BUDGET_GB)
    assert [packer.take(key, config_of()) for key in "abc"] == pytest.approx([1 / 3] * 3)
    assert not packer.has_room
    packer.give_back("b")
    assert packer.has_room


def test_a_journal_without_times_packs_nothing() -> None:
    table = Table()
    for event in events():
        table.apply(event)
    assert speedups(table, (128, 128)) == {}
