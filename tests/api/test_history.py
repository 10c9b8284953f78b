"""The past through the API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.adapters.sql.engine import driver
from tests.api.test_bad_input import problem

READ = ("campaign:read",)
RULES = {"halt": [{"name": "two", "test": "threshold", "scope": "campaign", "share": 0.05, "after": 40}]}


async def test_whoever_may_read_campaigns_may_ask_what_a_policy_would_have_done(api):
    campaign_id = await api.running(await api.ready())
    answer = await api.act(campaign_id, "backtest", by="eve", scopes=READ, json={"policy": RULES})
    found = answer.json()
    assert answer.status_code == 200
    assert (found["own_rules"], found["halt"], found["spared"]) == (False, None, 0)
    assert found["rules"] == [
        {
            "name": "two",
            "test": "threshold",
            "scope": "campaign",
            "halts": "campaign",
            "p0": 0.05,
            "alpha": None,
            "min_failures": 2,
        }
    ]
    assert found["actual"] == {"state": "running", "ended_at": None, "halts": [], "exposed": 0, "failures": 0}
    assert found["basis"]["events"] > 0
    own = (await api.act(campaign_id, "backtest", json={})).json()
    assert (own["own_rules"], own["false_halt_at_most"]) == (True, 0.01)
    refused = await api.act(campaign_id, "backtest", by="dan", scopes=("device:read",), json={"policy": RULES})
    problem(refused, 403, "auth.scope.missing")


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({"policy": {"halt": []}}, "plan.field.value", "/halt"),
        ({"policy": {"halt": [{"name": "x", "scope": "campaign"}]}}, "plan.field.missing", "/halt/0/p0"),
        ({"policy": {"halt": [*RULES["halt"], *RULES["halt"]]}}, "plan.name.duplicate", "/halt"),
        ({"policy": RULES, "from": 1}, "request.invalid", None),
    ],
)
async def test_a_wrong_policy_is_refused_with_every_place(api, body, code, pointer):
    campaign_id = await api.running(await api.ready())
    found = problem(await api.act(campaign_id, "backtest", json=body), 422, code)
    assert pointer is None or pointer in {error["pointer"] for error in found["errors"]}


async def test_rules_that_cannot_be_replayed_and_campaigns_without_a_past_are_refused(api):
    release_id = await api.ready()
    campaign_id = await api.running(release_id)
    body = {"policy": {"halt": [{"name": "slow", "test": "canary-vs-holdback"}]}}
    problem(await api.act(campaign_id, "backtest", json=body), 422, "backtest.rule.unsupported")
    approved = await api.approved(release_id)
    problem(await api.act(approved, "backtest", json={}), 409, "backtest.not_launched")
    problem(await api.act("cmp_x", "backtest", json={}), 404, "campaign.not_found")


async def test_the_fleet_of_a_time_is_counted_and_is_the_same_whenever_it_is_asked(api):
    await api.running(await api.ready())
    async with driver(api.engine) as conn:
        # As if the fleet had been registered an hour ago: nothing is said of the last minute.
        await conn.execute("UPDATE device SET registered_at = registered_at - 3600000")
    at = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    found = await api.ok("GET", "/v1/fleet/as-of", params={"at": at}, by="eve", scopes=READ)
    assert [(each["source"], each["devices"]) for each in found["ran"]] == [("unknown", 50), ("unknown", 50)]
    assert (found["devices"], found["campaigns"], found["other"]) == (100, [], 0)
    assert await api.ok("GET", "/v1/fleet/as-of", params={"at": at}) == found
    device = await api.ok("GET", "/v1/devices/dev-0001", params={"as_of": at}, by="dan", scopes=("device:read",))
    assert device["ran"] == {"source": "unknown", "release_id": None, "version": None, "digest": None}
    assert (device["device_id"], device["assignments"]) == ("dev-0001", [])
    assert "token_issued" in await api.ok("GET", "/v1/devices/dev-0001")


async def test_a_time_that_is_none_or_too_young_is_refused(api):
    await api.ready()
    now = datetime.now(UTC).isoformat()
    problem(await api("GET", "/v1/fleet/as-of", params={"at": now}), 409, "history.not_heard")
    problem(await api("GET", "/v1/devices/dev-0001", params={"as_of": now}), 409, "history.not_heard")
    for wrong in ("yesterday", "2026-11-21T02:30:00", "", "0001-01-01T00:00:00+01:00"):
        problem(await api("GET", "/v1/fleet/as-of", params={"at": wrong}), 422, "request.invalid")
    problem(await api("GET", "/v1/fleet/as-of"), 422, "request.invalid")
    long_ago = {"as_of": "2001-01-01T00:00:00Z"}
    problem(await api("GET", "/v1/devices/dev-0001", params=long_ago), 404, "device.not_found")
