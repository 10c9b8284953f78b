"""``Idempotency-Key``: one effect, one answer."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.adapters.sql import idempotency
from orchestrator.app.idempotency import Claimed

KEY = {"Idempotency-Key": "k-1"}
MODEL = {"name": "sensor-a", "profile": {}}


async def test_the_same_request_twice_has_one_effect_and_one_answer(api):
    first = await api("POST", "/v1/hardware-models", json=MODEL, headers=KEY)
    again = await api("POST", "/v1/hardware-models", json=MODEL, headers=KEY)
    assert first.status_code == again.status_code == 201
    assert again.json() == first.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert await api.value("SELECT count(*) FROM event_log WHERE type = 'HardwareModelCreated'") == 1


async def test_the_command_in_the_log_is_named_by_principal_and_key(api):
    await api("POST", "/v1/hardware-models", json=MODEL, headers=KEY)
    key_id = (await api.key("ann")).split("_")[2]
    stored = await api.value("SELECT command_id FROM event_log WHERE type = 'HardwareModelCreated'")
    assert stored == f"{key_id}/k-1"


async def test_headers_of_the_first_answer_are_repeated(api):
    campaign_id = await api.draft(await api.ready(100))
    first = await api.act(campaign_id, "submit", headers=KEY)
    again = await api.act(campaign_id, "submit", headers=KEY)
    assert again.headers["etag"] == first.headers["etag"] == '"2"'
    assert again.json() == first.json()


async def test_the_same_key_for_another_request_is_refused(api):
    await api("POST", "/v1/hardware-models", json=MODEL, headers=KEY)
    for path, body in (("/v1/hardware-models", MODEL | {"name": "b"}), ("/v1/releases", MODEL)):
        other = await api("POST", path, json=body, headers=KEY)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency.key_reused")


async def test_another_principal_has_keys_of_its_own(api):
    await api("POST", "/v1/hardware-models", json=MODEL, headers=KEY)
    other = await api("POST", "/v1/hardware-models", by="bob", json=MODEL, headers=KEY)
    assert (other.status_code, other.json()["code"]) == (409, "hardware_model.exists")


async def test_a_refused_request_leaves_its_key_free(api):
    wrong = await api("POST", "/v1/hardware-models", json={"name": "a b"}, headers=KEY)
    assert wrong.status_code == 422
    assert (await api("POST", "/v1/hardware-models", json=MODEL, headers=KEY)).status_code == 201


async def test_of_many_at_once_one_is_done_and_the_others_wait_or_repeat_it(api):
    await api.key("ann")
    answers = await asyncio.gather(*(api("POST", "/v1/hardware-models", json=MODEL, headers=KEY) for _ in range(6)))
    done = [answer for answer in answers if answer.status_code == 201]
    waiting = [answer for answer in answers if answer.status_code == 409]
    assert len(done) + len(waiting) == 6
    assert sum("idempotency-replayed" not in answer.headers for answer in done) == 1
    assert all(answer.json()["code"] == "idempotency.in_flight" for answer in waiting)
    assert all(answer.headers["retry-after"] for answer in waiting)
    assert await api.value("SELECT count(*) FROM hardware_model") == 1


async def test_a_repeated_upload_is_answered_without_reading_it_again(api):
    await api.models("sensor-a")
    data = api.image()
    first = await api.upload("sensor-a", data, headers=KEY)
    again = await api.upload("sensor-a", data, headers=KEY)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"


async def test_secrets_are_in_the_first_answer_only_and_nowhere_in_the_database(api):
    await api.models("sensor-a")
    body = {"devices": [{"device_id": "d1", "hardware_model": "sensor-a"}], "issue_tokens": True}
    requests = [
        ("/v1/devices/import", body, lambda answer: answer["devices"][0]["token"]),
        ("/v1/devices/d1/token", None, lambda answer: answer["token"]),
        ("/v1/api-keys", {"name": "x", "scopes": ["admin"]}, lambda answer: answer["key"]),
    ]
    for path, sent, secret_of in requests:
        headers = {"Idempotency-Key": path}
        first = await api.ok("POST", path, by="root", scopes=("admin",), json=sent, headers=headers)
        again = await api.ok("POST", path, by="root", scopes=("admin",), json=sent, headers=headers)
        assert len(secret_of(first)) >= 43
        assert secret_of(again) is None
        for table in ("event_log", "idempotency", "device_identity", "api_key"):
            stored = await api.value(f"SELECT string_agg(t::text, ' ') FROM {table} t")
            assert secret_of(first) not in stored, f"{path} in {table}"


async def test_an_answer_that_was_lost_is_made_again_from_the_first_effect(api, monkeypatch):
    release_id = await api.ready(4)
    from tests.api.conftest import plan

    async def lost(*_, **__):
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(idempotency.SqlIdempotency, "finish", lost)
        body = {"name": "x", "plan": plan(release_id)}
        first = await api("POST", "/v1/campaigns", json=body, headers=KEY)
        assert first.status_code == 201
    at_once = await api("POST", "/v1/campaigns", json=body, headers=KEY)
    assert at_once.json()["code"] == "idempotency.in_flight"
    await api.value("UPDATE idempotency SET created_at = created_at - 60000 RETURNING 1")
    later = await api("POST", "/v1/campaigns", json=body, headers=KEY)
    assert (later.status_code, later.json()) == (201, first.json())
    assert await api.value("SELECT count(*) FROM campaign") == 1


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 201, "tab\t"])
async def test_a_key_that_cannot_be_used_is_refused(api, key):
    headers = {"Idempotency-Key": key.encode("latin-1")}
    answer = await api("POST", "/v1/hardware-models", json=MODEL, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency.key")


async def test_an_old_answer_is_forgotten(engine):
    answers = idempotency.SqlIdempotency(engine, lease_ms=60_000)
    day = 86_400_000
    assert (await answers.claim("p", "k", "f", 0)).outcome is Claimed.NEW
    await answers.finish("p", "k", 201, {"content": 1, "headers": {}})
    assert (await answers.claim("p", "k", "f", 7 * day)).outcome is Claimed.ANSWERED
    assert (await answers.claim("p", "k", "g", 7 * day + 1)).outcome is Claimed.NEW
    assert await answers.purge(14 * day) == 0
    assert await answers.purge(15 * day) == 1
