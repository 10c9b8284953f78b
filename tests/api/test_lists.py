"""Pages, cursors and filters; and what the probes say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from api.operator import create_app
from orchestrator.adapters.sql import queries
from tests.api.conftest import METRICS


async def pages(api, path, **params):
    """All items of a list, page by page, and how many pages there were."""
    items, count, cursor = [], 0, None
    while True:
        answer = await api("GET", path, params=params | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        body = answer.json()
        items += body["items"]
        count += 1
        cursor = body["next"]
        assert ("link" in answer.headers) == (cursor is not None)
        if cursor is None:
            return items, count
        assert count < 100


async def test_devices_come_once_each_whatever_the_page(api):
    await api.models("a", "b")
    await api.fleet(23, "a", "b")
    for limit in (1, 5, 23, 24):
        items, count = await pages(api, "/v1/devices", limit=limit)
        assert [item["device_id"] for item in items] == [f"dev-{i:04}" for i in range(23)]
        assert count == -(-23 // limit)


async def test_a_page_links_to_the_next(api):
    await api.models("a")
    await api.fleet(3, "a")
    answer = await api("GET", "/v1/devices", params={"limit": 2, "hardware_model": "a"})
    link = answer.headers["link"]
    assert link.endswith('; rel="next"')
    following = await api("GET", link[1 : link.index(">")])
    assert [item["device_id"] for item in following.json()["items"]] == ["dev-0002"]


async def test_devices_are_filtered_by_model_and_attributes(api):
    await api.models("a", "b")
    await api.fleet(24, "a", "b")
    items, _ = await pages(api, "/v1/devices", limit=3, hardware_model="b")
    assert [item["device_id"] for item in items] == [f"dev-{i:04}" for i in range(1, 24, 2)]
    items, _ = await pages(api, "/v1/devices", limit=3, hardware_model="b", attribute="hw_revision:B")
    assert [item["device_id"] for item in items] == [f"dev-{i:04}" for i in range(1, 24, 6)]
    items, _ = await pages(api, "/v1/devices", attribute=["hw_revision:B", "site:x"])
    assert items == []


async def test_a_filtered_page_looks_at_a_bounded_number_of_devices(api, monkeypatch):
    monkeypatch.setattr(queries, "SCANNED", 5)
    await api.models("a", "b")
    await api.fleet(21, "a")
    await api.ok("POST", "/v1/devices/import", json={"devices": [{"device_id": "rare", "hardware_model": "b"}]})
    items, count = await pages(api, "/v1/devices", limit=2, hardware_model="b")
    assert [item["device_id"] for item in items] == ["rare"]
    assert count == 5
    items, _ = await pages(api, "/v1/devices", limit=2, hardware_model="a")
    assert len(items) == 21


async def test_every_list_pages_without_gap_or_repetition(api):
    release_id = await api.ready(100)
    await api.release("sensor-a", version="2.0.1")
    campaign_id = await api.running(release_id)
    await api.draft(release_id)
    for path, expected in [
        ("/v1/campaigns", 2),
        (f"/v1/campaigns/{campaign_id}/events", 4),
        ("/v1/releases", 2),
        ("/v1/artifacts", 3),
        ("/v1/hardware-models", 2),
    ]:
        items, count = await pages(api, path, limit=1)
        assert count == len(items) == expected, path
        whole, _ = await pages(api, path)
        assert items == whole


async def test_a_cursor_is_good_for_its_own_list_and_filter_only(api):
    await api.models("a", "b")
    await api.fleet(5, "a")
    cursor = (await api.ok("GET", "/v1/devices", params={"limit": 2}))["next"]
    for path, params in [
        ("/v1/devices", {"hardware_model": "a"}),
        ("/v1/devices", {"attribute": "x:y"}),
        ("/v1/releases", {}),
    ]:
        refused = await api("GET", path, params=params | {"cursor": cursor})
        assert (refused.status_code, refused.json()["code"]) == (400, "cursor.filter_changed")
    assert (await api("GET", "/v1/devices", params={"cursor": cursor, "limit": 50})).status_code == 200


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "é", "=" * 9, "A" * 400])
async def test_a_made_up_cursor_is_refused(api, cursor):
    refused = await api("GET", "/v1/devices", params={"cursor": cursor})
    assert (refused.status_code, refused.json()["code"]) == (400, "cursor.invalid")


async def test_imported_devices_get_tokens_that_only_their_hash_remembers(api):
    await api.models("a")
    made = await api.fleet(3, "a", issue_tokens=True)
    tokens = {device["token"] for device in made["devices"]}
    assert len(tokens) == 3
    twin = await api.ok("GET", "/v1/devices/dev-0001")
    assert (twin["token_issued"], twin["version"], twin["last_seen_at"]) == (True, None, None)
    assert twin["attributes"] == {"hw_revision": "B"}
    before = await api.value("SELECT token_hash FROM device_identity WHERE device_id = 'dev-0001'")
    issued = await api.ok("POST", "/v1/devices/dev-0001/token")
    assert issued["token"] not in tokens
    assert await api.value("SELECT token_hash FROM device_identity WHERE device_id = 'dev-0001'") != before


async def test_a_large_import_is_registered_part_by_part_each_an_append_of_its_own(api):
    await api.models("a")
    await api.fleet(1_201, "a")
    assert await api.value("SELECT count(*) FROM event_log WHERE type = 'DevicesRegistered'") == 3
    assert await api.value("SELECT count(DISTINCT command_id) FROM event_log WHERE type = 'DevicesRegistered'") == 3
    assert await api.value("SELECT count(DISTINCT device_no) FROM device_identity") == 1_201


async def test_times_are_rfc_3339_in_utc(api):
    await api.models("a")
    created = (await api.ok("GET", "/v1/hardware-models"))["items"][0]["created_at"]
    assert created.endswith("Z")
    assert len(created) == len("2026-01-01T00:00:00.000Z")


async def test_the_probes_say_what_works(api):
    assert (await api("GET", "/healthz", key="")).json() == {"status": "ok"}
    ready = await api("GET", "/readyz", key="")
    assert ready.json() == {"status": "ok", "checks": [{"name": "database", "ok": True}]}
    metrics = await api("GET", "/metrics", key="")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert metrics.content == METRICS


async def test_a_check_that_fails_is_named(api):
    async def broken():
        raise ConnectionRefusedError("nobody there")

    services = replace(api.services, readiness=[*api.services.readiness, ("kafka", broken)])
    other = type(api)(create_app(services), services, api.engine, api.image, api.public_pem)
    answer = await other("GET", "/readyz", key="")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert answer.json()["checks"][1] == {"name": "kafka", "ok": False, "detail": "nobody there"}
    await other.close()
