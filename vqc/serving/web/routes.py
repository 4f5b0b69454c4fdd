"""The paths of ``/v1`` that are about inspections and their explanations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, StreamingResponse
from starlette.background import BackgroundTask

from vqc.config import Record
from vqc.serving.explanations import Explanation
from vqc.serving.inspection import Inspection, InspectionPage, NewReview
from vqc.serving.server import Serving
from vqc.serving.web.problems import MEDIA_TYPE, Problem, ProblemReport, status_of
from vqc.serving.web.uploads import Uploads

IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable"}
PROBLEM: dict[int | str, dict[str, Any]] = {
    "default": {"description": "Anything else", "content": {MEDIA_TYPE: {"schema": ProblemReport.model_json_schema()}}}
}
InspectionId = Annotated[str, Path(pattern="^[0-9a-f]{23}$")]
ExplanationId = Annotated[str, Path(pattern="^[0-9a-f]{23}-[0-9a-f]{12}$")]

router = APIRouter(prefix="/v1", responses=PROBLEM)


async def serving_of(request: Request) -> Serving:  # a plain function would be called in another thread
    """The parts of the server that this request came to."""
    return request.app.state.serving  # type: ignore[no-any-return]


Parts = Annotated[Serving, Depends(serving_of)]
FILE_BODY = {
    "required": True,
    "content": {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"image": {"type": "string", "format": "binary"}},
                "required": ["image"],
            }
        },
    },
}


def as_json(record: Record, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A record that is valid already."""
    return Response(record.model_dump_json(), status, headers, "application/json")


@router.post(
    "/inspections",
    status_code=201,
    response_model=Inspection,
    openapi_extra={"requestBody": FILE_BODY},
    summary="Look at a photograph",
)
async def inspect(
    request: Request,
    serving: Parts,
    x_filename: Annotated[str | None, Header(description="name of the file, percent-encoded")] = None,
) -> Response:
    """The answer and the photograph are on the disk before this answers."""
    uploads: Uploads = request.app.state.uploads
    try:
        upload = await uploads.receive(request)
        with serving.work_queue.place():
            inspected = await run_in_threadpool(serving.record, upload.data, source="upload", name=upload.name)
    except Exception as error:
        serving.metrics.refused(status_of(error))
        raise
    inspection = inspected.inspection

    async def tell() -> None:  # a plain function would be called in another thread
        serving.tell(inspected)

    if inspection.verdict == "unreadable":
        await tell()
        raise Problem(422, inspection.reason or "", extra={"inspection": inspection.model_dump(mode="json")})
    headers = {"Location": f"/v1/inspections/{inspection.id}", "ETag": f'"{inspection.etag}"'}
    return Response(inspected.text, 201, headers, "application/json", BackgroundTask(tell))


@router.get("/inspections", response_model=InspectionPage, summary="The history, newest first")
def history(
    serving: Parts,
    cursor: Annotated[str | None, Query(pattern="^[0-9a-f]{23}$", description="next_cursor of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    verdict: Annotated[Literal["good", "defective", "unreadable"] | None, Query()] = None,
    reviewed: Annotated[bool | None, Query()] = None,
) -> Response:
    return as_json(serving.history.page(before=cursor, limit=limit, verdict=verdict, reviewed=reviewed))


@router.get("/inspections/{id}", response_model=Inspection, summary="One inspection")
def inspection(serving: Parts, id: InspectionId) -> Response:
    found = serving.history.get(id)
    return as_json(found, headers={"ETag": f'"{found.etag}"'})


@router.get("/inspections/{id}/image", response_class=FileResponse, summary="Its photograph, as it was sent")
def image(serving: Parts, id: InspectionId) -> Response:
    stored = serving.history.get(id).image
    return FileResponse(
        serving.history.photograph(id, stored.media_type), media_type=stored.media_type, headers=IMMUTABLE
    )


@router.put("/inspections/{id}/review", response_model=Inspection, summary="The operator's verdict and boxes")
def review(
    serving: Parts,
    id: InspectionId,
    new: NewReview,
    if_match: Annotated[str | None, Header(description="the ETag of the inspection")] = None,
) -> Response:
    """428 without If-Match, 412 if somebody else has reviewed it meanwhile."""
    if if_match is None:
        raise Problem(428, "expected the header If-Match with the ETag of the inspection")
    found = serving.review(id, new, etag=if_match.strip().removeprefix("W/").strip('"'))
    return as_json(found, headers={"ETag": f'"{found.etag}"'})


@router.post(
    "/inspections/{id}/explanations", status_code=202, response_model=Explanation, summary="Ask for a heat map"
)
def explain(serving: Parts, id: InspectionId) -> Response:
    """It is computed while no photograph waits; ask again at the Location until its status is done."""
    found = serving.history.get(id)
    if found.verdict == "unreadable":
        raise Problem(409, "the photograph could not be read")
    photograph = serving.history.photograph(id, found.image.media_type)
    job = serving.explanations.request(id, photograph, serving.model_slot.current)
    return as_json(job, 202, {"Location": f"/v1/explanations/{job.id}"})


@router.get("/explanations/{id}", response_model=Explanation, summary="How far a heat map is")
def explanation(serving: Parts, id: ExplanationId) -> Response:
    return as_json(serving.explanations.get(id))


@router.get("/explanations/{id}/image", response_class=FileResponse, summary="A heat map as PNG")
def explanation_image(serving: Parts, id: ExplanationId) -> Response:
    job = serving.explanations.get(id)
    if job.status != "done":
        raise Problem(409, f"the explanation is {job.status}")
    return FileResponse(serving.explanations.image(id), media_type="image/png", headers=IMMUTABLE)


@router.get("/events", response_class=StreamingResponse, summary="What happens, as server-sent events")
async def events(serving: Parts) -> Response:
    """Events named inspection, review, model and drift; their data is JSON."""
    return StreamingResponse(serving.events.subscribe(), media_type="text/event-stream")
