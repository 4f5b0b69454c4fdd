"""Signed notices to one address of the configuration, as Standard Webhooks 1.0.0 has it.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: what is signed is
``id.timestamp.body``, with HMAC-SHA256. A notice is on the disk before it is sent, and is sent until it is accepted: at
least once, with one ``webhook-id``, by which the receiver tells repetitions. Redirects are not followed, and nothing
but the configuration names the address.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.message import Message
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from random import Random
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vqc.errors import ConfigError
from vqc.files import open_database

if TYPE_CHECKING:
    from vqc.serving.inspection import Inspection
    from vqc.serving.server import Serving

FILE = "webhook.sqlite"
PREFIX = "whsec_"
LEAST_KEY_BYTES, MOST_KEY_BYTES = 24, 64
# Seconds from one attempt to the next: the specification's example, 76 hours in all.
WAITS_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
JITTER = 0.1  # of a wait, added at random
TIMEOUT_S = 20.0
MOST_NOTICES = 100_000  # that wait; beyond it the oldest goes
POLL_S = 1.0
GONE = 410

_TABLE = """
create table if not exists webhook_outbox (
    id text primary key, body blob not null, created_s real not null, attempts integer not null default 0,
    next_s real, error text
) strict
"""  # next_s is null for a notice that was given up


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where notices go, and the key they are signed with; made by ``target``."""

    url: str
    key: bytes


def target(url: str, secret: str) -> Target:
    """The target that a configuration describes.

    Raises:
        ConfigError: the address is not http or https, or the secret is not ``whsec_`` and 24 to 64 bytes in base64.
    """
    problems = []
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        problems.append("url: expected an http or https address without a user in it")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not LEAST_KEY_BYTES <= len(key) <= MOST_KEY_BYTES:
        expected = f"'{PREFIX}' and {LEAST_KEY_BYTES} to {MOST_KEY_BYTES} random bytes in base64"
        problems.append(f"secret: expected {expected}")  # what was got is not repeated: it may be a secret after all
    if problems:
        raise ConfigError("webhook", problems)
    return Target(url=url, key=key)


def signature(key: bytes, notice_id: str, timestamp_s: int, body: bytes) -> str:
    """The header ``webhook-signature``."""
    digest = hmac.digest(key, b".".join((notice_id.encode(), str(timestamp_s).encode(), body)), hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


class Outbox:
    """Notices that wait, in a SQLite file; may be used from several threads.

    Args:
        random: of the jitter.
    """

    def __init__(self, file: Path, *, random: Random | None = None) -> None:
        self._random = random or Random()
        self._lock = threading.Lock()
        self._database = open_database(file)
        self._database.execute(_TABLE)

    def close(self) -> None:
        self._database.close()

    def add(self, kind: str, data: Mapping[str, Any], *, timestamp: str, now_s: float) -> str:
        """Keep a notice, on the disk before this returns; its id.

        Args:
            kind: such as "inspection.defective".
            timestamp: of the event, RFC 3339.
        """
        notice_id = f"msg_{secrets.token_urlsafe(18)}"
        notice = {"type": kind, "timestamp": timestamp, "data": data}
        body = json.dumps(notice, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        too_many = "max(0, (select count(*) from webhook_outbox) - ?)"
        with self._lock:
            self._database.execute(
                "insert into webhook_outbox (id, body, created_s, next_s) values (?, ?, ?, ?)",
                (notice_id, body, now_s, now_s),
            )
            self._database.execute(
                "delete from webhook_outbox where id in "
                f"(select id from webhook_outbox order by created_s limit {too_many})",
                (MOST_NOTICES,),
            )
        return notice_id

    def waiting(self) -> int:
        """How many are still to be accepted."""
        with self._lock:
            return int(self._database.execute("select count(*) from webhook_outbox where next_s notnull").fetchone()[0])

    def deliver(self, where: Target, *, now_s: float) -> bool:
        """Send the notice that is due first, if any; whether there was one."""
        with self._lock:
            due = self._database.execute(
                "select id, body, attempts from webhook_outbox where next_s <= ? order by next_s, created_s limit 1",
                (now_s,),
            ).fetchone()
        if due is None:
            return False
        notice_id, body, attempts = due
        outcome = post(where, notice_id, body, timestamp_s=int(now_s))
        with self._lock:
            if outcome.accepted:
                self._database.execute("delete from webhook_outbox where id = ?", (notice_id,))
            else:
                self._database.execute(
                    "update webhook_outbox set attempts = ?, next_s = ?, error = ? where id = ?",
                    (attempts + 1, self._next_s(outcome, attempts, now_s), outcome.error, notice_id),
                )
        return True

    def _next_s(self, outcome: Outcome, attempts: int, now_s: float) -> float | None:
        if outcome.status == GONE or attempts >= len(WAITS_S):
            return None
        wait_s = max(WAITS_S[attempts], outcome.retry_after_s)
        return now_s + wait_s * (1 + JITTER * self._random.random())


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one attempt; ``status`` is None without an answer."""

    status: int | None
    error: str = ""
    retry_after_s: float = 0.0

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def post(where: Target, notice_id: str, body: bytes, *, timestamp_s: int) -> Outcome:
    """One attempt."""
    headers = {
        "content-type": "application/json",
        "user-agent": "vqc-serve",
        "webhook-id": notice_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": signature(where.key, notice_id, timestamp_s, body),
    }
    request = urllib.request.Request(where.url, data=body, headers=headers, method="POST")
    try:
        with closing(urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S)) as answer:
            return Outcome(status=answer.status)
    except urllib.error.HTTPError as error:
        with closing(error):
            return Outcome(status=error.code, error=f"status {error.code}", retry_after_s=_retry_after_s(error.headers))
    except (OSError, HTTPException, ValueError) as error:
        return Outcome(status=None, error=f"{type(error).__name__}: {error}"[:200])


def _retry_after_s(headers: Message) -> float:
    """What an answer asks to wait, at most the longest wait; 0 where it asks for nothing, or for a date."""
    with suppress(ValueError):
        return float(min(max(int(headers.get("retry-after", "")), 0), WAITS_S[-1]))
    return 0.0


class Sender:
    """A thread that delivers what is due, one after the other."""

    def __init__(self, outbox: Outbox, where: Target) -> None:
        self._outbox, self._where = outbox, where
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = TIMEOUT_S) -> None:
        """Finish the attempt that is under way; what waits is sent after the next start."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self._outbox.deliver(self._where, now_s=time.time()):
                self._stop.wait(POLL_S)


def attach_webhook(serving: Serving) -> None:
    """Tell the address of the settings, if there is one, of parts that do not pass and of what ``notify`` gets.

    Raises:
        ConfigError: the address or the secret cannot be used.
    """
    settings = serving.settings
    if settings.webhook_url is None or settings.webhook_secret is None:
        return
    where = target(settings.webhook_url, settings.webhook_secret.get_secret_value())
    outbox = Outbox(settings.store / FILE)
    sender = Sender(outbox, where)

    def notify(kind: str, data: Mapping[str, Any]) -> None:
        now = datetime.now(timezone.utc)
        outbox.add(kind, data, timestamp=now.isoformat(), now_s=now.timestamp())

    def observe(inspection: Inspection, pixels: object) -> None:
        if inspection.verdict != "good":
            named = inspection.model_dump(
                mode="json", include={"id", "created_at", "name", "verdict", "score", "image"}
            )
            notify(f"inspection.{inspection.verdict}", named)

    serving.notify = notify
    serving.observers.append(observe)
    serving.closing += [sender.stop, outbox.close]
    sender.start()
