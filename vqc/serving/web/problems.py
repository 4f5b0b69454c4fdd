"""Errors as ``application/problem+json`` (RFC 9457): what went wrong, and what to do about it, in one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import fastapi
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from vqc.config import Record
from vqc.errors import ConfigError, ModelError
from vqc.serving.events import TooManyListenersError
from vqc.serving.explanations import NoSuchExplanationError, TooManyExplanationsError
from vqc.serving.history import NoSuchInspectionError, StaleReviewError, StorageFullError
from vqc.serving.server import NoPhotographError, WrongReviewError
from vqc.serving.work_queue import DrainingError, QueueFullError

MEDIA_TYPE = "application/problem+json"

# What the parts of the server raise -> the status of the answer.
STATUS: Mapping[type[Exception], int] = {
    ConfigError: 422,
    DrainingError: 503,
    ModelError: 409,
    NoPhotographError: 415,
    NoSuchExplanationError: 404,
    NoSuchInspectionError: 404,
    QueueFullError: 429,
    StaleReviewError: 412,
    StorageFullError: 507,
    TooManyExplanationsError: 429,
    TooManyListenersError: 503,
    WrongReviewError: 422,
}
RETRY_AFTER_S = 5  # where nothing better is known


class ProblemReport(Record):
    """What every error answers."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class Problem(fastapi.HTTPException):
    """An answer other than the one that was asked for; ``extra`` is added to its JSON."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.extra = dict(extra or {})


def problem_response(problem: HTTPException) -> Response:
    """The answer."""
    content = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status_code).phrase,
        "status": problem.status_code,
        "detail": str(problem.detail),
        **getattr(problem, "extra", {}),
    }
    return Response(json.dumps(content), problem.status_code, problem.headers, MEDIA_TYPE)


def status_of(error: Exception) -> int:
    """The status with which an error is answered."""
    return error.status_code if isinstance(error, HTTPException) else STATUS.get(type(error), 500)


def answer_to(error: Exception) -> Response:
    """The answer to an error of ``STATUS``."""
    status = status_of(error)
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(getattr(error, "retry_after_s", RETRY_AFTER_S))
    return problem_response(Problem(status, getattr(error, "what", str(error)), headers=headers))


def install(app: FastAPI) -> None:
    """Let every error of the application be answered so."""
    for kind in STATUS:
        app.add_exception_handler(kind, _known)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)


# Plain functions would be called in another thread.
async def _known(request: Request, error: Exception) -> Response:
    return answer_to(error)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem_response(error)


async def _invalid(request: Request, error: Exception) -> Response:
    """All mistakes of a request at once; 422 is what FastAPI documents."""
    assert isinstance(error, RequestValidationError)
    mistakes = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()]
    return problem_response(Problem(422, "; ".join(mistakes)[:2000]))


async def _unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises it again after this answer, so that the server logs it with its traceback.
    return problem_response(Problem(500, "an error of the server's own; its log has the details"))
