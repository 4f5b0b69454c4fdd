"""The reviews of a server, fetched from a real one on the loopback that may also lie."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.images import annotation, document, image, save_picture
from vqc.cli.main import main
from vqc.data.dataset import read_split
from vqc.data.findings import Report
from vqc.data.importers.reviews import fetch_reviews
from vqc.errors import ConfigError, DataError


class Server:
    """Answers with what ``pages`` holds: path -> status, headers and body."""

    def __init__(self, folder: Path) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.folder = folder
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers["authorization"]))
                status, headers, body = outer.pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self.http.server_port}"
        self.address = f"{self.root}/v1/reviews.coco.json"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def review(self, *, count: int = 3, **changes: Any) -> None:
        """Some reviewed photographs, every other one defective; ``changes`` to the entry of the first."""
        images = []
        for number in range(1, count + 1):
            content = save_picture(self.folder, seed=number).read_bytes()
            id_ = f"0190{number}"
            self.pages[f"/v1/inspections/{id_}/image"] = 200, {}, content
            entry = image(number, f"{id_}.png", inspection_id=id_, sha256=hashlib.sha256(content).hexdigest(),
                          reviewed_at="2026-11-28T09:00:00Z")  # fmt: skip
            images.append({**entry, **(changes if number == 1 else {})})
        boxes = [annotation(number, number) for number in range(1, count + 1, 2)]
        self.say(document(images, boxes))

    def say(self, content: object) -> None:
        self.pages["/v1/reviews.coco.json"] = 200, {}, json.dumps(content).encode()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "photographs").mkdir()
    found = Server(tmp_path / "photographs")
    yield found
    found.http.shutdown()
    found.thread.join()
    found.http.server_close()


def test_reviews_become_a_folder_with_their_photographs(server: Server, tmp_path: Path) -> None:
    server.review()
    fetch_reviews(server.address, tmp_path / "out")
    report = Report()
    found = read_split(tmp_path / "out", "", report)
    assert found is not None
    assert report.findings == []
    assert [record.defective for record in found[0].images] == [True, False, True]
    content = json.loads((tmp_path / "out" / "annotations.json").read_text(encoding="utf-8"))
    assert {entry["reviewed_at"] for entry in content["images"]} == {"2026-11-28T09:00:00Z"}
    assert {header for _, header in server.asked} == {None}


def test_the_token_goes_with_every_request(server: Server, tmp_path: Path) -> None:
    server.review()
    fetch_reviews(server.address, tmp_path / "out", token="a-long-secret-token")
    assert {header for _, header in server.asked} == {"Bearer a-long-secret-token"}


@pytest.mark.parametrize("host", ["192.168.0.7", "example.org", "127.0.0.1.example.org", "[2001:db8::1]"])
def test_another_machine_is_not_asked_without_a_token(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="--token: none given"):
        fetch_reviews(f"http://{host}:8000/v1/reviews.coco.json", tmp_path / "out")


@pytest.mark.parametrize("address", ["http://127.0.0.1:8000/", "http://me:word@127.0.0.1/v1/reviews.coco.json"])
def test_another_address_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="SOURCE: expected one such as"):
        fetch_reviews(address, tmp_path / "out")


@pytest.mark.parametrize(
    "changes",
    [
        {"inspection_id": "../../etc/passwd"},
        {"inspection_id": "http://example.org/x"},
        {"inspection_id": 7},
        {"file_name": "x.py"},
        {"sha256": "0" * 64},
        {"sha256": None},
    ],
)
def test_a_document_that_lies_leaves_nothing(server: Server, tmp_path: Path, changes: dict[str, Any]) -> None:
    server.review(**changes)
    with pytest.raises(DataError):
        fetch_reviews(server.address, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert all(path.startswith(("/v1/reviews.coco.json", "/v1/inspections/0190")) for path, _ in server.asked)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"images": [{}], "categories": [], "annotations": []}'])
def test_what_is_no_review_is_one_sentence(server: Server, tmp_path: Path, content: bytes) -> None:
    server.pages["/v1/reviews.coco.json"] = 200, {}, content
    with pytest.raises(DataError, match="not the reviews of vqc serve"):
        fetch_reviews(server.address, tmp_path / "out")


def test_before_the_first_review_there_is_nothing_to_import(server: Server, tmp_path: Path) -> None:
    server.say(document())
    with pytest.raises(DataError, match="nothing was reviewed yet"):
        fetch_reviews(server.address, tmp_path / "out")


def test_a_redirect_is_not_followed(server: Server, tmp_path: Path) -> None:
    server.pages["/v1/reviews.coco.json"] = 302, {"location": f"{server.root}/elsewhere"}, b""
    with pytest.raises(DataError, match="the server answers 302"):
        fetch_reviews(server.address, tmp_path / "out")
    assert [path for path, _ in server.asked] == ["/v1/reviews.coco.json"]


def test_a_photograph_that_is_too_large_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqc.data.importers.reviews.MOST_IMAGE_BYTES", 100)
    server.review()
    with pytest.raises(DataError, match="more than"):
        fetch_reviews(server.address, tmp_path / "out")


@pytest.mark.parametrize(("status", "says"), [(401, "expected the server's --token"), (500, "answers 500")])
def test_a_refusal_is_one_sentence(server: Server, tmp_path: Path, status: int, says: str) -> None:
    server.pages["/v1/reviews.coco.json"] = status, {}, b""
    with pytest.raises(DataError, match=says):
        fetch_reviews(server.address, tmp_path / "out")


def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be fetched"):
        fetch_reviews("http://127.0.0.1:9/v1/reviews.coco.json", tmp_path / "out")


def test_the_command_says_what_came_in_and_what_is_next(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.review()
    assert main(["import", server.address, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("3 reviewed photographs, 2 of them defective, in ")
    assert "python tune/search.py --data DIR --reviews" in said


def test_flags_of_an_export_are_refused(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", server.address, "--out", str(tmp_path / "out"), "--unlabelled", "good"]) == 2
    assert "--unlabelled: of no use" in capsys.readouterr().err
