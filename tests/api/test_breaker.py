"""The breaker over HTTP: what a plan says of it, and what it does."""

from __future__ import annotations

import pytest

from orchestrator.app.breaker import Breakers
from tests.api.conftest import plan
from tests.support.world import T0, World


@pytest.mark.parametrize("given", ["off", None, False])
async def test_a_plan_may_do_without(api, given):
    release_id = await api.ready()
    made = await api("POST", "/v1/campaigns", json={"name": "n", "plan": plan(release_id, breaker=given)})
    assert (made.status_code, made.json()["breaker"], made.json()["plan"]["breaker"]) == (201, None, None)
    preview = await api.ok("GET", f"/v1/campaigns/{made.json()['campaign_id']}/preview")
    assert preview["breaker"] is None


async def test_a_preview_shows_its_numbers(api):
    release_id = await api.ready()
    made = await api("POST", "/v1/campaigns", json={"name": "n", "plan": plan(release_id, breaker={"share": 0.25})})
    preview = await api.ok("GET", f"/v1/campaigns/{made.json()['campaign_id']}/preview")
    assert preview["breaker"] == {
        "share": 0.25,
        "minimum": 20,
        "window": 600_000,
        "cool_down": 300_000,
        "probes": 10,
        "reopens_at": 3,
        "stale": 300_000,
    }


async def test_a_wrong_share_says_where(api):
    release_id = await api.ready()
    refused = await api("POST", "/v1/campaigns", json={"name": "n", "plan": plan(release_id, breaker={"share": 2})})
    assert (refused.status_code, refused.json()["code"]) == (422, "plan.breaker.share")
    assert refused.json()["errors"][0]["pointer"] == "/breaker/share"


async def test_a_campaign_says_what_its_breaker_does_and_why(api, engine):
    world = World(engine)
    await world.setup()
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 40, T0)
    path = f"/v1/campaigns/{campaign.campaign_id}"
    before = (await api.ok("GET", path))["breaker"]
    assert (before["stage"], before["openings"], before["cause"], before["outcomes"]) == ("closed", 0, None, None)
    for index, item in enumerate((await world.offered(campaign.campaign_no)).items()):
        blame = "integrity" if index < 5 else "transport"
        world.fact(*item, "device.update.failed", T0 + 5, failure_class=blame)
    await world.project()
    await Breakers(world.store, world.decisions).look(campaign.campaign_id, T0 + 1_000, T0 + 1_000)
    shown = await api.ok("GET", path)
    assert shown["state"] == "running"
    held = shown["breaker"]
    assert (held["stage"], held["cause"], held["openings"], held["setbacks"]) == ("open", "failures", 1, 1)
    assert (held["outcomes"], held["failures"], held["classes"]) == (40, 40, {"integrity": 5, "transport": 35})
    assert held["until"] > held["changed_at"]
    events = await api.ok("GET", f"{path}/events")
    assert (events["items"][-1]["type"], events["items"][-1]["meta"]["actor"]) == ("BreakerOpened", "breaker")
