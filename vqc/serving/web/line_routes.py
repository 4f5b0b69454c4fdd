"""The paths about what the line tells: reviews as training data, drift, and the detector that looks along."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from vqc.config import Record
from vqc.serving.challenger import Challenger, ChallengerReport, Disagreement
from vqc.serving.drift import DriftReport, DriftWatch
from vqc.serving.reviews import coco_document
from vqc.serving.web.problems import Problem
from vqc.serving.web.routes import PROBLEM, Parts, as_json

router = APIRouter(prefix="/v1", responses=PROBLEM)


class ChallengerPage(Record):
    """How the challenger compares with the model that answers, and the newest photographs on which they differ."""

    report: ChallengerReport
    disagreements: tuple[Disagreement, ...]


@router.get("/reviews.coco.json", response_class=JSONResponse, summary="The reviews as training data")
def reviews(serving: Parts) -> Response:
    """COCO: good parts are images without annotations; the photographs are at ``coco_url``."""
    categories = serving.model_slot.current.predictor.categories
    return JSONResponse(coco_document(serving.history.reviewed(), categories))


@router.get("/drift", response_model=DriftReport, summary="Whether parts look other than those of val")
def drift(request: Request) -> Response:
    watch: DriftWatch = request.app.state.drift
    if (report := watch.report()) is None:
        raise Problem(404, "the bundle of the model has no statistics to compare with; promote it again")
    return as_json(report)


@router.get("/challenger", response_model=ChallengerPage, summary="A second detector that never answers")
def challenger(request: Request, serving: Parts) -> Response:
    found: Challenger | None = request.app.state.challenger
    if found is None:
        raise Problem(404, "there is no challenger")
    champion = serving.model_slot.current.version.version
    page = ChallengerPage(report=found.report(champion), disagreements=tuple(found.disagreements(champion)))
    return as_json(page)
