"""Heat maps of inspections, computed by D-RISE on idle capacity; no torch is needed.

A map belongs to an inspection and to the model that made it, and is the same whenever it is asked for. With a
detector that cuts photographs into tiles, the heat is computed on the tile that holds the defect, and only there is
the map not clear.
"""

from __future__ import annotations

import io
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vqc.config import Record
from vqc.data.image_io import DecodedPicture, picture_bytes
from vqc.data.tiles.views import View, view_pixels, views_of
from vqc.errors import VqcError
from vqc.files import write_atomically
from vqc.inference.detections import Detections
from vqc.inference.predictor import Predictor
from vqc.inference.saliency import Heat, drise
from vqc.serving.inspection import ModelVersion
from vqc.serving.model_slot import ServedModel
from vqc.serving.work_queue import WorkQueue

FOLDER = "explanations"
MOST_KEPT = 64  # maps
MOST_WAITING = 8  # maps that are not yet begun
MOST_TARGETS = 3  # detections whose heat is shown together
STRONGEST = 0.75  # opacity where the heat is 1
LOG = logging.getLogger(__name__)


class Explanation(Record):
    """A heat map and how far it is."""

    id: str
    status: Literal["queued", "running", "done", "failed"]
    image_url: str | None = Field(None, description="of a PNG as large as the photograph, clear where it is cold")
    inspection: str = Field(description="id of the inspection")
    model: ModelVersion = Field(description="that was asked; not that of the inspection if another is served now")
    reason: str | None = Field(None, description="why it failed")


class NoSuchExplanationError(VqcError):
    """It never was there, or newer ones took its place."""


