"""The app against its own description: generated requests, right and wrong, never find a defect."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.operator import create_app
from tests.api.test_bad_input import MEMBERS

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 200


@pytest.fixture
async def ids(api) -> dict[str, str]:
    """Things that exist, to be used where a path names one."""
    release_id = await api.ready()
    return {
        "campaign_id": await api.approved(release_id),
        "release_id": release_id,
        "device_id": "dev-0001",
        "name": "sensor-a",
    }


@pytest.fixture
async def loop() -> asyncio.AbstractEventLoop:
    """Where the fixtures live; it stands still while a test without ``async`` runs."""
    return asyncio.get_running_loop()


async def send(api: Any, case: Case) -> Any:
    """The generated request, as another client would send it."""
    prepared = requests.Request(**{**case.as_transport_kwargs(base_url="http://test"), "cookies": None}).prepare()
    dropped = {"authorization", "content-length", "cookie"}
    headers = {name: value for name, value in prepared.headers.items() if name.lower() not in dropped}
    url = str(prepared.url).removeprefix("http://test")
    return await api(prepared.method, url, by="root", scopes=("admin",), headers=headers, content=prepared.body)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_generated_request_finds_a_defect(api, ids, loop, mode):
    schema = schemathesis.openapi.from_dict(create_app(api.services).openapi())
    some, known = (schema.as_strategy(mode, path_parameters=fixed) for fixed in (None, ids))
    statuses: set[int] = set()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(some, known))
    def run(case: Case) -> None:
        response = loop.run_until_complete(send(api, case))
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)
        if response.status_code >= 400 and case.path != "/readyz":
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json().keys() == MEMBERS

    run()
    assert {200, 404, 422} <= statuses
