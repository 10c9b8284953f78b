from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from api.devices import reports
from orchestrator.errors import UnavailableError
from schemas import device_events as d
from tests.unit.devices.conftest import NOW, World
from tests.unit.devices.test_gateway import code, until

PATH = "/device/v1/dev-1/health"
REPORT = {"signal": "crash", "period": 17, "events": 2, "exposure_ms": 3_600_000}


def report(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (REPORT | changes).items() if value is not ...}


async def test_a_report_is_stored_before_it_is_answered(world: World):
    answer = await world.client.post(PATH, json=report(firmware="2.0"))
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    (event,) = world.facts.events
    assert (event.type, event.subject, event.device_no, event.recorded_at) == (d.HEALTH, "dev-1", 7, NOW)
    assert d.decode_health(event.data) == d.Health(**REPORT)
    assert answer.headers["ota-event-id"] == event.id
    assert world.ingested == [d.HEALTH]
    assert world.presence.times == {7: NOW}


async def test_a_period_is_one_statement_whatever_it_counts(world: World):
    said = [report(), report(events=3), report(period=18), report(signal="reset")]
    ids = [(await world.client.post(PATH, json=each)).headers["ota-event-id"] for each in said]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    world.client.headers["Authorization"] = "TargetToken other"
    other = await world.client.post("/device/v1/dev-2/health", json=report())
    assert other.headers["ota-event-id"] not in ids


@pytest.mark.parametrize("missing", sorted(REPORT))
async def test_every_field_is_needed(world: World, missing: str):
    answer = await world.client.post(PATH, json=report(**{missing: ...}))
    assert (answer.status_code, code(answer)) == (400, "report.invalid")
    assert missing in answer.json()["detail"]


@pytest.mark.parametrize(
    "nonsense",
    [
        {"events": -1},
        {"events": d.MAX_EVENTS + 1},
        {"events": 1.5},
        {"events": True},
        {"exposure_ms": 0},
        {"exposure_ms": d.MAX_EXPOSURE_MS + 1},
        {"period": -1},
        {"period": d.MAX_PERIOD + 1},
        {"period": "17"},
        {"signal": ""},
        {"signal": "Crash"},
        {"signal": "a" * 33},
        {"signal": "a\0"},
    ],
)
async def test_numbers_beyond_all_sense_are_refused(world: World, nonsense: dict[str, Any]):
    answer = await world.client.post(PATH, json=report(**nonsense))
    assert (answer.status_code, code(answer)) == (400, "report.invalid")
    assert world.facts.events == []
    assert world.refused == [("health", "report.invalid")]


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (b"{", 400, "report.malformed"),
        (b"\xff", 400, "report.malformed"),
        (b"", 400, "report.malformed"),
        (b"[]", 400, "report.invalid"),
        (b'{"signal": "' + b"x" * 6_000 + b'"}', 413, "body.too_large"),
    ],
)
async def test_other_bodies_are_refused(world: World, body: bytes, status: int, expected: str):
    answer = await world.client.post(PATH, content=body)
    assert (answer.status_code, code(answer)) == (status, expected)


async def test_only_the_device_itself_may_report(world: World):
    for path, token in ((PATH, "other"), ("/device/v1/nobody/health", "s3cret"), ("/device/v1/dev-2/health", "s3cret")):
        answer = await world.client.post(path, json=report(), headers={"Authorization": f"TargetToken {token}"})
        assert (answer.status_code, code(answer)) == (401, "device.unauthorized")
    assert world.facts.events == []


async def test_there_is_nothing_else(world: World):
    for path in ("/device/v1/dev-1", "/device/v1/dev-1/health/crash", "/device/v1/dev-1/other"):
        assert code(await world.client.post(path, json=report())) == "path.not_found"
    answer = await world.client.get(PATH)
    assert (answer.status_code, code(answer), answer.headers["allow"]) == (405, "method.not_allowed", "POST")
    assert (await world.client.post("/device/controller/v1/dev-1/health", json=report())).status_code == 404


async def test_while_the_broker_is_away_devices_are_asked_to_come_back(world: World):
    world.facts.error = UnavailableError("no broker")
    answer = await world.client.post(PATH, json=report())
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    assert world.ingested == []


async def test_reports_of_both_interfaces_share_what_may_be_in_hand(world: World, monkeypatch):
    monkeypatch.setattr(reports, "MAX_REPORTS_IN_HAND", 1)
    world.facts.hold = asyncio.Event()
    waiting = asyncio.create_task(world.client.post(PATH, json=report()))
    await until(lambda: world.facts.waiting > 0)
    refused: list[httpx.Response] = [
        await world.client.post(PATH, json=report(period=18)),
        await world.client.put("/default/controller/v1/dev-1/configData", json={"data": {"a": "b"}}),
    ]
    assert [(each.status_code, code(each)) for each in refused] == [(429, "gateway.overloaded")] * 2
    world.facts.hold.set()
    assert (await waiting).status_code == 200
