"""The inspection server, killed and swapped under load."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Row
from tests.faults.small_disk import small_disk
from tests.serving import TOKEN, Client, jpeg, process, running, settings_for, write_promoted

KILLS, SEED = 50, 18
MOST_ANSWERS = 12  # before a kill
SWAPS, REQUESTS = 20, 1000
CLIENTS = 3


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_promoted(tmp_path_factory.mktemp("serving") / "promoted")


class Inspectors:
    """Clients that send photographs one after the other, each one of its own, and keep what was answered."""

    def __init__(self, address: str, *, first: int) -> None:
        self.answered: list[tuple[bytes, dict[str, Any]]] = []
        self.other: list[int] = []
        self._numbers = iter(range(first, 10**9))
        self._address = address
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(CLIENTS)]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in self._threads:
                thread.join(60)

    def _send(self) -> None:
        with closing(http.client.HTTPConnection(self._address, timeout=30)) as connection:
            try:
                while not self._stopped.is_set():
                    self._send_one(connection, numbered(next(self._numbers)))
            except (OSError, http.client.HTTPException):
                return  # the server was killed

    def _send_one(self, connection: http.client.HTTPConnection, data: bytes) -> None:
        connection.request("POST", "/v1/inspections", data, {"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        body = response.read()
        if response.status == 201:
            self.answered.append((data, json.loads(body)))
        else:
            self.other.append(response.status)


PHOTOGRAPH = jpeg(1)


def numbered(number: int) -> bytes:
    """A photograph whose bytes are its own: a JPEG may be followed by anything."""
    return PHOTOGRAPH + b"%d" % number


def everything(client: Client) -> list[dict[str, Any]]:
    items, cursor = [], ""
    while True:
        page = client.get(f"/v1/inspections?limit=200{cursor}").json
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = f"&cursor={page['next_cursor']}"


@pytest.mark.slow
def test_killed_at_any_instant_it_has_what_it_answered(promoted: Path, tmp_path: Path, record: Any) -> None:
    rng = random.Random(SEED)
    words = (str(promoted / "first"), "--store", str(tmp_path), "--threads", "1")
    answered: list[tuple[bytes, dict[str, Any]]] = []
    started_s = 0.0
    for kill in range(KILLS):
        begun_s = time.monotonic()
        with process(*words) as (server, client):
            started_s = max(started_s, time.monotonic() - begun_s)
            inspectors = Inspectors(client.address, first=kill * 100_000)
            with inspectors.at_work():
                enough = rng.randint(0, MOST_ANSWERS)
                while len(inspectors.answered) < enough:
                    time.sleep(0.002)
                time.sleep(rng.uniform(0, 0.05))  # about the time of one inspection
                server.kill()
                server.wait()
            answered += inspectors.answered
    with process(*words) as (_, client):
        kept = {one["id"]: one for one in everything(client)}
        lost = [one["id"] for data, one in answered if kept.get(one["id"]) != one]
        torn = [one["id"] for one in kept.values()
                if sha256(client.get(one["image"]["url"]).body).hexdigest() != one["image"]["sha256"]]  # fmt: skip
    digests = [one["image"]["sha256"] for one in kept.values()]
    assert len(answered) > KILLS
    assert (lost, torn) == ([], [])
    assert len(set(digests)) == len(digests)  # none is there twice
    assert all(sha256(data).hexdigest() == one["image"]["sha256"] for data, one in answered)
    record(Row(fault="the server killed under load", injected=KILLS, lost=len(lost) + len(torn), again_s=started_s))


@pytest.mark.slow
def test_no_request_is_lost_while_models_are_swapped(promoted: Path, tmp_path: Path, record: Any) -> None:
    expected = {"first": 0.5, "second": 0.75}
    with running(settings_for(tmp_path, promoted=promoted)) as (server, client):
        inspectors, swaps = Inspectors(client.address, first=0), 0
        with inspectors.at_work():
            for swap in range(SWAPS):
                while len(inspectors.answered) < swap * REQUESTS / SWAPS and not inspectors.other:
                    time.sleep(0.01)
                swaps += server.serving.reload(("second", "first")[swap % 2]).version.version in expected
            while len(inspectors.answered) < REQUESTS and not inspectors.other:
                time.sleep(0.01)
        assert inspectors.other == []
        answers = [one for _, one in inspectors.answered]
        assert {one["model"]["version"] for one in answers} == expected.keys()
        assert all(one["threshold"] == expected[one["model"]["version"]] for one in answers)
        assert len(everything(client)) == len(answers) >= REQUESTS
    record(Row(fault="a model swapped under load", injected=swaps, lost=len(inspectors.other)))


@pytest.mark.slow
@pytest.mark.parametrize("left_bytes", [0, 4096, 3 * 4096])
def test_a_full_disk_is_told_and_nothing_that_was_answered_is_lost(
    promoted: Path, tmp_path: Path, record: Any, left_bytes: int
) -> None:
    with small_disk(tmp_path / "disk", size_mb=8) as disk:
        settings = settings_for(disk.folder, promoted=promoted, token=TOKEN)
        with running(settings) as (_, client):
            before = client.inspect(numbered(1)).json
            disk.fill(leave_bytes=left_bytes)
            full = [client.inspect(numbered(number)) for number in range(2, 12)]
            refused = client.ask("POST", "/v1/model/reload", json_body={"bundle": "second"})
            version = client.get("/v1/model").json["version"]
            disk.empty()
            after = client.inspect(numbered(12)).json
            answered = [before, *(answer.json for answer in full if answer.status == 201), after]
            kept = everything(client)
    assert {answer.status for answer in full} <= {201, 507}
    assert full[-1].status == 507
    assert "no room left on the disk" in full[-1].json["detail"]
    # The few bytes that name the model may still have found room.
    assert (refused.status, version) in [(507, "first")] + ([(200, "second")] if left_bytes else [])
    assert kept == answered[::-1]
    record(Row(fault="the server's disk full", injected=len(full), lost=len(answered) - len(kept)))
