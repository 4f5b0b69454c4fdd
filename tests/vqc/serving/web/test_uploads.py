"""Bodies: bounded while they come, whatever they say of themselves."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.serving import Client, jpeg, png_of, running, settings_for

MB = 10**6


def raw(client: Client, request: bytes, pieces: Iterable[bytes] = ()) -> bytes:
    """What the server answers to these bytes on a connection of their own."""
    host, port = client.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        for piece in pieces:
            try:
                connection.sendall(piece)
            except OSError:
                break
        answer = b""
        while True:
            try:
                more = connection.recv(65536)
            except OSError:
                break
            answer += more
            if not more or (b"\r\n\r\n" in answer and answer.endswith(b"}")):
                break
        return answer


def head(*lines: str, path: str = "/v1/inspections") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def chunks(total: int, size: int = 65_536) -> Iterator[bytes]:
    for _ in range(total // size):
        yield b"%x\r\n%s\r\n" % (size, b"\xff" * size)
    yield b"0\r\n\r\n"


@pytest.fixture(scope="module")
def open_client(promoted: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    settings = settings_for(
        tmp_path_factory.mktemp("uploads"), promoted=promoted, max_body_mb=2, body_timeout_s=1.5, max_megapixels=2.0
    )
    with running(settings) as (_, client):
        yield client


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def test_a_body_that_says_it_is_too_large_is_refused(open_client: Client) -> None:
    data = b"\xff" * (3 * MB)
    assert open_client.inspect(data).status == 413
    waiting = raw(open_client, head(f"Content-Length: {3 * MB}", "Expect: 100-continue"))
    assert status(waiting) == 413  # before a byte of it was sent


def test_a_body_that_does_not_say_so_is_cut_off(open_client: Client) -> None:
    before_mb = psutil.Process().memory_info().rss / MB
    answer = raw(open_client, head("Transfer-Encoding: chunked", "Content-Type: image/jpeg"), chunks(40 * MB))
    assert status(answer) == 413
    assert psutil.Process().memory_info().rss / MB - before_mb < 20


def test_a_body_that_comes_too_slowly_is_refused(open_client: Client) -> None:
    answer = raw(open_client, head("Content-Length: 1000", "Content-Type: image/jpeg"), [jpeg(1)[:100]])
    assert status(answer) == 408


def test_a_body_that_its_last_piece_makes_too_large_is_refused_in_the_same_words(open_client: Client) -> None:
    body = b"\xff" * (2 * MB + 1)
    answer = raw(open_client, head("Transfer-Encoding: chunked"), [b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)])
    assert status(answer) == 413
    assert b"the body is larger than 2 MB" in answer


def test_a_chunked_photograph_is_taken(open_client: Client) -> None:
    data = jpeg(2)
    answer = raw(open_client, head("Transfer-Encoding: chunked"), [b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)])
    assert status(answer) == 201


def test_a_connection_that_ends_early_leaves_nothing(open_client: Client) -> None:
    newest = open_client.get("/v1/inspections?limit=1").json
    host, port = open_client.address.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head("Content-Length: 1000", "Content-Type: image/jpeg") + jpeg(1)[:100])
    assert open_client.get("/v1/inspections?limit=1").json == newest


@pytest.mark.parametrize(("width", "height"), [(1000, 2001), (60_000, 60_000)])
def test_a_bomb_is_not_decoded(open_client: Client, width: int, height: int) -> None:
    bomb = png_of(width, height) if width < 9000 else _lying_header(width, height)
    answer = open_client.inspect(bomb)
    assert answer.status == 422
    assert "megapixels" in answer.json["detail"]


def _lying_header(width: int, height: int) -> bytes:
    """A PNG of one pixel that says it has many."""
    import struct
    import zlib

    data = png_of(1, 1)
    header = struct.pack(">II", width, height) + data[24:29]
    return data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]


@pytest.mark.parametrize(
    ("form", "status_"),
    [
        (b"", 400),
        (b"--b\r\nContent-Disposition: form-data; name=\"other\"; filename=\"x\"\r\n\r\nabc\r\n--b--\r\n", 400),
        (b"--b\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\nabc\r\n--b--\r\n", 400),
        (b"--c\r\n\r\nabc", 400),
        (b"--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"x\"\r\n\r\nabc\r\n--b--\r\n", 415),
        (b"--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\r\n" * 1000 + b"--b--\r\n", 400),
    ],
)  # fmt: skip
def test_a_form_without_the_photograph_is_refused(open_client: Client, form: bytes, status_: int) -> None:
    assert open_client.inspect(form, Content_Type="multipart/form-data; boundary=b").status == status_


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", "text/html", "application/json"]
)
def test_other_bodies_are_refused(open_client: Client, kind: str) -> None:
    assert open_client.inspect(jpeg(1), Content_Type=kind).status in (400, 415)


def test_no_other_body_is_large_either(open_client: Client) -> None:
    id_ = open_client.inspect(jpeg(3)).json["id"]
    answer = open_client.ask("PUT", f"/v1/inspections/{id_}/review", body=b" " * (3 * MB), If_Match="x",
                             Content_Type="application/json")  # fmt: skip
    assert answer.status == 413
