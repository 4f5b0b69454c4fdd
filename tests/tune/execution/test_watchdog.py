"""How long an epoch may take before its trial counts as hung, and who counts the seconds."""

from __future__ import annotations

import pytest

from tests.builders import epoch_report, events
from tune.execution.watchdog import FACTOR, MARGIN_S, SLOWEST_S, Waits, patience_s, usual_s
from tune.history.journal import SearchResumed, Table, Trial

STARTED_MS = 1_000_000


def table_of(*trials: tuple[int, list[float]], resumed_ms: int | None = None) -> Table:
    """A search's first line and trials, given as their image size and the seconds of their epochs."""
    first, proposed = events()[:2]
    table = Table()
    table.apply(first.model_copy(update={"at_ms": STARTED_MS}))
    for number, (side, seconds) in enumerate(trials, start=1):
        config = proposed.config.model_copy(update={"image_size": (side, side)})
        table.apply(proposed.model_copy(update={"trial": number, "config": config}))
        table.trials[number].reports = [
            epoch_report(epoch, ap50=0.1).model_copy(
                update={"train_s": taken, "eval_s": 0.0, "measured_ms": STARTED_MS + epoch}
            )
            for epoch, taken in enumerate(seconds, start=1)
        ]
    if resumed_ms is not None:
        table.apply(SearchResumed(at_ms=resumed_ms, command="", trials=6))
    return table


def newest(table: Table) -> Trial:
    return table.trials[len(table.trials)]


def test_before_anything_was_measured_even_a_slow_machine_has_time() -> None:
    table = table_of((128, []))
    assert patience_s(table, newest(table)) == MARGIN_S + SLOWEST_S * (128 + 48)


def test_the_limit_is_ten_times_the_slowest_trial_of_its_kind_and_a_margin() -> None:
    table = table_of((128, [20.0, 20.0]), (128, [50.0, 50.0]), (128, []))
    assert patience_s(table, newest(table)) == pytest.approx(MARGIN_S + FACTOR * 50.0)


def test_larger_images_are_waited_for_in_proportion_to_their_pixels() -> None:
    table = table_of((128, [20.0]), (256, []))
    assert usual_s(table, newest(table).config) == pytest.approx(80.0)


def test_an_epoch_during_which_the_laptop_slept_does_not_lengthen_the_limit() -> None:
    table = table_of((128, [20.0, 30_000.0, 21.0]))
    assert usual_s(table, newest(table).config) == pytest.approx(21.0)


def test_another_detector_tells_nothing() -> None:
    table = table_of((128, [20.0]))
    assert usual_s(table, newest(table).config.model_copy(update={"model": "another"})) is None


def test_what_an_earlier_sitting_measured_does_not_count_because_it_may_have_had_another_gpu() -> None:
    table = table_of((128, [20.0]), resumed_ms=STARTED_MS + 100)
    assert usual_s(table, newest(table).config) is None


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def turns(waits: Waits, clock: Clock, *, times: int, each_s: float) -> list[dict[str, float]]:
    """What so many turns of a loop said that waits for one trial with a limit of ten seconds."""
    said = []
    for _ in range(times):
        clock.now_s += each_s
        said.append(waits.turn(["a"], lambda who: 10.0))
    return said


def test_who_was_waited_for_too_long_is_named_once() -> None:
    clock = Clock()
    said = turns(Waits(clock), clock, times=30, each_s=0.5)
    assert [k for k, over in enumerate(said, start=1) if over] == [21]
    assert said[20] == {"a": 10.0}


def test_a_sign_of_life_begins_the_wait_anew() -> None:
    clock = Clock()
    waits = Waits(clock)
    for _ in range(5):
        assert not any(turns(waits, clock, times=15, each_s=0.5))
        waits.heard("a")


def test_a_laptop_that_sleeps_all_night_has_waited_for_a_second() -> None:
    clock = Clock()
    waits = Waits(clock)
    turns(waits, clock, times=10, each_s=0.5)
    clock.now_s += 8 * 3600
    assert not any(turns(waits, clock, times=6, each_s=0.5))


def test_whoever_is_no_longer_awaited_is_forgotten() -> None:
    clock = Clock()
    waits = Waits(clock)
    turns(waits, clock, times=15, each_s=0.5)
    waits.turn([], lambda who: 10.0)
    assert not any(turns(waits, clock, times=15, each_s=0.5))
