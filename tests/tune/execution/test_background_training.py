"""Training may be one epoch ahead of its reports, never further, and never past a verdict."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.builders import epoch_report
from tune.execution.background_training import BackgroundTraining, Measured, TrainingThread
from tune.execution.background_training import Training as Epochs
from vqc.errors import InfeasibleError
from vqc.files import write_atomically

WAIT_S = 5.0
EPOCHS, STEPS = 4, 3


class Training:
    """Epochs of a few steps that cost nothing; notes what was begun, trained and written, in order."""

    def __init__(self, *, slow_in: int | None = None, fails_in: int | None = None, disk_fails_at: int | None = None):
        self.slow_in, self.fails_in, self.disk_fails_at = slow_in, fails_in, disk_fails_at
        self.events: list[str] = []
        self.disk = threading.Event()  # a checkpoint is written when it is set
        self.disk.set()
        self.step = threading.Event()  # the slow epoch goes on when it is set

    def __call__(self, on_step: Callable[[int, int], None]) -> Generator[Measured, None, None]:
        try:
            for epoch in range(1, EPOCHS + 1):
                self.events.append(f"begun {epoch}")
                for step in range(STEPS):
                    assert epoch != self.slow_in or self.step.wait(WAIT_S)
                    on_step(step, STEPS)
                if epoch == self.fails_in:
                    raise InfeasibleError("one image does not fit")
                self.events.append(f"trained {epoch}")
                yield epoch_report(epoch, ap50=0.1), lambda epoch=epoch: self.write(epoch)
        finally:
            self.events.append("closed")

    def write(self, epoch: int) -> None:
        assert self.disk.wait(WAIT_S)
        if epoch == self.disk_fails_at:
            raise OSError("no space left on device")
        self.events.append(f"written {epoch}")

    def reached(self, event: str) -> bool:
        """Whether the event comes within the patience of this test."""
        until_s = time.monotonic() + WAIT_S
        while event not in self.events and time.monotonic() < until_s:
            time.sleep(0.002)
        return event in self.events

    def settled(self) -> list[str]:
        """The events once nothing more happens by itself."""
        time.sleep(0.05)
        return list(self.events)


def never(epoch: int) -> bool:
    return False


def ahead_of(training: Epochs, *, waits_after: Callable[[int], bool] = never) -> BackgroundTraining:
    return BackgroundTraining(training, thread=TrainingThread(), waits_after=waits_after)


def test_the_reports_come_in_order_each_after_its_checkpoint() -> None:
    training = Training()
    ahead = ahead_of(training)
    for epoch in range(1, 5):
        assert next(ahead).epoch == epoch
        assert f"written {epoch}" in training.events
    with pytest.raises(StopIteration):
        next(ahead)
    with pytest.raises(StopIteration):
        next(ahead)


def test_nothing_is_trained_before_it_is_asked_for() -> None:
    training = Training()
    ahead = ahead_of(training)
    assert training.settled() == []
    ahead.close()
    assert training.events == []


def test_the_next_epoch_trains_while_the_checkpoint_is_written() -> None:
    training = Training()
    training.disk.clear()
    ahead = ahead_of(training)
    reports: list[int] = []
    asking = threading.Thread(target=lambda: reports.append(next(ahead).epoch))
    asking.start()
    assert training.reached("trained 2")
    assert reports == []
    training.disk.set()
    asking.join(WAIT_S)
    assert reports == [1]
    ahead.close()


def test_training_is_no_more_than_one_epoch_ahead() -> None:
    training = Training()
    ahead = ahead_of(training)
    next(ahead)
    assert training.reached("trained 2")
    assert "begun 3" not in training.settled()
    next(ahead)
    assert training.reached("begun 3")
    ahead.close()


def test_a_checkpoint_is_not_written_before_its_report_is_asked_for() -> None:
    training = Training()
    ahead = ahead_of(training)
    next(ahead)
    assert training.reached("trained 2")
    assert "written 2" not in training.settled()  # were the first report lost now, it could not be measured again
    next(ahead)
    assert "written 2" in training.events
    ahead.close()


def test_after_an_epoch_that_is_judged_training_waits_for_the_verdict() -> None:
    training = Training()
    ahead = ahead_of(training, waits_after=lambda epoch: epoch == 2)
    next(ahead)
    next(ahead)
    assert "begun 3" not in training.settled()
    next(ahead)
    assert training.reached("begun 4")
    ahead.close()


@pytest.mark.parametrize("waits", [True, False])
def test_an_error_comes_after_all_reports_before_it(waits: bool) -> None:
    ahead = ahead_of(Training(fails_in=3), waits_after=lambda _: waits)
    assert [next(ahead).epoch, next(ahead).epoch] == [1, 2]
    with pytest.raises(InfeasibleError, match="one image does not fit"):
        next(ahead)


def test_a_checkpoint_that_cannot_be_written_comes_in_place_of_its_report() -> None:
    ahead = ahead_of(Training(disk_fails_at=2))
    assert next(ahead).epoch == 1
    with pytest.raises(OSError, match="no space"):
        next(ahead)
    ahead.close()


def test_what_is_written_is_let_go_before_the_next_epoch_ends() -> None:
    """It is a copy of a whole state: two of them at a time are too much."""

    class State:
        def write(self) -> None:
            pass

    held: list[weakref.ref[State]] = []

    def training(on_step: Callable[[int, int], None]) -> Generator[Measured, None, None]:
        for epoch in (1, 2, 3):
            until_s = time.monotonic() + WAIT_S
            while any(one() is not None for one in held) and time.monotonic() < until_s:
                time.sleep(0.002)
            assert [one for one in held if one() is not None] == []
            state = State()
            held.append(weakref.ref(state))
            write = state.write
            del state
            yield epoch_report(epoch, ap50=0.1), write
            del write

    ahead = ahead_of(training)
    assert [next(ahead).epoch for _ in range(3)] == [1, 2, 3]
    ahead.close()


def test_let_go_it_stops_between_two_steps_and_closes_the_training() -> None:
    training = Training(slow_in=2)
    ahead = ahead_of(training)
    next(ahead)
    assert training.reached("begun 2")
    closing = threading.Thread(target=ahead.close)
    closing.start()
    training.settled()
    training.step.set()
    closing.join(WAIT_S)
    assert not closing.is_alive()
    assert training.events[-1] == "closed"
    assert "trained 2" not in training.events
    with pytest.raises(StopIteration):
        next(ahead)


def test_what_is_being_written_when_it_is_let_go_is_written_to_its_end(tmp_path: Path) -> None:
    def training(on_step: Callable[[int, int], None]) -> Generator[Measured, None, None]:
        for epoch in (1, 2):
            yield (
                epoch_report(epoch, ap50=0.1),
                lambda epoch=epoch: write_atomically(tmp_path / str(epoch), bytes(2**24)),
            )

    ahead = ahead_of(training)
    next(ahead)
    ahead.close()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes in ({"1": 2**24}, {"1": 2**24, "2": 2**24})


def test_trials_share_one_thread_and_leave_nothing_in_it() -> None:
    thread, seen, kept = TrainingThread(), [], []

    class Tensors:
        """Stands for what a trial allocates."""

    def training(on_step: Callable[[int, int], None]) -> Generator[Measured, None, None]:
        tensors = Tensors()
        kept.append(weakref.ref(tensors))
        seen.append(threading.get_ident())
        yield epoch_report(1, ap50=0.1), lambda: None
        on_step(0, 1)

    for _ in range(2):
        ahead = BackgroundTraining(training, thread=thread, waits_after=never)
        assert next(ahead).epoch == 1
        ahead.close()
        assert kept[-1]() is None
    assert seen[0] == seen[1] != threading.get_ident()
