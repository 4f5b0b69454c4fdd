"""The bodies of requests: read in pieces, never more than allowed, never for longer than allowed.

All photographs that are being received share a budget of memory, so that slow or many clients cannot fill it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote

import anyio
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, FormParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vqc.serving.server import Serving
from vqc.serving.settings import MB, ServingSettings
from vqc.serving.web.problems import Problem, answer_to, status_of
from vqc.serving.work_queue import DrainingError, QueueFullError

OTHER_BODIES = 2 * MB  # bytes: a review with 1,000 boxes
PART_HEADERS = 16_384  # bytes of a form beside the photograph
MOST_FIELDS = 16  # of a form
BODIES_AT_ONCE = 4  # of the largest size, in memory at the same time
LINGER_S = 2.0  # in which the rest of a refused body is thrown away, so that the client reads the answer


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A photograph's file as it was sent."""

    data: bytes
    name: str | None


class Uploads:
    """Receives photographs."""

    def __init__(self, settings: ServingSettings) -> None:
        self._most = settings.max_body_bytes
        self._timeout_s = settings.body_timeout_s
        self._free = BODIES_AT_ONCE * self._most

    async def receive(self, request: Request) -> Upload:
        """The photograph in the body of a request: all of it, or the field "image" of a form.

        Raises:
            Problem: 400 a form without the field, 408 too slow, 413 too large, 415 neither a picture nor a form, 429
                too much is being received.
        """
        try:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            is_form = kind == "multipart/form-data"
            if not is_form and kind not in ("", "application/octet-stream") and not kind.startswith("image/"):
                raise Problem(415, f"Content-Type: got {kind!r:.80}, expected image/* or multipart/form-data")
            body = await self._body(request, self._most + (PART_HEADERS if is_form else 0))
        except Exception:
            await _throw_away(request, most=2 * self._most)
            raise
        if is_form:
            return _field(body, request.headers["content-type"], most=self._most)
        return Upload(data=bytes(body), name=unquote(request.headers.get("x-filename", "")) or None)

    async def _body(self, request: Request, most: int) -> bytearray:
        declared = request.headers.get("content-length", "0")
        if not declared.isdigit():
            raise Problem(400, "Content-Length: expected a number")
        try:
            if int(declared) > most:
                raise _too_large(most)
            with anyio.fail_after(self._timeout_s):  # ``asyncio.wait_for`` would make a task of it
                return await self._read(request, most)
        except TimeoutError:
            raise Problem(408, f"the body did not arrive within {self._timeout_s:g} s") from None
        except ClientDisconnect:
            raise Problem(400, "the connection was closed before the body was complete") from None

    async def _read(self, request: Request, most: int) -> bytearray:
        body, held = bytearray(), 0
        try:
            async for piece in request.stream():
                if len(body) + len(piece) > most:
                    raise _too_large(most)
                if len(piece) > self._free:
                    raise Problem(429, "too many photographs are being received", headers={"Retry-After": "1"})
                self._free -= len(piece)
                held += len(piece)
                body += piece
        finally:
            self._free += held
        return body


def _too_large(most: int) -> Problem:
    return Problem(413, f"the body is larger than {most / MB:.0f} MB")


async def _throw_away(request: Request, *, most: int) -> None:
    """Receive the rest of a body that is refused, within limits: a client that is cut off would not read the answer.

    One that asks before it sends ("Expect: 100-continue") needs no such thing.
    """
    if "expect" in request.headers:
        return

    # RuntimeError: Starlette's word for a body that was read to its end.
    with anyio.move_on_after(LINGER_S), suppress(ClientDisconnect, RuntimeError):
        async for piece in request.stream():
            most -= len(piece)
            if most < 0:
                return


def _field(body: bytearray, content_type: str, *, most: int) -> Upload:
    """The file in the field "image" of a form."""
    _, options = parse_options_header(content_type)
    files: list[File] = []
    try:
        parser = FormParser("multipart/form-data", None, files.append, boundary=options.get(b"boundary"),
                            config={"MAX_MEMORY_FILE_SIZE": len(body) + 1, "MAX_FIELDS": MOST_FIELDS})  # fmt: skip
        parser.write(bytes(body))
        parser.finalize()
    except FormParserError as error:
        raise Problem(400, f"the form is broken: {error}") from None
    image = next((file for file in files if file.field_name == b"image"), None)
    if image is None:
        raise Problem(400, "the form has no file in the field 'image'")
    if image.size > most:
        raise _too_large(most)
    image.file_object.seek(0)
    name = (image.file_name or b"").decode("utf-8", "replace")
    return Upload(data=image.file_object.read(), name=name or None)


class BodyLimit:
    """Before the application sees a request: a photograph for which there is no place is refused, at the least cost,
    because a server with too much to do gets many of them; no other request has more than ``OTHER_BODIES`` bytes.
    """

    def __init__(self, app: ASGIApp, *, serving: Serving) -> None:
        self._app = app
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif (scope["path"], scope["method"]) == ("/v1/inspections", "POST"):
            await self._photograph(scope, receive, send)
        else:
            await self._other(scope, receive, send)

    async def _photograph(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._serving.work_queue.check()
        except (QueueFullError, DrainingError) as error:
            self._serving.metrics.refused(status_of(error))
            await _throw_away(Request(scope, receive), most=2 * self._serving.settings.max_body_bytes)
            await answer_to(error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def receive_some() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > OTHER_BODIES:
                raise _too_large(OTHER_BODIES)
            return message

        await self._app(scope, receive_some, send)
