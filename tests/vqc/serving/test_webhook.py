"""Signed notices, against a real receiver."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from random import Random

import pytest

from vqc.errors import ConfigError
from vqc.serving.webhook import MOST_NOTICES, WAITS_S, Outbox, Sender, Target, post, signature, target

SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()
AT = "2026-11-28T09:00:00Z"


class Receiver:
    """A server on the loopback that keeps what it gets and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []  # the next ones; 204 after these
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.got.append(({key.lower(): value for key, value in self.headers.items()}, body))
                status, headers = outer.answers.pop(0) if outer.answers else (204, {})
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.target = target(f"http://127.0.0.1:{self.server.server_port}/notices", SECRET)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.server.shutdown()
    found.thread.join()
    found.server.server_close()


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    found = Outbox(tmp_path / "outbox.db", random=Random(0))
    yield found
    found.close()


def test_the_signature_is_that_of_the_specifications_reference() -> None:
    """The vector in the test suites of its libraries."""
    key = target("https://example.org", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").key
    signed = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_notice_arrives_signed_and_leaves_the_outbox(outbox: Outbox, receiver: Receiver) -> None:
    notice = outbox.add("inspection.defective", {"id": "ä"}, timestamp=AT, now_s=1000.0)
    assert outbox.deliver(receiver.target, now_s=1000.5)
    headers, body = receiver.got[0]
    assert json.loads(body) == {"type": "inspection.defective", "timestamp": AT, "data": {"id": "ä"}}
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == (notice, "1000")
    digest = hmac.new(receiver.target.key, f"{notice}.1000.".encode() + body, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert (outbox.waiting(), outbox.deliver(receiver.target, now_s=9e9)) == (0, False)


def test_a_notice_that_is_refused_comes_again_with_the_same_id_and_a_new_timestamp(
    outbox: Outbox, receiver: Receiver
) -> None:
    notice = outbox.add("x", {}, timestamp=AT, now_s=0.0)
    receiver.answers = [(500, {})]
    assert outbox.deliver(receiver.target, now_s=0.0)
    assert not outbox.deliver(receiver.target, now_s=WAITS_S[0] - 0.1)
    assert outbox.deliver(receiver.target, now_s=WAITS_S[0] * 1.1)
    assert [headers["webhook-id"] for headers, _ in receiver.got] == [notice, notice]
    assert [headers["webhook-timestamp"] for headers, _ in receiver.got] == ["0", "5"]
    assert outbox.waiting() == 0


def test_it_waits_as_long_as_the_receiver_asks(outbox: Outbox, receiver: Receiver) -> None:
    outbox.add("x", {}, timestamp=AT, now_s=0.0)
    receiver.answers = [(429, {"retry-after": "60"})]
    outbox.deliver(receiver.target, now_s=0.0)
    assert not outbox.deliver(receiver.target, now_s=59.0)
    assert outbox.deliver(receiver.target, now_s=66.0)


def test_a_redirect_is_a_refusal_and_not_followed(outbox: Outbox, receiver: Receiver) -> None:
    outbox.add("x", {}, timestamp=AT, now_s=0.0)
    receiver.answers = [(302, {"location": receiver.target.url}), (500, {})]
    outbox.deliver(receiver.target, now_s=0.0)
    assert (len(receiver.got), outbox.waiting()) == (1, 1)


@pytest.mark.parametrize(("status", "attempts"), [(410, 1), (500, len(WAITS_S) + 1)])
def test_a_notice_is_given_up_where_the_receiver_is_gone_or_after_the_last_wait(
    outbox: Outbox, receiver: Receiver, status: int, attempts: int
) -> None:
    outbox.add("x", {}, timestamp=AT, now_s=0.0)
    receiver.answers = [(status, {})] * (len(WAITS_S) + 5)
    now_s = 0.0
    while outbox.deliver(receiver.target, now_s=now_s):
        now_s += 2 * WAITS_S[-1]
    assert (len(receiver.got), outbox.waiting()) == (attempts, 0)


def test_nothing_that_waits_is_lost_by_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    first = Outbox(tmp_path / "outbox.db")
    ids = [first.add("x", {"n": number}, timestamp=AT, now_s=float(number)) for number in range(3)]
    first.close()
    second = Outbox(tmp_path / "outbox.db")
    while second.deliver(receiver.target, now_s=100.0):
        pass
    second.close()
    assert [headers["webhook-id"] for headers, _ in receiver.got] == ids


def test_the_outbox_does_not_grow_for_ever(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_NOTICES > 1000
    monkeypatch.setattr("vqc.serving.webhook.MOST_NOTICES", 3)
    for number in range(5):
        outbox.add("x", {"n": number}, timestamp=AT, now_s=float(number))
    assert outbox.waiting() == 3


def test_a_receiver_that_cannot_be_reached_is_no_answer() -> None:
    outcome = post(Target(url="http://127.0.0.1:9/", key=b"k" * 24), "msg_1", b"{}", timestamp_s=0)
    assert (outcome.accepted, outcome.status) == (False, None)
    assert outcome.error


def test_the_sender_delivers_in_the_background(outbox: Outbox, receiver: Receiver) -> None:
    sender = Sender(outbox, receiver.target)
    sender.start()
    outbox.add("x", {}, timestamp=AT, now_s=0.0)
    while outbox.waiting():
        threading.Event().wait(0.01)
    sender.stop()
    assert len(receiver.got) == 1


@pytest.mark.parametrize(
    ("url", "secret", "says"),
    [
        ("file:///etc/passwd", SECRET, "url: expected an http or https address"),
        ("http://user:word@host/", SECRET, "url: expected an http or https address without a user"),
        ("https://host/", SECRET.removeprefix("whsec_"), "secret: expected 'whsec_'"),
        ("https://host/", "whsec_c2hvcnQ=", "secret: expected"),
        ("https://host/", "whsec_" + "A" * 400, "secret: expected"),
        ("https://host/", "whsec_ü", "secret: expected"),
    ],
)
def test_a_wrong_configuration_is_one_sentence_without_the_secret(url: str, secret: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        target(url, secret)
    assert secret not in str(caught.value)
