"""Who may call: Host, Origin, token, and what a browser is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving import TOKEN, Client, jpeg, running, settings_for
from vqc.config import parse_record
from vqc.errors import ConfigError
from vqc.serving.settings import ServingSettings


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:9", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200), ("10.1.2.3", 200),
        ("evil.example", 421), ("localhost.evil.example", 421), ("evil@localhost", 421), ("", 421),
        ("localhost/x", 421), ("localhost:x", 421), ("0x7f000001.example", 421), ("[::1", 421),
    ],
)  # fmt: skip
def test_only_our_own_names_are_answered(client: Client, host: str, status: int) -> None:
    assert client.get("/v1/model", Host=host).status == status


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1.evil.example"])
def test_pages_of_others_cannot_call(client: Client, origin: str) -> None:
    refused = client.inspect(jpeg(1), Origin=origin)
    assert (refused.status, refused.headers["Content-Type"]) == (403, "application/problem+json")
    assert client.inspect(jpeg(1), Origin=f"http://{client.address}").status == 201
    assert "Access-Control-Allow-Origin" not in client.inspect(jpeg(1), Origin=f"http://{client.address}").headers


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/model"), ("POST", "/v1/inspections"), ("GET", "/v1/events"), ("GET", "/metrics"),
     ("GET", "/openapi.json"), ("PUT", "/v1/operating-point"), ("POST", "/v1/model/reload"), ("GET", "/v1/nothing")],
)  # fmt: skip
def test_without_the_token_nothing_is_told(client: Client, method: str, path: str, authorization: str) -> None:
    answer = client.ask(method, path, Authorization=authorization)
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert TOKEN not in answer.body.decode()


def test_health_needs_no_token(client: Client) -> None:
    answers = [client.get(f"/health/{name}", Authorization="") for name in ("live", "ready")]
    assert [answer.status for answer in answers] == [200, 200]


def test_on_the_loopback_without_a_token_the_model_cannot_be_changed(home: Path) -> None:
    with running(settings_for(home)) as (_, client):
        assert client.inspect(jpeg(1)).status == 201
        for method, path in (
            ("PUT", "/v1/operating-point"),
            ("POST", "/v1/model/reload"),
            ("POST", "/v1/model/rollback"),
        ):
            answer = client.ask(method, path, json_body={})
            assert answer.status == 403
            assert "vqc serve --token TOKEN" in answer.json["detail"]


def test_another_address_demands_a_token() -> None:
    with pytest.raises(ConfigError, match="token: none given, expected one because other machines reach 0.0.0.0"):
        parse_record(ServingSettings, {"host": "0.0.0.0"}, source="vqc serve")
    with pytest.raises(ConfigError, match="token: expected at least 16 characters"):
        parse_record(ServingSettings, {"host": "0.0.0.0", "token": "short"}, source="vqc serve")
    assert parse_record(ServingSettings, {"host": "0.0.0.0", "token": TOKEN}, source="vqc serve").port == 8000


def test_a_browser_is_told_what_the_page_may_do(client: Client) -> None:
    headers = client.get("/health/live").headers
    assert headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/v1/model").headers["Cache-Control"] == "no-store"


def test_a_browser_asks_whether_the_page_is_another_one(client: Client) -> None:
    for path in ("/", "/app.js", "/state.js", "/style.css"):
        page = client.get(path, Authorization="")
        assert (page.status, page.headers["Cache-Control"]) == (200, "no-cache")
        again = client.get(path, Authorization="", If_None_Match=page.headers["ETag"])
        assert (again.status, again.headers["Cache-Control"], again.body) == (304, "no-cache", b"")


@pytest.mark.parametrize(
    "path",
    ["/..%2f..%2fetc/passwd", "/../../../../etc/passwd", "/v1/inspections/..%2f..%2fhistory.sqlite/image",
     "/v1/inspections/....//image", "/%2e%2e/%2e%2e/pyproject.toml", "/v1/explanations/../../history.sqlite/image",
     "/static/..%5c..%5cpyproject.toml", "/app.py", "/__init__.py"],
)  # fmt: skip
def test_paths_do_not_leave_their_folder(client: Client, path: str) -> None:
    assert client.get(path).status in (404, 422)
