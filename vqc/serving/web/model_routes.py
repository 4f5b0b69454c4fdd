"""The paths about the model: which it is, what a threshold would cost, and changes to both; health and figures."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import Field

from vqc.config import Record
from vqc.serving.challenger import Challenger
from vqc.serving.model_slot import ModelReport
from vqc.serving.web.operating_curve import OperatingCurve, operating_curve
from vqc.serving.web.problems import Problem
from vqc.serving.web.routes import PROBLEM, Parts, as_json

router = APIRouter(responses=PROBLEM)


class NewOperatingPoint(Record):
    """From which score a part is rejected."""

    threshold: float | None = Field(ge=0, le=1, description="for all classes; null: the bundle's")


class Reload(Record):
    """Which bundle is to answer."""

    bundle: str | None = Field(None, description="name of a folder of promoted bundles; null: the champion")


class Health(Record):
    """Whether the server lives, or takes photographs."""

    status: str


@router.get("/v1/model", response_model=ModelReport, summary="The model that answers")
def model(request: Request, serving: Parts) -> Response:
    report = serving.model_slot.report()
    challenger: Challenger | None = request.app.state.challenger
    if challenger is not None:
        report = report.model_copy(update={"challenger": challenger.report(report.version).model_dump()})
    return as_json(report)


@router.get("/v1/operating-curve", response_model=OperatingCurve, summary="What a threshold would cost, on test")
def curve(serving: Parts) -> Response:
    return as_json(operating_curve(serving.model_slot.current))


@router.put("/v1/operating-point", response_model=ModelReport, summary="Set the threshold (token)")
def operating_point(serving: Parts, new: NewOperatingPoint) -> Response:
    serving.set_threshold(new.threshold)
    return as_json(serving.model_slot.report())


@router.post("/v1/model/reload", response_model=ModelReport, summary="Load another bundle (token)")
def reload(serving: Parts, wanted: Reload) -> Response:
    """A bundle that is broken is refused with 409, and the model that answers goes on."""
    serving.reload(wanted.bundle)
    return as_json(serving.model_slot.report())


@router.post("/v1/model/rollback", response_model=ModelReport, summary="Load the model before this one (token)")
def rollback(serving: Parts) -> Response:
    serving.rollback()
    return as_json(serving.model_slot.report())


@router.get("/health/live", response_model=Health, summary="Whether the process answers")
async def live() -> Response:
    return as_json(Health(status="live"))


@router.get("/health/ready", response_model=Health, summary="Whether photographs are taken")
async def ready(serving: Parts) -> Response:
    if serving.work_queue.draining:
        raise Problem(503, "the server is stopping", headers={"Retry-After": "5"})
    return as_json(Health(status="ready"))


@router.get("/metrics", response_class=Response, summary="Figures for Prometheus")
def metrics(serving: Parts) -> Response:
    return Response(serving.metrics.text(queue=serving.work_queue.taken), media_type=CONTENT_TYPE_LATEST)
