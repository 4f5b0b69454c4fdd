"""Who may call: the names under which the server is reached, the pages that may call it, the token.

A page of another site that the operator has open could call a server on the loopback, also under a name of its own
that it lets point there (DNS rebinding). Therefore the Host must be one of ours and the Origin, where a browser sends
one, must be this server's own page.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vqc.serving.settings import ServingSettings
from vqc.serving.web.problems import Problem, problem_response

HEADERS = [  # of every answer, as ASGI sends them; no route sets one of these
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; "
        b"form-action 'none'",
    ),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self)"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
TOKEN_NEEDED = ("/v1/", "/metrics", "/openapi.json")  # the page itself and /health/ are open
ALWAYS_WITH_TOKEN = ("/v1/operating-point", "/v1/model/reload", "/v1/model/rollback")  # on the loopback as well


class Security:
    """Refuses what it should not answer, and adds the headers that tell a browser what a page may do."""

    def __init__(self, app: ASGIApp, *, settings: ServingSettings) -> None:
        self._app = app
        self._token = settings.token.get_secret_value() if settings.token else None
        self._names = {"localhost", socket.gethostname().lower(), settings.host.lower(),
                       *(name.lower() for name in settings.allowed_hosts)}  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(message, scope["path"])
            await send(message)

        problem = self._refusal(scope)
        if problem is None:
            await self._app(scope, receive, send_with_headers)
        else:
            await problem_response(problem)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            names = ", ".join(sorted(self._names))
            return Problem(421, f"Host: got {', '.join(hosts)!r:.120}, expected {names} or an address; another name "
                                "needs --allow-host")  # fmt: skip
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != hosts[0].lower():
            return Problem(403, f"Origin: got {origin!r:.120}, expected this server's own page")
        path = scope["path"]
        if self._token is None:
            if path in ALWAYS_WITH_TOKEN:
                return Problem(403, "this changes what the line is judged by and needs a token: "
                                    "start the server with 'vqc serve --token TOKEN'")  # fmt: skip
            return None
        if path.startswith(TOKEN_NEEDED) and not self._is_known(headers.get("authorization", "")):
            return Problem(401, "expected the header 'Authorization: Bearer TOKEN' with the token of 'vqc serve'",
                           headers={"WWW-Authenticate": "Bearer"})  # fmt: skip
        return None

    def _is_known(self, authorization: str) -> bool:
        kind, _, token = authorization.partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), (self._token or "").encode())

    def _is_ours(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, _ = parts.hostname, parts.port  # the port may be another one: of a proxy or a container
        except ValueError:
            return False
        if not name or parts.path or parts.username is not None or parts.query or parts.fragment:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True  # no other site can be reached under an address of this one


def _add_headers(message: MutableMapping[str, Any], path: str) -> None:
    headers = MutableHeaders(scope=message)
    headers.raw.extend(HEADERS)
    # The page's scripts of two versions would not fit together: after an update a browser must ask for each of them.
    headers.setdefault("Cache-Control", "no-store" if path.startswith(TOKEN_NEEDED) else "no-cache")
