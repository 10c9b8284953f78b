"""Keys and scopes: every route without a key, with every scope but its own, and with its own."""

from __future__ import annotations

import pytest

from api.auth import ANSWERS, PUBLIC
from orchestrator.app.keys import Scope

ALL = {scope.value for scope in Scope}


def operations(app):
    """(method, path, scopes) of every operation, from the app's own description."""
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            scopes = [scope for item in operation.get("security", []) for named in item.values() for scope in named]
            yield method.upper(), path, scopes


def address(path):
    return path.format(
        campaign_id="cmp_x",
        device_id="dev_x",
        release_id="rel_x",
        key_id="k",
        name="m",
        phase="0",
        gate="g",
        webhook_id="wh_x",
    )


async def test_every_route_declares_exactly_one_scope_or_is_public(api):
    found = list(operations(api.app))
    assert len(found) > 25
    for method, path, scopes in found:
        if path in PUBLIC:
            assert scopes == [], path
        else:
            assert len(scopes) == 1, f"{method} {path} declares {scopes}"
            assert scopes[0] in ALL


async def test_without_a_key_nothing_but_the_probes_answers(api):
    for method, path, scopes in operations(api.app):
        answer = await api(method, address(path), key="")
        if scopes:
            assert (answer.status_code, answer.json()["code"]) == (401, "auth.key.missing"), path
            assert answer.headers["www-authenticate"] == "Bearer"
        elif path == ANSWERS:
            assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid"), (
                "it says whose secret signed"
            )
        else:
            assert answer.status_code == 200, path
    assert (await api("GET", "/v1/nothing", key="")).status_code == 401


async def test_every_route_refuses_all_scopes_but_its_own(api):
    protected = [item for item in operations(api.app) if item[2]]
    for method, path, (scope,) in protected:
        others = tuple(sorted(ALL - {scope, "admin"}))
        refused = await api(method, address(path), by="other", scopes=others, json=None if method == "GET" else {})
        assert (refused.status_code, refused.json()["code"]) == (403, "auth.scope.missing"), f"{method} {path}"
        assert scope in refused.json()["detail"]


async def test_every_route_is_open_to_its_own_scope_and_to_admin(api):
    protected = [item for item in operations(api.app) if item[2]]
    for method, path, scopes in protected:
        for granted in ((scopes[0],), ("admin",)):
            answer = await api(method, address(path), by="own", scopes=granted, json=None if method == "GET" else {})
            assert answer.status_code not in {401, 403, 500}, f"{method} {path}: {answer.text}"


async def test_a_key_that_is_not_ours_is_invalid(api):
    good = await api.key("ann")
    wrong = [
        "nonsense",
        good[:-1],
        good[:-1] + ("0" if good[-1] != "0" else "1"),
        good.replace("ota_live", "ota_test"),
        good.replace(good.split("_")[2], "0" * 26),
    ]
    for key in wrong:
        answer = await api("GET", "/v1/campaigns", key=key)
        assert (answer.status_code, answer.json()["code"]) == (401, "auth.key.invalid"), key
    basic = await api("GET", "/v1/campaigns", key="", headers={"Authorization": f"Basic {good}"})
    assert basic.json()["code"] == "auth.key.invalid"


async def test_a_revoked_key_ends_at_once(api):
    key = await api.key("ann")
    listed = await api.ok("GET", "/v1/api-keys", by="root", scopes=("admin",))
    mine = next(item for item in listed["items"] if item["name"] == "ann")
    assert "secret" not in str(listed)
    assert (await api("DELETE", f"/v1/api-keys/{mine['key_id']}", by="root", scopes=("admin",))).status_code == 204
    refused = await api("GET", "/v1/campaigns", key=key)
    assert (refused.status_code, refused.json()["code"]) == (401, "auth.key.expired")
    again = await api("DELETE", f"/v1/api-keys/{mine['key_id']}", by="root", scopes=("admin",))
    assert again.status_code == 204


async def test_a_key_works_until_it_expires(api, monkeypatch):
    key = await api.key("ann")
    assert (await api("GET", "/v1/campaigns", key=key)).status_code == 200
    later = api.services.clock() + 367 * 86_400_000
    monkeypatch.setattr(api.services.keys, "_now", lambda: later)
    assert (await api("GET", "/v1/campaigns", key=key)).json()["code"] == "auth.key.expired"


async def test_a_created_key_works_with_its_scopes_and_is_stored_hashed(api):
    body = {"name": "robot", "scopes": ["campaign:read"], "expires_in_days": 1}
    made = await api.ok("POST", "/v1/api-keys", by="root", scopes=("admin",), json=body)
    assert (await api("GET", "/v1/campaigns", key=made["key"])).status_code == 200
    assert (await api("GET", "/v1/devices", key=made["key"])).status_code == 403
    secret = made["key"].split("_")[3][:40]
    stored = await api.value("SELECT string_agg(data::text, ' ') FROM event_log")
    stored += await api.value("SELECT string_agg(k::text, ' ') FROM api_key k")
    assert secret not in stored


@pytest.mark.parametrize(
    "body",
    [
        {"name": "gate", "scopes": ["admin"]},
        {"name": "a b", "scopes": ["admin"]},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["everything"]},
    ],
)
async def test_a_key_that_cannot_be(api, body):
    refused = await api("POST", "/v1/api-keys", by="root", scopes=("admin",), json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "auth.key.request")
