from __future__ import annotations

import re

import httpx
import pytest

from orchestrator.client import ApiAddressError, ApiError, ApiUnreachableError, OtaClient
from orchestrator.client.transport import ATTEMPTS
from tests.unit.cli.conftest import CAMPAIGN, KEY, problem


@pytest.fixture
def client(api, pauses):
    with OtaClient("http://127.0.0.1:1", KEY, transport=httpx.MockTransport(api), sleep=pauses.append) as made:
        yield made


def test_every_request_says_who_asks_and_which_trace_it_is(client, api):
    api.on("GET", "/v1/campaigns/cmp_1", CAMPAIGN)
    client.campaign("cmp_1")
    client.campaign("cmp_1")
    first, second = (request.headers["traceparent"] for request in api.requests)
    assert api.last.headers["authorization"] == f"Bearer {KEY}"
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", first)
    assert first[:36] == second[:36] == f"00-{client.trace_id}-"
    assert first != second


def test_a_post_that_is_sent_again_is_the_same_request(client, api, pauses):
    api.on("POST", "/v1/campaigns/cmp_1/launch", httpx.ReadError("broken"), problem(503, "unavailable"), CAMPAIGN)
    client.act("cmp_1", "launch")
    assert len({request.headers["idempotency-key"] for request in api.requests}) == 1
    assert len(api.requests) == 3
    assert len(pauses) == 2


def test_two_posts_are_two_requests(client, api):
    api.on("POST", "/v1/campaigns/cmp_1/launch", CAMPAIGN)
    client.act("cmp_1", "launch")
    client.act("cmp_1", "launch")
    assert len({request.headers["idempotency-key"] for request in api.requests}) == 2


def test_what_is_read_needs_no_idempotency_key(client, api):
    api.on("GET", "/v1/campaigns/cmp_1", CAMPAIGN)
    client.campaign("cmp_1")
    assert "idempotency-key" not in api.last.headers


def test_it_waits_as_long_as_the_api_asks_for(client, api, pauses):
    busy = problem(429, "request.too_many")
    busy.headers["Retry-After"] = "3"
    api.on("GET", "/v1/campaigns/cmp_1", busy, CAMPAIGN)
    client.campaign("cmp_1")
    assert pauses == [3.0]


def test_it_does_not_wait_for_hours(client, api, pauses):
    busy = problem(429, "request.too_many")
    busy.headers["Retry-After"] = "3600"
    api.on("GET", "/v1/campaigns/cmp_1", busy)
    with pytest.raises(ApiError):
        client.campaign("cmp_1")
    assert pauses == []


def test_our_own_request_that_still_runs_is_waited_for(client, api):
    api.on("POST", "/v1/campaigns/cmp_1/submit", problem(409, "idempotency.in_flight"), CAMPAIGN)
    client.act("cmp_1", "submit")
    assert len(api.requests) == 2


def test_another_conflict_is_not(client, api):
    api.on("POST", "/v1/campaigns/cmp_1/launch", problem(409, "campaign.transition"))
    with pytest.raises(ApiError) as caught:
        client.act("cmp_1", "launch")
    assert (caught.value.code, caught.value.status, caught.value.trace_id) == ("campaign.transition", 409, "t" * 32)
    assert len(api.requests) == 1


def test_the_pauses_grow_and_the_attempts_end(client, api, pauses):
    api.on("GET", "/v1/campaigns/cmp_1", httpx.ConnectError("refused"))
    with pytest.raises(ApiUnreachableError):
        client.campaign("cmp_1")
    assert len(api.requests) == ATTEMPTS
    assert len(pauses) == ATTEMPTS - 1
    assert pauses[0] < pauses[-1]


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1", "http://[::1", "http://"])
def test_an_address_that_is_none_is_an_error_with_a_remedy(url):
    with pytest.raises(ApiAddressError) as caught:
        OtaClient(url, KEY)
    assert "OTA_API_URL" in caught.value.remedy


def test_a_list_pages_by_itself_and_keeps_its_filter(client, api):
    api.on(
        "GET",
        "/v1/campaigns",
        {"items": [1, 2], "next": "c1"},
        {"items": [], "next": "c2"},
        {"items": [3], "next": None},
    )
    assert list(client.campaigns(state="running")) == [1, 2, 3]
    assert [dict(r.url.params) for r in api.requests] == [
        {"limit": "500", "state": "running"},
        {"limit": "500", "state": "running", "cursor": "c1"},
        {"limit": "500", "state": "running", "cursor": "c2"},
    ]


def test_only_as_many_pages_are_asked_for_as_are_looked_at(client, api):
    api.on("GET", "/v1/devices", {"items": [1, 2], "next": "c1"})
    assert next(client.devices()) == 1
    assert len(api.requests) == 1


def test_a_name_stays_one_segment_of_the_path(client, api):
    api.on("GET", "/v1/devices/a/b?c", CAMPAIGN)
    client.device("a/b?c")
    assert api.last.url.raw_path == b"/v1/devices/a%2Fb%3Fc"


def test_an_action_names_the_version_it_was_decided_on_if_it_is_told_to(client, api):
    api.on("POST", "/v1/campaigns/cmp_1/launch", CAMPAIGN)
    client.act("cmp_1", "launch", version=7)
    assert api.last.headers["if-match"] == '"7"'
    client.act("cmp_1", "launch")
    assert "if-match" not in api.last.headers


def test_an_upload_that_breaks_is_sent_again_whole(client, api, tmp_path):
    image = tmp_path / "fw.bin"
    image.write_bytes(bytes(600_000))
    api.on("POST", "/v1/artifacts", httpx.WriteError("broken"), {"sha256": "aa"})
    told = []
    client.upload_artifact(image, "sensor-a", told.append)
    assert [len(request.content) for request in api.requests] == [600_000, 600_000]
    assert api.last.headers["content-length"] == "600000"
    assert "transfer-encoding" not in api.last.headers
    assert dict(api.last.url.params)["filename"] == "fw.bin"
    assert told[-1] == 600_000
