"""What the line tells a running server: drift, a second detector, notices, and photographs in a folder."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import picture
from tests.serving import TOKEN, Client, jpeg, running, settings_for
from vqc.data.image_io import DecodedPicture
from vqc.errors import ConfigError, ModelError
from vqc.files import write_json
from vqc.inference.bundle import REFERENCE, name_challenger, reference_stats, write_manifest
from vqc.serving.app import create_app
from vqc.serving.drift import LOOKS
from vqc.serving.watched_folder import SETTLED_S

SECRET = "whsec_" + "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB"


def until(found: Callable[[], Any]) -> Any:
    """What it gives, as soon as that is something."""
    for _ in range(600):
        if answer := found():
            return answer
        threading.Event().wait(0.05)
    raise AssertionError("waited in vain")


@pytest.fixture
def notices() -> Iterator[tuple[str, list[Any]]]:
    """The address of a receiver, and what it got."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", got
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_bundle_without_statistics_has_no_drift(client: Client) -> None:
    assert client.get("/v1/drift").status == 404


def test_without_a_challenger_there_is_nothing_to_see(client: Client) -> None:
    assert client.get("/v1/challenger").status == 404
    assert client.get("/v1/model").json["challenger"] is None


def test_darker_photographs_raise_the_alarm_and_it_is_told(home: Path, notices: tuple[str, list[Any]]) -> None:
    bundle = home / "promoted" / "first"
    light = [np.asarray(picture(seed) // 2 + 127) for seed in range(30)]
    write_json(
        bundle / REFERENCE,
        reference_stats(map(DecodedPicture.whole, light), [0.5] * len(light)).model_dump(mode="json"),
    )
    write_manifest(bundle)
    url, got = notices
    with running(settings_for(home, webhook_url=url, webhook_secret=SECRET)) as (_, client):
        assert client.get("/v1/drift").json["parts"] == 0

        def alarm() -> Any:
            client.inspect(jpeg(1))  # without the light; one that comes while another is looked at is not compared
            return client.get("/v1/drift").json["alarm"]

        until(alarm)
        report = client.get("/v1/drift").json
        until(lambda: [one for one in got if one["type"] == "drift.alarm"])
    assert report["parts"] >= LOOKS[0]
    assert "brightness" in [one["name"] for one in report["statistics"] if one["drifted"]]


def test_parts_that_do_not_pass_are_told(home: Path, notices: tuple[str, list[Any]]) -> None:
    url, got = notices
    with running(settings_for(home, token=TOKEN, webhook_url=url, webhook_secret=SECRET)) as (_, client):
        assert client.ask("PUT", "/v1/operating-point", json_body={"threshold": 0.01}).status == 200
        found = [client.inspect(jpeg(seed)).json for seed in range(4)]
        broken = client.inspect(jpeg(8)[:900])
        bad = [one["id"] for one in found if one["verdict"] == "defective"]
        until(lambda: len(got) == len(bad) + 1)
    assert bad
    assert [one["data"]["id"] for one in got[:-1]] == bad
    assert (got[-1]["type"], broken.status) == ("inspection.unreadable", 422)


@pytest.mark.parametrize("named", ["by the settings", "by export_best"])
def test_a_challenger_looks_along_and_never_answers(home: Path, named: str) -> None:
    folder = home / "promoted" / "second"
    changes = {"challenger": folder} if named == "by the settings" else {}
    if named == "by export_best":
        name_challenger(home / "promoted", folder)
    with running(settings_for(home, **changes)) as (_, client):
        answers = [client.inspect(jpeg(seed)).json for seed in range(3)]
        until(lambda: client.get("/v1/challenger").json["report"]["compared"])
        page = client.get("/v1/challenger").json
        shown = client.get("/v1/model").json["challenger"]
    assert {one["model"]["version"] for one in answers} == {"first"}
    assert (page["report"]["version"], shown["version"]) == ("second", "second")
    known = {one["id"]: one["verdict"] for one in answers}
    for one in page["disagreements"]:
        assert one["champion_verdict"] == known[one["inspection_id"]] != one["challenger_verdict"]


def test_a_challenger_that_is_named_and_broken_ends_the_start(home: Path) -> None:
    (home / "promoted" / "second" / "model.onnx").unlink()
    with pytest.raises(ModelError):
        create_app(settings_for(home, challenger=home / "promoted" / "second"))


def test_a_folder_is_watched(home: Path) -> None:
    folder = home / "camera"
    folder.mkdir()
    (folder / "part 7.jpg").write_bytes(jpeg(7))
    (folder / "broken.jpg").write_bytes(jpeg(8)[:900])
    (folder / "text.jpg").write_bytes(b"no photograph at all")
    assert SETTLED_S < 10

    def seen(client: Client) -> Any:
        items = client.get("/v1/inspections").json["items"]
        return items if len(items) >= 2 else None

    with running(settings_for(home, watch=folder)) as (_, client):
        items = until(lambda: seen(client))
    assert {(one["name"], one["source"]) for one in items} == {
        ("part 7.jpg", "watched_folder"), ("broken.jpg", "watched_folder"),
    }  # fmt: skip
    assert {one["name"]: one["verdict"] for one in items}["broken.jpg"] == "unreadable"
    with running(settings_for(home, watch=folder)) as (_, client):
        (folder / "part 9.jpg").write_bytes(jpeg(9))
        names = until(lambda: [one["name"] for one in client.get("/v1/inspections").json["items"]][2:] and client)
        assert [one["name"] for one in names.get("/v1/inspections").json["items"]][0] == "part 9.jpg"
        assert len(client.get("/v1/inspections").json["items"]) == 3


def test_a_folder_that_is_not_there_is_one_sentence(home: Path) -> None:
    with pytest.raises(ConfigError, match="--watch: .*: no such folder"):
        create_app(settings_for(home, watch=home / "nowhere"))
