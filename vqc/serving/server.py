"""What the server does with a photograph, whoever brings it: look, store, record, tell.

``Serving`` holds the parts. The routes call it, and so does whatever else brings photographs; ``observers`` are
called after each inspection, in a thread of their own, when the answer may have left already.
"""

from __future__ import annotations

import hashlib
import logging
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from vqc.data.image_io import open_picture
from vqc.errors import DataError, VqcError
from vqc.inference.detections import Detections
from vqc.inference.photographs import Photograph
from vqc.inference.verdicts import coco_results, judge
from vqc.serving.events import Events
from vqc.serving.explanations import Explanations
from vqc.serving.history import History, Limits, first_etag
from vqc.serving.inspection import (
    Detection,
    Inspection,
    NewReview,
    Review,
    Source,
    StoredImage,
    Timings,
)
from vqc.serving.metrics import Metrics
from vqc.serving.model_slot import ModelSlot, ServedModel
from vqc.serving.reviews import requested_review
from vqc.serving.settings import GB, ServingSettings
from vqc.serving.work_queue import WorkQueue

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
# An inspection and its photograph [h, w, 3] RGB, decoded for the detector; None where it could not be read, or an
# earlier one is still looked at: of all photographs that wait for the observers one is in memory.
Observer = Callable[[Inspection, Pixels | None], None]
ModelObserver = Callable[[ServedModel], None]
Notify = Callable[[str, Mapping[str, Any]], None]  # a kind of event such as "drift.alarm", and what there is to say
MEDIA_TYPES = {
    "BMP": "image/bmp", "JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png",
    "PPM": "image/x-portable-anymap", "TIFF": "image/tiff", "WEBP": "image/webp",
}  # fmt: skip
DETECTIONS = TypeAdapter(tuple[Detection, ...])
LONGEST_NAME = 255
LOG = logging.getLogger(__name__)


class NoPhotographError(VqcError):
    """The bytes are no picture of a known kind; nothing was recorded."""


class WrongReviewError(VqcError):
    """The review says something that cannot be."""


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What came out of one photograph."""

    verdict: Literal["good", "defective", "unreadable"]
    model: ServedModel
    width: int = 0
    height: int = 0
    score: float = 0.0
    detections: tuple[Detection, ...] = ()
    reason: str | None = None
    queue_ms: float = 0.0
    decode_ms: float = 0.0
    detector_ms: float = 0.0
    pixels: Pixels | None = None  # for the observers

    def answer(self, *, store_ms: float, total_ms: float) -> dict[str, Any]:
        """Its fields of an ``Inspection``."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "score": self.score,
            "threshold": self.model.threshold,
            "detections": self.detections,
            "model": self.model.version,
            "timings": Timings(
                queue_ms=self.queue_ms, decode_ms=self.decode_ms, detector_ms=self.detector_ms, store_ms=store_ms,
                total_ms=total_ms,
            ),
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """An inspection that is on the disk and that nobody was told of."""

    inspection: Inspection
    text: str  # the same as JSON
    pixels: Pixels | None  # for the observers


