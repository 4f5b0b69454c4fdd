"""The second detector: it runs when nothing else does, and what it finds is kept and never answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.models import StubBackend, stub_predictor
from tests.serving import jpeg
from vqc.errors import VqcError
from vqc.inference.detections import Detections
from vqc.serving.challenger import Answered, Challenger, Disagreement, PartVerdict

THRESHOLDS = {1: 0.5, 2: 0.5, 3: 0.5}
DEFECT = Detections(
    boxes=np.array([[1, 2, 30, 40]], np.float32), scores=np.array([0.8], np.float32), labels=np.array([1])
)


class Idle:
    """Keeps what is to run in an idle moment until the test has one."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.refuses = False

    def __call__(self, function: Callable[[], None]) -> None:
        if self.refuses:
            raise VqcError("the server is stopping")
        self.waiting.append(function)

    def moment(self) -> None:
        self.waiting.pop(0)()


@pytest.fixture
def idle() -> Idle:
    return Idle()


@pytest.fixture
def make(tmp_path: Path, idle: Idle) -> Iterator[Callable[..., Challenger]]:
    made: list[Challenger] = []

    def challenger(backend: StubBackend) -> Challenger:
        file = tmp_path / "challenger.db"
        made.append(Challenger(stub_predictor(backend), file, version="2", thresholds=THRESHOLDS, when_idle=idle))
        return made[-1]

    yield challenger
    for one in made:
        one.close()


Make = Callable[[StubBackend], Challenger]


def photograph() -> bytes:
    return jpeg(1)


def answered(number: int, *, verdict: PartVerdict = "good") -> Answered:
    return Answered(inspection_id=f"i{number}", champion="1", verdict=verdict, score=0.25, read=photograph)


def looked_at(challenger: Challenger, idle: Idle, some: list[Answered]) -> None:
    for one in some:
        assert challenger.offer(one)
        idle.moment()


def test_disagreements_are_kept_and_agreements_counted(make: Make, idle: Idle) -> None:
    challenger = make(StubBackend(DEFECT))
    looked_at(challenger, idle, [answered(1), answered(2, verdict="defective"), answered(3)])
    report = challenger.report("1")
    assert (report.compared, report.defective_to_it_alone, report.good_to_it_alone) == (3, 2, 0)
    found = [one.model_copy(update={"challenger_score": round(one.challenger_score, 6)})
             for one in challenger.disagreements("1")]  # fmt: skip
    assert found == [
        Disagreement(inspection_id=name, champion_verdict="good", champion_score=0.25,
                     challenger_verdict="defective", challenger_score=0.8)
        for name in ("i3", "i1")
    ]  # fmt: skip
    assert challenger.report("another champion").compared == 0


def test_its_own_threshold_decides(make: Make, idle: Idle) -> None:
    challenger = make(StubBackend(replace(DEFECT, scores=np.array([0.4], np.float32))))
    looked_at(challenger, idle, [answered(1, verdict="defective")])
    assert challenger.report("1").good_to_it_alone == 1


def test_while_one_photograph_waits_for_an_idle_moment_the_others_are_skipped(make: Make, idle: Idle) -> None:
    backend = StubBackend(DEFECT)
    challenger = make(backend)
    assert [challenger.offer(answered(number)) for number in range(3)] == [True, False, False]
    assert (backend.images, len(idle.waiting), challenger.report("1").skipped) == (0, 1, 2)
    idle.moment()
    assert challenger.offer(answered(4))


def test_where_there_will_be_no_idle_moment_it_is_skipped(make: Make, idle: Idle) -> None:
    challenger = make(StubBackend())
    idle.refuses = True
    assert not challenger.offer(answered(1))
    idle.refuses = False
    assert challenger.offer(answered(2))
    assert challenger.report("1").skipped == 1


def test_its_failure_is_logged_and_it_goes_on(make: Make, idle: Idle, caplog: pytest.LogCaptureFixture) -> None:
    def missing() -> bytes:
        raise OSError("the photograph was removed")

    challenger = make(StubBackend())
    looked_at(challenger, idle, [replace(answered(1), read=missing), answered(2)])
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert challenger.report("1").compared == 1


def test_what_was_found_survives_a_restart(make: Make, idle: Idle) -> None:
    looked_at(make(StubBackend(DEFECT)), idle, [answered(1)])
    second = make(StubBackend())
    assert second.report("1").compared == 1
    assert [one.inspection_id for one in second.disagreements("1")] == ["i1"]
