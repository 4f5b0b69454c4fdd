"""A second detector that looks at the same photographs while there is nothing else to do, and never answers.

Where its verdict differs from the champion's, both are kept in SQLite for somebody to look at. At most one photograph
waits for an idle moment, and the others are skipped: under load it sees few, and no inspection waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from vqc.config import Record
from vqc.data.image_io import picture_bytes
from vqc.errors import UserError, VqcError
from vqc.files import open_database
from vqc.inference.bundle import challenger_of
from vqc.inference.predictor import Predictor
from vqc.serving.model_slot import open_model

if TYPE_CHECKING:
    from vqc.serving.inspection import Inspection
    from vqc.serving.server import Serving

FILE = "challenger.sqlite"

_TABLES = """
create table if not exists challenger_disagreements (
    challenger text not null, champion text not null, inspection_id text not null,
    champion_verdict text not null, champion_score real not null,
    challenger_verdict text not null, challenger_score real not null,
    primary key (challenger, champion, inspection_id)
) strict;
create table if not exists challenger_counts (
    challenger text not null, champion text not null, compared integer not null, primary key (challenger, champion)
) strict;
"""

_log = logging.getLogger(__name__)
PartVerdict = Literal["good", "defective"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered:
    """What a champion, named by its version, said about a photograph, whose bytes ``read`` gives."""

    inspection_id: str
    champion: str
    verdict: PartVerdict
    score: float
    read: Callable[[], bytes]


class Disagreement(Record):
    """One photograph on which the two differ."""

    inspection_id: str
    champion_verdict: PartVerdict
    champion_score: float
    challenger_verdict: PartVerdict
    challenger_score: float


class ChallengerReport(Record):
    """How the challenger compares with one champion."""

    version: str
    compared: int = Field(description="photographs that both have seen")
    skipped: int = Field(description="since the start: photographs that came while there was something else to do")
    defective_to_it_alone: int
    good_to_it_alone: int


class Challenger:
    """May be used from several threads.

    Args:
        thresholds: label in 1..C -> lowest score that rejects.
        when_idle: runs a function later, in another thread, when no photograph waits; raises ``VqcError`` or
            ``CancelledError`` where it will not.
    """

    def __init__(
        self,
        predictor: Predictor,
        file: Path,
        *,
        version: str,
        thresholds: Mapping[int, float],
        when_idle: Callable[[Callable[[], None]], object],
    ) -> None:
        self.version = version
        self._predictor, self._thresholds, self._when_idle = predictor, thresholds, when_idle
        self._waiting, self._skipped = False, 0
        self._lock = threading.Lock()
        self._database = open_database(file)
        self._database.executescript(_TABLES)

    def offer(self, answered: Answered) -> bool:
        """Hand over a photograph that is answered already; never waits. Whether it will be looked at."""
        with self._lock:
            taken, self._waiting = not self._waiting, True
            self._skipped += not taken
        if not taken:
            return False
        try:
            self._when_idle(lambda: self._look(answered))
        except (VqcError, CancelledError):
            with self._lock:
                self._waiting = False
                self._skipped += 1
            return False
        return True

    def close(self) -> None:
        """Nothing may be waiting any more."""
        self._database.close()

    def report(self, champion: str) -> ChallengerReport:
        """How it compares with that version."""
        key = self.version, champion
        with self._lock:
            compared = self._database.execute(
                "select compared from challenger_counts where challenger = ? and champion = ?", key
            ).fetchone()
            counts = dict(
                self._database.execute(
                    "select challenger_verdict, count(*) from challenger_disagreements "
                    "where challenger = ? and champion = ? group by 1",
                    key,
                ).fetchall()
            )
            return ChallengerReport(
                version=self.version,
                compared=compared[0] if compared else 0,
                skipped=self._skipped,
                defective_to_it_alone=counts.get("defective", 0),
                good_to_it_alone=counts.get("good", 0),
            )

    def disagreements(self, champion: str, *, limit: int = 100) -> list[Disagreement]:
        """The newest ones with that version."""
        names = tuple(Disagreement.model_fields)
        with self._lock:
            rows = self._database.execute(
                f"select {', '.join(names)} from challenger_disagreements "
                "where challenger = ? and champion = ? order by rowid desc limit ?",
                (self.version, champion, limit),
            ).fetchall()
        return [Disagreement(**dict(zip(names, row, strict=True))) for row in rows]

    def _look(self, answered: Answered) -> None:
        try:
            found = self._predictor.detect(self._predictor.decode(answered.read()))
            verdict: PartVerdict = "defective" if len(found.reaching(self._thresholds)) else "good"
            self._keep(answered, verdict, float(found.scores.max(initial=0.0)))
        except Exception:  # noqa: BLE001 (whatever it is, the champion must not notice)
            _log.exception("challenger %s failed on %s", self.version, answered.inspection_id)
        finally:
            with self._lock:
                self._waiting = False

    def _keep(self, answered: Answered, verdict: PartVerdict, score: float) -> None:
        key = self.version, answered.champion
        with self._lock:
            self._database.execute("begin immediate")
            with self._database:  # commits, or rolls back where the block raises
                self._database.execute(
                    "insert into challenger_counts values (?, ?, 1) on conflict do update set compared = compared + 1",
                    key,
                )
                if verdict != answered.verdict:
                    self._database.execute(
                        "insert or ignore into challenger_disagreements values (?, ?, ?, ?, ?, ?, ?)",
                        (*key, answered.inspection_id, answered.verdict, answered.score, verdict, score),
                    )


def attach_challenger(serving: Serving) -> Challenger | None:
    """The challenger that the settings or the promoted folder name, at work; None where there is none to use."""
    settings = serving.settings
    folder = settings.challenger or challenger_of(settings.promoted)
    if folder is None or folder.absolute() == serving.model_slot.current.folder:
        return None
    try:
        model = open_model(folder.absolute(), threads=1, golden=settings.verify_golden)
    except UserError as error:
        if settings.challenger is not None:
            raise
        _log.warning("no challenger: %s", error.what)
        return None
    challenger = Challenger(
        model.predictor,
        settings.store / FILE,
        version=model.version.version,
        thresholds=model.thresholds,
        when_idle=serving.work_queue.submit_idle,
    )

    def observe(inspection: Inspection, pixels: object) -> None:
        if inspection.verdict == "unreadable" or inspection.model.version == challenger.version:
            return
        path = serving.history.photograph(inspection.id, inspection.image.media_type)
        challenger.offer(
            Answered(
                inspection_id=inspection.id,
                champion=inspection.model.version,
                verdict=inspection.verdict,
                score=inspection.score,
                read=lambda: picture_bytes(path),  # not the bytes: they would stay in memory
            )
        )

    serving.observers.append(observe)
    serving.closing.append(challenger.close)
    return challenger