class TooManyExplanationsError(VqcError):
    """Too many wait already."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    id: str
    photograph: Path
    model: ServedModel


class Explanations:
    """Makes heat maps one after the other in a thread of its own; its detector work waits for idle moments."""

    def __init__(self, store: Path, work_queue: WorkQueue, *, masks: int) -> None:
        self._folder = store / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.iterdir():
            old.unlink(missing_ok=True)
        self._work_queue = work_queue
        self._masks = masks
        self._known: OrderedDict[str, Explanation] = OrderedDict()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explanations")

    def request(self, inspection_id: str, photograph: Path, model: ServedModel) -> Explanation:
        """A map for this inspection by this model: the one there is, or a new one.

        Raises:
            TooManyExplanationsError: too many wait.
        """
        id_ = f"{inspection_id}-{model.version.sha256[:12]}"
        with self._lock:
            known = self._known.get(id_)
            if known is not None and known.status != "failed":
                return known
            if sum(one.status == "queued" for one in self._known.values()) >= MOST_WAITING:
                raise TooManyExplanationsError(f"{MOST_WAITING} explanations wait already; try again in a minute")
            new = Explanation(id=id_, status="queued", inspection=inspection_id, model=model.version)
            self._known[id_] = new
            finished = [key for key, one in self._known.items() if one.status in ("done", "failed")]
            for old in finished[: max(0, len(self._known) - MOST_KEPT)]:
                del self._known[old]
                self.image(old).unlink(missing_ok=True)
        self._thread.submit(self._make, _Job(id=id_, photograph=photograph, model=model))
        return new

    def get(self, id_: str) -> Explanation:
        """How far a map is; ``NoSuchExplanationError`` where there is none."""
        with self._lock:
            if id_ not in self._known:
                raise NoSuchExplanationError(f"there is no explanation {id_:.60}")
            return self._known[id_]

    def image(self, id_: str) -> Path:
        """Where the PNG of a known map is, once it is done."""
        return self._folder / f"{id_}.png"

    def close(self) -> None:
        """Begin no further one, and wait for the one that is made; the work queue is drained already."""
        self._thread.shutdown(cancel_futures=True)

    def _make(self, job: _Job) -> None:
        self._becomes(job.id, status="running")
        try:
            decoded = job.model.predictor.decode(picture_bytes(job.photograph))
            heat = self._heat(decoded, job.model.predictor)
            if heat is None:
                self._becomes(job.id, status="failed", reason="the detector finds nothing that could be explained")
                return
            write_atomically(self.image(job.id), _png(heat))
            self._becomes(job.id, status="done", image_url=f"/v1/explanations/{job.id}/image")
        except (VqcError, OSError) as error:
            self._becomes(job.id, status="failed", reason=getattr(error, "what", str(error)))
        except CancelledError:
            self._becomes(job.id, status="failed", reason="the server is stopping")
        except Exception:
            LOG.exception("explanation %s failed", job.id)
            self._becomes(job.id, status="failed", reason="an internal error; see the server's log")

    def _becomes(self, id_: str, **changes: object) -> None:
        with self._lock:
            self._known[id_] = self._known[id_].model_copy(update=changes)

    def _heat(self, decoded: DecodedPicture, predictor: Predictor) -> Heat | None:
        """Heat [h, w] of the highest detections; None where there are none, or no mask leaves any of them."""
        width, height = decoded.size
        found = self._work_queue.submit_idle(lambda: predictor.detect(decoded)).result()[:MOST_TARGETS]
        views = views_of(width, height, predictor.image_size, predictor.tiles)
        heat = np.zeros((height, width), np.float32)
        hot = False
        for view, targets in _seen_best(found, views):
            fitted = view_pixels(decoded.pixels, view, predictor.image_size)
            boxes = (targets.boxes - view.corner) * np.float32(view.scale)
            aims = Detections(boxes=boxes, scores=targets.scores, labels=targets.labels)
            for one in drise(self._patiently(predictor), fitted, aims, masks=self._masks, seed=0, batch=1):
                if one is not None:
                    hot = True
                    _spread(heat, one, view)
        return heat if hot else None

    def _patiently(self, predictor: Predictor) -> _Patient:
        return _Patient(predictor, self._work_queue)


class _Patient:
    """A detector that is asked in idle moments, one image at a time."""

    def __init__(self, predictor: Predictor, work_queue: WorkQueue) -> None:
        self.device = predictor.detect_fitted.device
        self._detect, self._work_queue = predictor.detect_fitted, work_queue

    def __call__(self, images: NDArray[np.uint8]) -> list[Detections]:
        return [
            one
            for image in images
            for one in self._work_queue.submit_idle(lambda image=image: self._detect(image[None])).result()  # type: ignore[misc]
        ]


def _seen_best(found: Detections, views: Sequence[View]) -> list[tuple[View, Detections]]:
    """Each detection with the view in whose middle it is, tiles first; those of one view together."""
    chosen: dict[int, list[int]] = {}
    candidates = [at for at, view in enumerate(views) if view.tile] or list(range(len(views)))
    for number, box in enumerate(found.boxes):
        centre = (box[:2] + box[2:]) / 2
        distances = [
            max(
                abs(centre[0] - views[at].left - views[at].width / 2),
                abs(centre[1] - views[at].top - views[at].height / 2),
            )
            for at in candidates
        ]
        chosen.setdefault(candidates[int(np.argmin(distances))], []).append(number)
    return [(views[at], found[numbers]) for at, numbers in chosen.items()]


def _spread(heat: Heat, fitted: Heat, view: View) -> None:
    """Lay the heat of a view over that of the photograph, in place; the hotter one stays."""
    import cv2

    rows, columns = max(1, round(view.height * view.scale)), max(1, round(view.width * view.scale))
    part = cv2.resize(fitted[:rows, :columns], (view.width, view.height), interpolation=cv2.INTER_LINEAR)
    place = heat[view.top : view.top + view.height, view.left : view.left + view.width]
    np.maximum(place, part, out=place)


def _png(heat: Heat) -> bytes:
    """Heat [h, w] in 0..1 as a PNG: blue to red, clear where it is 0."""
    import cv2
    from PIL import Image

    colours = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_TURBO)[:, :, ::-1]
    opacity = (255 * STRONGEST * np.sqrt(heat)).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.dstack([colours, opacity])).save(file, "PNG", compress_level=3)
    return file.getvalue()