class Serving:
    """The parts of the server, and an inspection from beginning to end. May be used from several threads."""

    def __init__(self, settings: ServingSettings) -> None:
        """Open the history and load the model.

        Raises:
            UserError: either cannot be used.
        """
        self.settings = settings
        limits = Limits(inspections=settings.keep_inspections, bytes=round(settings.keep_gb * GB))
        self.history = History(settings.store, limits=limits)
        self.model_slot = ModelSlot(
            store=settings.store,
            promoted=settings.promoted,
            threads=settings.threads,
            golden=settings.verify_golden,
        )
        for warning in self.model_slot.open(settings.bundle):
            LOG.warning(warning)
        self.work_queue = WorkQueue(length=settings.queue_length)
        self.events = Events()
        self.metrics = Metrics()
        self.metrics.model_changed(self.model_slot.current.version)
        self.explanations = Explanations(settings.store, self.work_queue, masks=settings.explanation_masks)
        self.observers: list[Observer] = []
        self.model_observers: list[ModelObserver] = []  # called when another model or threshold is in force
        self.sources: list[Callable[[], None]] = []  # called first of all: end what brings photographs
        self.closing: list[Callable[[], None]] = []  # called when the queue is drained and the history still open
        self.notify: Notify = lambda kind, data: None  # replaced where somebody is to be told
        self._observing = ThreadPoolExecutor(1, thread_name_prefix="observers")
        self._watched: Callable[[], Pixels | None] = lambda: None

    def inspect(self, data: bytes, *, source: Source, name: str | None = None, new_id: str | None = None) -> Inspection:
        """As ``record``, and tell."""
        inspected = self.record(data, source=source, name=name, new_id=new_id)
        self.tell(inspected)
        return inspected.inspection

    def record(self, data: bytes, *, source: Source, name: str | None = None, new_id: str | None = None) -> Inspected:
        """Look at a photograph; the answer and the photograph are on the disk when this returns.

        The caller holds a place of the ``work_queue``. What cannot be decoded is recorded as "unreadable".
        ``new_id``: one that the history gave before.

        Raises:
            NoPhotographError: not a picture at all.
            StorageFullError: there is no room; nothing was recorded.
        """
        arrived_s = perf_counter()
        picture = _opened(data)
        media_type, opened_s = MEDIA_TYPES[str(picture.format)], perf_counter()
        id_, created_at = new_id or self.history.new_id(), datetime.now(timezone.utc)
        looking = self.work_queue.submit(
            partial(self._look, picture, submitted_s=opened_s, opening_s=opened_s - arrived_s)
        )
        try:
            self.history.store_photograph(id_, media_type, data)
            stored_s = perf_counter()
            sha256 = hashlib.sha256(data).hexdigest()
            look = looking.result()
            inspection = Inspection(
                id=id_,
                created_at=created_at,
                source=source,
                name=_plain_name(name),
                image=StoredImage(
                    url=f"/v1/inspections/{id_}/image", width=look.width, height=look.height, media_type=media_type,
                    bytes=len(data), sha256=sha256,
                ),
                review_requested=requested_review(
                    id_, score=look.score, threshold=look.model.threshold, readable=look.verdict != "unreadable",
                    odds=self.settings.review_odds, share=self.settings.review_share,
                    seed=self.settings.review_seed,
                ),
                etag=first_etag(id_),
                **look.answer(store_ms=_ms(stored_s - arrived_s), total_ms=_ms(perf_counter() - arrived_s)),
            )  # fmt: skip
            text = self.history.add(inspection)
        except BaseException:
            self.history.forget_photograph(id_, media_type)
            raise
        return Inspected(inspection=inspection, text=text, pixels=look.pixels)

    def tell(self, inspected: Inspected) -> None:
        """Count it, tell whoever listens, and the observers; the answer need not wait for it.

        Nobody is told of what was recorded when the server had to end before it answered.
        """
        self.metrics.inspected(inspected.inspection)
        self.events.publish("inspection", inspected.text)
        self._observing.submit(self._observe, inspected.inspection, inspected.pixels)

    def review(self, id_: str, new: NewReview, *, etag: str) -> Inspection:
        """Record what an operator says.

        Raises:
            WrongReviewError: a good part with boxes, an unknown category, or a box outside of the photograph.
            NoSuchInspectionError, StaleReviewError, StorageFullError: as of ``History.review``.
        """
        self._check_review(self.history.get(id_), new)
        review = Review(**dict(new), reviewed_at=datetime.now(timezone.utc))
        inspection = self.history.review(id_, review, etag=etag)
        self.events.publish("review", inspection.model_dump_json())
        return inspection

    def reload(self, name: str | None = None) -> ServedModel:
        """As ``ModelSlot.reload``, and tell."""
        return self._told(self.model_slot.reload(name))

    def rollback(self) -> ServedModel:
        """As ``ModelSlot.rollback``, and tell."""
        return self._told(self.model_slot.rollback())

    def set_threshold(self, threshold: float | None) -> ServedModel:
        """As ``ModelSlot.set_threshold``, and tell."""
        return self._told(self.model_slot.set_threshold(threshold))

    def drain(self) -> None:
        """Take nothing more and end the streams of events; what is in the queue is finished."""
        self.work_queue.drain()
        self.events.close()

    def close(self) -> None:
        """Finish what is in the queue and close all parts."""
        self.drain()
        for stop in self.sources:
            stop()
        self.work_queue.close()
        self.explanations.close()
        self._observing.shutdown()
        for close in self.closing:
            close()
        self.history.close()

    def _look(self, picture: Image, *, submitted_s: float, opening_s: float) -> _Look:
        """Runs in the worker thread: the verdict as ``vqc predict`` gives it. Opening counts as decoding."""
        started_s = perf_counter()
        model, queue_ms = self.model_slot.current, _ms(started_s - submitted_s)
        unreadable = partial(_Look, verdict="unreadable", model=model, queue_ms=queue_ms)
        most = self.settings.max_megapixels
        if picture.width * picture.height > 1e6 * most:
            return unreadable(reason=f"more than {most:g} megapixels", decode_ms=_ms(opening_s))
        try:
            decoded = model.predictor.decode(picture)
        except DataError as error:
            return unreadable(reason=error.what, decode_ms=_ms(opening_s + perf_counter() - started_s))
        decoded_s = perf_counter()
        found = model.predictor.detect(decoded)
        detected_s = perf_counter()
        photograph = Photograph(image_id=0, path=Path(), file_name="")
        verdict = judge(photograph, found, model.predictor, thresholds=model.thresholds)
        return _Look(
            verdict="defective" if verdict.verdict == "fail" else "good",
            model=model,
            width=decoded.width,
            height=decoded.height,
            score=verdict.worst_score or 0.0,
            detections=_detections(found, model),
            queue_ms=queue_ms,
            decode_ms=_ms(opening_s + decoded_s - started_s),
            detector_ms=_ms(detected_s - decoded_s),
            pixels=self._kept(decoded.pixels),
        )

    def _kept(self, pixels: Pixels) -> Pixels | None:
        """The photograph, unless the observers still have an earlier one."""
        if not self.observers or self._watched() is not None:
            return None
        self._watched = weakref.ref(pixels)
        return pixels

    def _check_review(self, inspection: Inspection, new: NewReview) -> None:
        if new.verdict == "good" and new.boxes:
            raise WrongReviewError(f"boxes: got {len(new.boxes)}, expected none on a good part")
        known = {id_ for id_, _ in self.model_slot.current.predictor.categories}
        width, height = inspection.image.width, inspection.image.height
        for number, box in enumerate(new.boxes):
            left, top, wide, high = box.bbox
            if box.category_id not in known:
                raise WrongReviewError(f"boxes.{number}.category_id: got {box.category_id}, expected one of "
                                       f"{', '.join(map(str, sorted(known)))}")  # fmt: skip
            if not (wide > 0 and high > 0 and left + wide <= width + 1 and top + high <= height + 1):
                raise WrongReviewError(f"boxes.{number}.bbox: got {box.bbox}, expected x, y, width and height inside "
                                       f"{width} x {height} px")  # fmt: skip

    def _told(self, model: ServedModel) -> ServedModel:
        self.metrics.model_changed(model.version)
        self.events.publish("model", self.model_slot.report().model_dump_json())
        for observer in self.model_observers:
            observer(model)
        return model

    def _observe(self, inspection: Inspection, pixels: Pixels | None) -> None:
        for observer in self.observers:
            try:
                observer(inspection, pixels)
            except Exception:
                LOG.exception("an observer failed on inspection %s", inspection.id)


def _opened(data: bytes) -> Image:
    try:
        return open_picture(data)
    except DataError as error:
        raise NoPhotographError(error.what) from None


def _detections(found: Detections, model: ServedModel) -> tuple[Detection, ...]:
    names = dict(model.predictor.categories)
    rows = coco_results(found, model.predictor)
    reaches = found.reaches(model.thresholds).tolist()
    return DETECTIONS.validate_python(  # all at once: one by one takes twice as long
        [
            {
                "category_id": row["category_id"],
                "category": names[row["category_id"]],
                "bbox": row["bbox"],
                "score": row["score"],
                "defect": defect,
            }
            for row, defect in zip(rows, reaches, strict=True)
        ]
    )


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


def _plain_name(name: str | None) -> str | None:
    """A file's name without any folder and without control characters."""
    if not name:
        return None
    last = PureWindowsPath(PurePosixPath(name).name).name
    return "".join(letter for letter in last if letter.isprintable())[:LONGEST_NAME] or None
