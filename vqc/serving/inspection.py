"""What the server says of a photograph, as JSON; ``vqc serve`` describes it under ``/openapi.json``.

Times are RFC 3339 in UTC. Boxes are COCO's: x, y, width and height in pixels of the upright photograph.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from vqc.config import Record

MOST_BOXES = 1000  # of a review
Id = Annotated[str, Field(pattern="^[0-9a-f]{23}$", description="sorts by time")]
Side = Annotated[float, Field(ge=0, le=1e6)]
Box = tuple[Side, Side, Side, Side]
Source = Literal["upload", "watched_folder"]
RequestedReview = Literal["unsure", "random"]


class Detection(Record):
    """One thing that the detector found."""

    category_id: int = Field(description="as in the training annotations")
    category: str
    bbox: tuple[float, float, float, float]
    score: float = Field(description="calibrated where the model is")
    defect: bool = Field(description="whether it reaches its class's threshold")


class StoredImage(Record):
    """The photograph as it was sent."""

    url: str
    width: int = Field(description="in pixels after the EXIF rotation; 0 if it could not be read")
    height: int
    media_type: str
    bytes: int
    sha256: str


class ModelVersion(Record):
    """Which model answered."""

    version: str = Field(description="name of the bundle's folder")
    sha256: str = Field(description="of the bundle's manifest, which names every file of the bundle with its sha256")


class Timings(Record):
    """Where the time went; the photograph is stored while it is decoded and looked at."""

    queue_ms: float
    decode_ms: float
    detector_ms: float
    store_ms: float = Field(description="until the photograph was on the disk, from when its bytes had arrived")
    total_ms: float = Field(description="from when its bytes had arrived until the answer is written to the history")


class ReviewBox(Record):
    """A defect as a person sees it."""

    category_id: int
    bbox: Box


class NewReview(Record):
    """What an operator says of an inspection."""

    verdict: Literal["good", "defective"]
    boxes: Annotated[tuple[ReviewBox, ...], Field(max_length=MOST_BOXES)] = ()
    reviewer: str = Field("", max_length=100)


class Review(NewReview):
    """The operator's word, with its time."""

    reviewed_at: datetime


class Inspection(Record):
    """A photograph and the answer."""

    id: str
    created_at: datetime
    source: Source
    name: str | None = Field(description="of the file, as it was sent; never a path")
    verdict: Literal["good", "defective", "unreadable"]
    reason: str | None = Field(None, description="why it could not be read")
    score: float = Field(description="the highest; 0 where nothing is found")
    threshold: float = Field(description="the lowest score that rejects, of all classes")
    detections: tuple[Detection, ...] = Field(description="best first")
    image: StoredImage
    model: ModelVersion
    timings: Timings
    review_requested: RequestedReview | None = None
    review: Review | None = None
    etag: str = Field(description="of this state of the review; what If-Match expects")


class InspectionPage(Record):
    """Part of the history, newest first."""

    items: tuple[Inspection, ...]
    next_cursor: str | None = Field(description="of the next, older page; null on the last")
