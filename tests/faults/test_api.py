"""Requests made from the description of the API, valid ones and others: none is an error of the server's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.conftest import Row
from tests.serving import TOKEN, Client, running, settings_for, write_bundle
from vqc.serving.openapi import COMMITTED

EXAMPLES = 60  # requests for each operation and kind
ENDLESS = "/v1/events"
OPERATIONS = [
    (method, path)
    for path, methods in json.loads(COMMITTED.read_text(encoding="utf-8"))["paths"].items()
    for method in methods
    if path != ENDLESS
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("api")
    write_bundle(folder / "promoted" / "first")
    with running(settings_for(folder, token=TOKEN)) as (_, client):
        yield client


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_is_an_error_of_the_servers_own(client: Client, method: str, path: str, record: Any) -> None:
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

    headers = {"Authorization": f"Bearer {TOKEN}"}
    schema = schemathesis.openapi.from_url(f"http://{client.address}/openapi.json", headers=headers)
    operation = schema[path][method]
    modes = schemathesis.GenerationMode
    cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes))
    sent = 0

    @given(cases)
    @settings(max_examples=EXAMPLES * len(modes), suppress_health_check=list(HealthCheck), database=None)
    def check(case: Any) -> None:
        nonlocal sent
        sent += 1
        checks = [not_a_server_error, content_type_conformance, response_schema_conformance]
        case.call_and_validate(headers=headers, checks=checks)

    check()
    record(Row(fault="a request made from the API's description", injected=sent, lost=0))
