"""The running server: overload, the end, events, figures, and its description."""

from __future__ import annotations

import http.client
import json
import mimetypes
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.serving import TOKEN, Client, jpeg, running, settings_for
from vqc.serving.app import InspectionServer
from vqc.serving.openapi import COMMITTED, description


@contextmanager
def held(server: InspectionServer) -> Iterator[None]:
    """The detector is busy with something else."""
    released = threading.Event()
    server.serving.work_queue.submit(released.wait)
    try:
        yield
    finally:
        released.set()


def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 10 s")


def test_answers_are_sent_without_delay(home: Path) -> None:
    """asyncio sets TCP_NODELAY on what says that it is TCP; else head and body of an answer are 40 ms apart."""
    with running(settings_for(home)) as (server, _):
        assert {one.proto for listening in server.servers for one in listening.sockets} == {socket.IPPROTO_TCP}


def test_scripts_are_scripts_whatever_the_system_says_of_them(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mimetypes, "_db", mimetypes.MimeTypes())
    mimetypes.add_type("text/plain", ".js")  # as in some Windows registries
    with running(settings_for(home)) as (_, client):
        answer = client.get("/app.js")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")


def test_a_full_queue_refuses_and_says_when_to_come_again(home: Path) -> None:
    with running(settings_for(home, queue_length=2)) as (server, client), ThreadPoolExecutor(3) as pool:
        with held(server):
            accepted = [pool.submit(client.inspect, jpeg(seed)) for seed in range(3)]
            until(lambda: server.serving.work_queue.taken == 3)
            refused = client.inspect(b"\xff" * 20_000_000)
            assert refused.status == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert client.get("/health/ready").status == 200
        assert [future.result().status for future in accepted] == [201] * 3
        assert b'vqc_refused_total{status="429"} 1.0' in client.get("/metrics").body


def test_a_stopping_server_finishes_what_it_has_and_takes_nothing_more(home: Path) -> None:
    with running(settings_for(home)) as (server, client), ThreadPoolExecutor(1) as pool:
        with held(server):
            accepted = pool.submit(client.inspect, jpeg(1))
            until(lambda: server.serving.work_queue.taken == 1)
            server.serving.drain()
            refused, ready = client.inspect(jpeg(2)), client.get("/health/ready")
            assert (refused.status, ready.status) == (503, 503)
            assert "Retry-After" in refused.headers
        assert accepted.result().status == 201


def test_whoever_listens_is_told(home: Path) -> None:
    with running(settings_for(home, token=TOKEN)) as (server, client):
        connection = http.client.HTTPConnection(client.address, timeout=30)
        connection.request("GET", "/v1/events", headers={"Authorization": f"Bearer {TOKEN}"})
        stream = connection.getresponse()
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert stream.readline() == b": connected\n"
        inspection = client.inspect(jpeg(1)).json
        client.ask("PUT", f"/v1/inspections/{inspection['id']}/review", json_body={"verdict": "good"},
                   If_Match=inspection["etag"])  # fmt: skip
        client.ask("POST", "/v1/model/reload", json_body={"bundle": "second"})
        server.serving.drain()
        blocks = [block.splitlines() for block in stream.read().decode().strip().split("\n\n")]
        assert [name for name, _ in blocks] == ["event: inspection", "event: review", "event: model"]
        assert json.loads(blocks[0][1].removeprefix("data: ")) == inspection
        connection.close()


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/nothing", 404), ("/v1/inspections/x", 422), (f"/v1/inspections/{'0' * 23}", 404),
     (f"/v1/inspections/{'0' * 23}/image", 404), ("/v1/inspections?limit=0", 422), ("/v1/inspections?cursor=x", 422),
     (f"/v1/explanations/{'0' * 23}-{'0' * 12}", 404)],
)  # fmt: skip
def test_every_error_is_a_problem(client: Client, path: str, status: int) -> None:
    answer = client.get(path)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert answer.json.keys() == {"type", "title", "status", "detail"}


def test_a_threshold_is_priced_as_it_was_measured(client: Client) -> None:
    curve = client.get("/v1/operating-curve").json
    assert (curve["threshold"], curve["defective"], curve["good"]) == (0.5, 40, 20)
    second = curve["points"][1]
    assert (second["threshold"], second["escape_rate"], second["overkill_rate"]) == (0.5, 2 / 40, 1 / 20)
    assert 2 / 40 < second["escape_upper"] < 0.2


def test_the_committed_description_is_the_codes() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == description(), (
        "the API changed; write its description anew: uv run python -m vqc.serving.openapi"
    )
